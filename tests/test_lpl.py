"""LPL against loops written from its equations, its duality with LPG, and the step that threads a stateful loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import lpg_jax
from lpg_jax.analysis import first_order, lpl_as_lpg
from lpg_jax.losses import cross_entropy, logit_adjusted, lpl, lpl_long_tail
from lpg_jax.statistics import ratios

CLASSES, BATCH, ABSENT, SINGLE = 5, 14, 3, 4
COUNTS = [400, 200, 60, 20, 8]
MARGIN = np.array([-0.5, 0.3, 0.0, 0.2, 0.4])


def by_table(stats):
    """A split without statistics: classes 0 dampened, 2 left alone, the rest amplified."""
    return jnp.asarray(MARGIN, stats.class_accuracy.dtype)


@pytest.fixture(autouse=True)
def wide(strict):
    with jax.enable_x64(True):
        yield


def draw(seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=BATCH)  # classes 0, 1, 2; one example of class 4, none of class 3
    labels[5] = SINGLE
    return jnp.asarray(2 * rng.normal(size=(BATCH, CLASSES))), jnp.asarray(labels)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def reference(logits, weights, sign, epsilon, alpha):
    """delta [C, C] in loops. weights t [B, C] are 0 or 1 for hard labels."""
    z, t = np.asarray(logits), np.asarray(weights)
    delta = np.zeros((z.shape[1], z.shape[1]))
    number = [int(np.floor(e / alpha + 1e-9)) for e in epsilon]
    for k in range(max(number)):
        old = delta.copy()
        for c in range(z.shape[1]):
            if k < number[c] and t[:, c].sum() > 0:
                step = np.zeros(z.shape[1])
                for j in range(len(z)):
                    step += t[j, c] * (softmax(z[j] + t[j] @ old) - t[j])
                delta[c] += sign[c] * alpha / t[:, c].sum() * step
    return delta


@jax.jit
def _walk(logits, labels, mask, epsilon, slope, alpha):
    loss = lpl(by_table, lpg_jax.varied(epsilon, slope), alpha)
    return loss.loss_args(loss.init(CLASSES, dtype=logits.dtype), logits=logits, labels=labels, mask=mask)[
        "class_shift"
    ]


def walk(logits, labels, epsilon, alpha, mask=None, slope=0.0):
    """delta under `by_table`, compiled once for all bounds and steps."""
    return _walk(logits, labels, np.ones(BATCH, bool) if mask is None else mask, epsilon, slope, alpha)


@jax.jit
def sums_of(state, logits, labels, mask):
    return SHIFTED.sums(state, logits=logits, labels=labels, mask=mask)


SHIFTED = lpl(by_table, lpg_jax.fixed(0.3))  # the loss itself knows neither bound nor steps


def shift_of(loss, logits, labels, state=None, **more):
    state = loss.init(CLASSES, dtype=jnp.float64) if state is None else state
    return loss.loss_args(state, logits=logits, labels=labels, **more)["class_shift"]


@pytest.mark.parametrize("soft", [False, True])
def test_against_loops(soft):
    """Every class has a number of steps of its own: floor((0.1 + 0.5 |margin|) / 0.04) = 8, 6, 0, 5, 7."""
    logits, labels = draw()
    t = np.eye(CLASSES)[np.asarray(labels)]
    if soft:
        t = 0.7 * t + 0.3 * t[::-1]
    epsilon = 0.1 + 0.5 * np.abs(MARGIN)
    expected = reference(logits, t, np.sign(MARGIN), epsilon, 0.04)
    targets = jnp.asarray(t) if soft else labels
    shift = walk(logits, targets, 0.1, 0.04, slope=0.5)
    np.testing.assert_allclose(shift, expected, atol=1e-12)
    p = softmax(np.asarray(logits) + t @ expected)
    losses, pull = jax.vjp(lambda z: SHIFTED(z, targets, class_shift=shift), logits)
    np.testing.assert_allclose(losses, -(t * np.log(p)).sum(-1), atol=1e-12)
    np.testing.assert_allclose(pull(jnp.ones(BATCH))[0], p - t, atol=1e-12)
    lengths = np.linalg.norm(expected, axis=1)
    assert (lengths[[0, 1, 4]] > 0.01).all()
    assert (lengths < np.sqrt(2) * epsilon).all()
    np.testing.assert_array_equal(shift[np.array([2, ABSENT])], 0)
    if not soft:
        np.testing.assert_allclose(walk(logits, jnp.asarray(t), 0.1, 0.04, slope=0.5), shift, atol=1e-15)


def test_positive_raises_and_negative_lowers_the_loss():
    logits, labels = draw(1)
    change = SHIFTED(logits, labels, class_shift=walk(logits, labels, 0.3, 0.05)) - cross_entropy(logits, labels)
    mean = np.array([change[labels == c].mean() for c in (0, 1, 2, SINGLE)])
    assert mean[0] < -0.01
    assert mean[1] > 0.01
    assert mean[3] > 0.01
    np.testing.assert_array_equal(change[labels == 2], 0)


def test_no_bound_is_cross_entropy_to_the_bit():
    """eps = 0, and eps below one step."""
    logits, labels = draw(2)
    for epsilon in (0.0, 0.0099):
        shift = walk(logits, labels, epsilon, 0.01)
        np.testing.assert_array_equal(shift, 0)
    pairs = zip(*(jax.value_and_grad(lambda z, f=f: f(z).sum())(logits) for f in (
        lambda z: SHIFTED(z, labels, class_shift=shift), lambda z: cross_entropy(z, labels))), strict=True)  # fmt: skip
    for got, expected in pairs:
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_number_of_steps(dtype):
    """0.3 / 0.1 is three steps, though it is 2.9999999999999996; 0.299 / 0.1 is two."""
    logits, labels = draw()
    logits = logits.astype(dtype)
    for epsilon, steps in ((0.3, 3), (0.299, 2)):
        expected = reference(logits, np.eye(CLASSES)[labels], np.sign(MARGIN), [steps / 10] * CLASSES, 0.1)
        found = walk(logits, labels, epsilon, 0.1)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, atol=1e-6 if dtype == jnp.float32 else 1e-12)


def test_duality():
    """LPL's parameter gradient is LPG's with d = softmax(z + delta) - softmax(z); to first order with an error that
    falls with the square of the shift (Eq. 22, 23)."""
    logits, labels = draw(3)
    features = jnp.asarray(np.random.default_rng(3).normal(size=(BATCH, 4)))
    kernel = jnp.linalg.lstsq(features, logits)[0]
    loss, shift = SHIFTED, walk(features @ kernel, labels, 0.5, 0.05)

    def gradient(loss_fn, tx, loss_args=None):
        apply = lpg_jax.perturbed(loss_fn, tx)
        state = tx.init(jnp.zeros(CLASSES))
        return jax.grad(lambda w: apply(features @ w, labels, state, loss_args=loss_args)[0].mean())(kernel)

    forward = gradient(loss, lpl_as_lpg(0 * shift), {"class_shift": shift})
    np.testing.assert_allclose(forward, gradient(cross_entropy, lpl_as_lpg(shift)), atol=1e-14)
    assert np.abs(forward - gradient(cross_entropy, lpl_as_lpg(0 * shift))).max() > 1e-3

    rows = jax.grad(lambda z, s: loss(z, labels, class_shift=s).sum())
    errors = [
        np.linalg.norm(rows(logits, s * shift) - rows(logits, 0 * shift) - first_order(logits, s * shift[labels]))
        for s in (1.0, 0.5, 0.25)
    ]
    assert 3.5 < errors[0] / errors[1] < 4.5
    assert 3.7 < errors[1] / errors[2] < 4.3


def test_gradients():
    """The shift is a constant for the gradient; as one of loss_args it has its plain gradient."""
    logits, labels = draw(4)
    loss, shift = SHIFTED, walk(logits, labels, 0.3, 0.1)
    frozen = jax.grad(lambda z: loss(z, labels, class_shift=shift).sum())(logits)
    through = jax.grad(lambda z: loss(z, labels, class_shift=walk(z, labels, 0.3, 0.1)).sum())(logits)
    np.testing.assert_array_equal(frozen, through)
    tx = lpg_jax.lpg(lpg_jax.by_frequency(COUNTS), lpg_jax.fixed(0.0))
    apply, state = lpg_jax.perturbed(loss, tx), tx.init(jnp.zeros(CLASSES))

    @jax.jit
    def value(z, s):
        return apply(z, labels, state, loss_args={"class_shift": s})[0].sum()

    rng, step = np.random.default_rng(4), 1e-6
    point = np.asarray(logits), np.asarray(shift)
    gradients = jax.jit(jax.grad(value, argnums=(0, 1)))(*point)
    for k, gradient in enumerate(gradients):
        direction = [np.zeros(logits.shape), np.zeros(shift.shape)]
        direction[k] = rng.normal(size=gradient.shape)
        ends = [value(*(x + sign * step * d for x, d in zip(point, direction, strict=True))) for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(np.vdot(gradient, direction[k]), slope, rtol=1e-7)
        assert abs(slope) > 0.01


def test_what_stays_out():
    """Masked examples, labels outside [0, C) and rows that are not finite change neither shift nor statistics."""
    logits, labels = (np.array(part) for part in draw(5))
    steps = {"epsilon": 0.3, "alpha": 0.1}
    ten = np.arange(BATCH) < 10
    expected = reference(logits[:10], np.eye(CLASSES)[labels[:10]], np.sign(MARGIN), [0.3] * CLASSES, 0.1)
    np.testing.assert_allclose(walk(logits, labels, **steps, mask=ten), expected, atol=1e-14)
    state = SHIFTED.init(CLASSES, dtype=jnp.float64)
    clean = sums_of(state, logits, labels, ten)
    np.testing.assert_allclose(clean.count, np.bincount(labels[:10], minlength=CLASSES))

    logits[10:12], logits[12, 0], labels[12], labels[13] = np.nan, np.inf, 1, CLASSES + 2
    mask = np.arange(BATCH) != 10
    np.testing.assert_allclose(walk(logits, labels, **steps, mask=mask), expected, atol=1e-14)
    for got, wanted in zip(*map(jax.tree.leaves, (sums_of(state, logits, labels, mask), clean)), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-14)
    losses = SHIFTED(jnp.asarray(logits), jnp.asarray(labels), class_shift=jnp.asarray(expected))
    assert losses[13] == 0
    assert np.isnan(losses[11])
    soft = np.eye(CLASSES + 3)[labels][:, :CLASSES]
    soft[10] = np.nan
    np.testing.assert_allclose(walk(logits, soft, **steps, mask=mask & (labels < CLASSES)), expected, atol=1e-14)

    state = SHIFTED.commit(state, clean)
    nothing = np.zeros(BATCH, bool)
    np.testing.assert_array_equal(walk(logits, labels, **steps, mask=nothing), 0)
    new = SHIFTED.commit(state, sums_of(state, logits, labels, nothing))
    for got, old in zip(jax.tree.leaves(new), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(got, old)


def test_a_class_that_is_ruled_out():
    """A logit of -inf is p = 0 with and without a shift."""
    logits, labels = draw(5)
    shift = walk(logits.at[:, ABSENT].set(-jnp.inf), labels, 0.3, 0.1)
    assert np.isfinite(shift).all()
    assert np.any(shift)
    np.testing.assert_array_equal(shift[:, ABSENT], 0)


def test_statistics_are_those_of_lpg():
    """q_c is read as it stood before the batch, is LPG's, and a class that is absent keeps it to the bit."""
    loss = lpl(lpg_jax.by_accuracy(0.5), lpg_jax.fixed(0.3), 0.1, decay=0.8)
    tx = lpg_jax.lpg(lpg_jax.by_accuracy(0.5), lpg_jax.fixed(0.3), decay=0.8)
    apply = lpg_jax.perturbed(cross_entropy, tx)
    state, logit_state = loss.init(CLASSES, dtype=jnp.float64), tx.init(jnp.zeros(CLASSES))
    logits, labels = draw(6)
    solve = jax.jit(lambda state, z, y: shift_of(loss, z, y, state))
    update = jax.jit(lambda z, y, state: apply(z, y, state)[1])
    np.testing.assert_array_equal(solve(state, logits, labels), 0)
    for seed in (6, 7, 8):
        logits, labels = draw(seed)
        labels = jnp.where(labels == 1, 2, labels) if seed == 8 else labels
        first = np.arange(BATCH) < 5
        sums = jax.tree.map(jnp.add, *(sums_of(state, logits, labels, part) for part in (first, ~first)))
        old, state = state, loss.commit(state, sums)
        logit_state = update(logits, labels, logit_state)
    stats = ratios(state.sums, keep_mean=False)
    np.testing.assert_allclose(stats.class_accuracy, logit_state.stats.class_accuracy, atol=1e-12)
    np.testing.assert_allclose(stats.class_grad_variance, logit_state.stats.class_grad_variance, atol=1e-12)
    assert 0 < stats.class_accuracy[0] < 1
    for new, before in zip(jax.tree.leaves(state), jax.tree.leaves(old), strict=True):
        np.testing.assert_array_equal(new[jnp.array([1, ABSENT])], before[jnp.array([1, ABSENT])])
        assert new.dtype == before.dtype
    moved = np.any(np.asarray(solve(state, *draw(9))) != 0, axis=1)
    np.testing.assert_array_equal(moved, [True, True, True, False, True])


@pytest.mark.slow
def test_devices():
    """Two shards under an axis find the shift of the whole batch, and their sums add up to its sums."""
    logits, labels = draw(10)
    loss = lpl(by_table, lpg_jax.fixed(0.3), 0.1)
    state = loss.init(CLASSES, dtype=jnp.float64)
    mask = jnp.arange(BATCH) != 3

    def both(z, y, m, axis_name=None):
        return loss.loss_args(state, logits=z, labels=y, mask=m, axis_name=axis_name), loss.sums(
            state, logits=z, labels=y, mask=m
        )

    whole, sums = both(logits, labels, mask)
    mesh = jax.make_mesh((2,), ("shards",), axis_types=(jax.sharding.AxisType.Auto,))
    batch, every = PartitionSpec("shards"), PartitionSpec()

    def shard(z, y, m):
        args, own = both(z, y, m, "shards")
        return args["class_shift"], jax.lax.psum(own, "shards")

    found, added = jax.shard_map(shard, mesh=mesh, in_specs=(batch,) * 3, out_specs=every)(logits, labels, mask)
    np.testing.assert_allclose(found, whole["class_shift"], atol=1e-14)
    assert np.any(found)
    for got, expected in zip(jax.tree.leaves(added), jax.tree.leaves(sums), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.slow
def test_lpl_and_lpg_in_one_scan():
    """Both states are threaded through jit and scan; LPG lengthens the rows of the shifted loss by its own eps."""
    loss = lpl(lpg_jax.by_accuracy(0.5), lpg_jax.fixed(0.2), 0.1)
    tx = lpg_jax.lpg(lpg_jax.by_frequency(COUNTS), lpg_jax.fixed(0.3))
    apply = lpg_jax.perturbed(loss, tx)
    batches = jax.tree.map(lambda *parts: jnp.stack(parts), *(draw(seed) for seed in range(3)))

    def step(states, batch):
        inputs = {"logits": batch[0], "labels": batch[1]}
        args = loss.loss_args(states[0], **inputs)

        def objective(z):
            losses, logit_state = apply(z, batch[1], states[1], loss_args=args)
            return losses.sum(), logit_state

        rows, logit_state = jax.grad(objective, has_aux=True)(batch[0])
        return (loss.commit(states[0], loss.sums(states[0], **inputs)), logit_state), (args["class_shift"], rows)

    start = loss.init(CLASSES, dtype=jnp.float64), tx.init(jnp.zeros(CLASSES))
    _, (shifts, rows) = jax.jit(lambda start: jax.lax.scan(step, start, batches))(start)
    np.testing.assert_array_equal(shifts[0], 0)
    z, labels = (np.asarray(part[2]) for part in batches)
    plain = softmax(z + np.asarray(shifts[2])[labels]) - np.eye(CLASSES)[labels]
    norm = np.linalg.norm(plain, axis=-1)
    sign = np.sign(np.log(np.sqrt(COUNTS[0] * COUNTS[-1])) - np.log(COUNTS))[labels]
    np.testing.assert_allclose(np.linalg.norm(rows[2], axis=-1), np.maximum(norm + 0.3 * sign, 0), atol=1e-12)
    assert np.abs(shifts[2]).max() > 0.01


def test_base_loss():
    """LA + LPL: the walk follows the adjusted loss, which is cross-entropy at z + log pi."""
    logits, labels = draw(11)
    log_prior = jnp.log(jnp.asarray(COUNTS) / sum(COUNTS))[None]
    adjusted = lpl(by_table, lpg_jax.fixed(0.3), 0.1, base=logit_adjusted(COUNTS))
    shift = shift_of(adjusted, logits, labels)
    np.testing.assert_allclose(shift, walk(logits + log_prior, labels, 0.3, 0.1), atol=1e-12)
    np.testing.assert_allclose(adjusted(logits, labels, class_shift=shift),
                               cross_entropy(logits + log_prior + shift[labels], labels), atol=1e-12)  # fmt: skip


def test_long_tail():
    """eps + slope n_c / n_max for the head, eps + slope n_min / n_c for the tail, in any order of the classes."""
    split, bound = lpl_long_tail([10, 100, 20, 50], 2, 0.1, 0.4)
    margin = split(ratios(lpl(split, bound).init(4, dtype=jnp.float64).sums, keep_mean=False))
    np.testing.assert_array_equal(margin, [1, -1, 1, -1])
    np.testing.assert_allclose(bound(margin), [0.5, 0.5, 0.3, 0.3], atol=1e-15)
    np.testing.assert_array_equal(jnp.sign(lpl_long_tail([5, 5, 5], 1, 0.0, 1.0)[0](
        ratios(lpl(split, bound).init(3).sums, keep_mean=False))), [-1, 1, 1])  # fmt: skip


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: lpl(by_table, lpg_jax.fixed(0.3), 0.0), r"step_size=0.0: must be > 0"),
        (lambda: lpl(by_table, lpg_jax.fixed(0.3), decay=1.0), r"decay=1.0: must be >= 0 and < 1"),
        (lambda: lpl(by_table, lpg_jax.fixed(0.3), dense_limit=4).init(5), r"num_classes=5: .* raise dense_limit=4"),
        (lambda: lpl_long_tail([5, 0], 1, 0.1, 0.1), r"class_counts\[1\]=0: must be > 0"),
        (lambda: lpl_long_tail([5, 1], 3, 0.1, 0.1), r"num_head=3: must be <= 2"),
        (lambda: lpl_long_tail([5, 1], 1, -0.1, 0.1), r"epsilon=-0.1: must be >= 0"),
        (lambda: shift_of(lpl(by_table, lpg_jax.fixed(0.3)), None, jnp.zeros(2, int)), r"logits=None: .* pass logits="),
        (lambda: shift_of(lpl(by_table, lpg_jax.fixed(0.3)), jnp.zeros((2, 5)), None), r"labels=None: .* pass labels="),
        (lambda: shift_of(lpl(by_table, lpg_jax.fixed(0.3)), jnp.zeros((2, 4)), jnp.zeros(2, int)), r"shape=\(4,\)"),
        (
            lambda: shift_of(lpl(by_table, lpg_jax.fixed(0.3)), jnp.zeros((2, 5)), jnp.zeros(2, int), mask=jnp.ones(3)),
            r"mask.shape=\(3,\): must be \(2,\)",
        ),
        (
            lambda: lpl(by_table, lpg_jax.fixed(0.3))(jnp.zeros((2, 5)), jnp.zeros(2, int), class_shift=jnp.zeros(5)),
            r"class_shift.shape=\(5,\): must be \(5, 5\)",
        ),
    ],
)
def test_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_functions_are_asked_for():
    with pytest.raises(TypeError, match=r"split=0.5: must be a function"):
        lpl(0.5, lpg_jax.fixed(0.3))
    with pytest.raises(TypeError, match="class_shift"):
        lpl(by_table, lpg_jax.fixed(0.3))(jnp.zeros((1, 5)), jnp.zeros(1, int))
