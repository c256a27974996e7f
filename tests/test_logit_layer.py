"""`perturbed` and `tap`: value, gradient, what reaches tx, reductions, sinks, loss arguments."""

import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import operators
import optax
import pytest

import lpg_jax

pytestmark = pytest.mark.usefixtures("strict")
cross_entropy = lpg_jax.losses.cross_entropy


def make(epsilon=0.3, **options):
    tx = lpg_jax.lpg(lpg_jax.by_frequency(laws.COUNTS), lpg_jax.fixed(epsilon), **options)
    return tx, tx.init(jnp.zeros(laws.CLASSES))


def grad(function, *arguments, **options):
    """jax.grad, compiled as a whole: operation by operation takes ten times as long."""
    return jax.jit(jax.grad(function, **options))(*arguments)


@pytest.mark.parametrize("batch", [1, 8, 128])
def test_identity_is_the_plain_loss(batch):
    """Bit-identical in value and gradient, under sum and (B a power of two) mean."""
    d = laws.draw(1, batch=batch)
    loss_fn = lpg_jax.perturbed(cross_entropy, optax.identity())
    for reduce in (jnp.sum, jnp.mean):
        ours = jax.value_and_grad(lambda z, reduce=reduce: reduce(loss_fn(z, d.labels, optax.EmptyState())[0]))
        plain = jax.value_and_grad(lambda z, reduce=reduce: reduce(cross_entropy(z, d.labels)))
        laws.equal(jax.jit(ours)(d.logits), jax.jit(plain)(d.logits))


@pytest.mark.parametrize("soft", [False, True])
def test_zero_epsilon_is_the_plain_loss(soft):
    d = laws.draw(2, batch=16)
    labels = jax.nn.one_hot(d.labels, laws.CLASSES) * 0.7 + 0.06 if soft else d.labels
    tx, state = make(epsilon=0.0)
    loss_fn = lpg_jax.perturbed(cross_entropy, tx)
    ours = jax.jit(jax.value_and_grad(lambda z: loss_fn(z, labels, state)[0].mean()))(d.logits)
    laws.equal(ours, jax.jit(jax.value_and_grad(lambda z: cross_entropy(z, labels).mean()))(d.logits))


def test_loss_args_get_their_plain_gradient():
    """A shift inside the loss: the loss argument's gradient is the plain one, the logits' is edited."""
    tx, state = make()
    d, shift = laws.draw(3), jnp.linspace(-1, 1, laws.CLASSES)

    def shifted(logits, labels, shift, scale):
        return cross_entropy(logits * scale + shift[None], labels)

    loss_fn = lpg_jax.perturbed(shifted, tx)
    mask = jnp.arange(laws.BATCH) > 2
    wild = jnp.where(mask[:, None], d.logits, jnp.nan)

    def ours(logits, shift):
        losses, _ = loss_fn(logits, d.labels, state, mask=mask, loss_args={"shift": shift, "scale": 2.0})
        return losses.sum()

    def plain(logits, shift):
        return jnp.sum(shifted(logits[3:], d.labels[3:], shift, 2.0))

    (value, (by_logits, by_shift)) = jax.jit(jax.value_and_grad(ours, argnums=(0, 1)))(wild, shift)
    plain_value, (_, plain_shift) = jax.jit(jax.value_and_grad(plain, argnums=(0, 1)))(d.logits, shift)
    np.testing.assert_allclose(value, plain_value, rtol=1e-6)
    np.testing.assert_allclose(by_shift, plain_shift, atol=1e-6)
    rows = 2.0 * laws.gradient_rows(d._replace(logits=d.logits * 2.0 + shift[None]))
    edited, _ = laws.update(tx, d, state, rows, mask=mask)  # tx sees the raw logits
    np.testing.assert_allclose(by_logits, edited, atol=1e-6)


def test_tx_sees_the_raw_logits():
    """Accuracy comes from the model's logits, not from those after a forward map."""
    tx, state = make()
    d = laws.draw(4)
    loss_fn = lpg_jax.perturbed(lambda z, y: cross_entropy(z + 100 * jax.nn.one_hot(y, laws.CLASSES), y), tx)
    _, new = jax.jit(loss_fn)(d.logits, d.labels, state)
    right = np.asarray(jnp.argmax(d.logits, axis=-1)) == np.asarray(d.labels)
    np.testing.assert_allclose(new.sums.hits.sum(), 0.01 * right.sum(), rtol=1e-5)


def test_other_arguments_get_no_gradient():
    """features and head_kernel reach tx under stop_gradient: the kernel's gradient is features^T rows alone."""
    tx = lpg_jax.lpg_pgd(lpg_jax.by_frequency(laws.COUNTS), lpg_jax.fixed(0.3), metric="head")
    state, d = tx.init(jnp.zeros(laws.CLASSES)), laws.draw(5)
    loss_fn = lpg_jax.perturbed(cross_entropy, tx)

    def loss(kernel):
        logits = d.features @ kernel
        return loss_fn(logits, d.labels, state, features=d.features, head_kernel=kernel)[0].sum(), logits

    gradient, logits = grad(loss, d.head_kernel, has_aux=True)
    edited, _ = laws.update(tx, d._replace(logits=logits), state)
    np.testing.assert_allclose(gradient, d.features.T @ edited, atol=1e-5)


@pytest.mark.parametrize("driver", ["perturbed", "tap"])
def test_masked_rows_reach_no_transformation(driver):
    """Also one that looks at the whole batch, such as a clip by its norm, and whatever labels and logits hold."""
    d, mask = laws.draw(15, batch=8), jnp.arange(8) < 5
    soft = jnp.where(mask[:, None], jax.nn.one_hot(d.labels, laws.CLASSES), jnp.nan)
    wild = jnp.where(mask[:, None], d.logits, jnp.nan)
    tx = optax.clip_by_global_norm(1.0)
    state = tx.init(d.logits)

    def loss(logits, labels, mask):
        if driver == "perturbed":
            return lpg_jax.perturbed(cross_entropy, tx)(logits, labels, state, mask=mask)[0].sum()
        tapped = lpg_jax.tap(tx, "sum")(logits, labels, state, (), mask=mask)
        safe = jnp.where(mask[:, None], tapped, 0)
        return jnp.where(mask, cross_entropy(safe, jnp.nan_to_num(labels)), 0).sum()

    expected = grad(loss, d.logits[:5], jax.nn.one_hot(d.labels[:5], laws.CLASSES), mask[:5])
    gradient = grad(loss, wild, soft, mask)
    np.testing.assert_allclose(gradient[:5], expected, atol=1e-6)
    laws.equal(gradient[5:], np.zeros((3, laws.CLASSES)))


def test_masked_memberships_do_not_reach_loss_arguments():
    tx, state = make()
    d, mask = laws.draw(16), jnp.arange(laws.BATCH) < 9
    soft = jnp.where(mask[:, None], jax.nn.one_hot(d.labels, laws.CLASSES), jnp.nan)
    loss_fn = lpg_jax.perturbed(lambda z, y, shift: cross_entropy(z + shift[None], y), tx)
    shift = jnp.zeros(laws.CLASSES)
    gradient = grad(lambda s: loss_fn(d.logits, soft, state, mask=mask, loss_args={"shift": s})[0].sum(), shift)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("number", [0, 1])
def test_tap_with_a_mask_and_a_loss_without(number):
    """Masked rows get cotangent 0 even if the loss counts them."""
    tx, state = make()
    d, mask = laws.draw(17), jnp.arange(laws.BATCH) < number
    d = d._replace(labels=d.labels.at[0].set(4))  # of an amplified class
    sink, tapped = lpg_jax.zero_sums(state), lpg_jax.tap(tx, "mean")
    gradient = grad(lambda z: cross_entropy(tapped(z, d.labels, state, sink, mask=mask), d.labels).mean(), d.logits)
    gradient = np.asarray(gradient)
    laws.equal(gradient[number:], np.zeros((laws.BATCH - number, laws.CLASSES)))
    assert np.any(gradient[:number]) == (number > 0)


@pytest.mark.parametrize(
    "name",
    ["optimized_gradient_clipping", "density_harmonizing", "equalization", "sample_lpg", "class_balanced_deferred"],
)
def test_zero_sums_tell_beforehand_whether_sums_can_be_committed(name):
    """Also of the shapes alone, before anything is allocated."""
    row = jax.ShapeDtypeStruct((laws.CLASSES,), jnp.float32)
    with pytest.raises(TypeError, match="State: a transformation with a state of its own; tap, zero_sums"):
        lpg_jax.zero_sums(jax.eval_shape(operators.build(name).init, row))
    assert len(lpg_jax.zero_sums(jax.eval_shape(make()[0].init, row))) == 1
    assert lpg_jax.zero_sums(jax.eval_shape(operators.build("class_balanced").init, row)) == ()


NOT_ZERO_SUM = {"equalization", "row_noise"}  # entry by entry


@pytest.mark.slow
@pytest.mark.parametrize("name", operators.OPERATORS)
def test_implied_targets(name):
    """A zero-sum h~ is the row of the cross-entropy against t = p - h~, which sums to 1; any other is not."""
    tx, d = operators.build(name), laws.draw(21)
    arguments = {"class_weights": jnp.asarray(np.random.default_rng(0).uniform(0.5, 2, d.logits.shape), jnp.float32)}
    state = tx.init(jnp.zeros(laws.CLASSES))
    for seed in (21, 22, 21):  # what has a memory acts by then
        d = laws.draw(seed)
        edited, state = tx.update(laws.gradient_rows(d), state, None, **laws.keywords(d), **arguments)
    targets = jax.nn.softmax(d.logits) - edited
    gradient = jax.grad(lambda z: cross_entropy(z, targets).sum())(d.logits)
    zero_sum = name not in NOT_ZERO_SUM
    assert np.allclose(targets.sum(-1), 1, rtol=0, atol=3e-6) == zero_sum
    assert np.allclose(gradient, edited, rtol=0, atol=1e-5) == zero_sum
    assert np.abs(edited - laws.gradient_rows(d)).max() > 1e-3


def test_commit_moves_the_schedules_of_stateless_chains():
    tx = optax.inject_hyperparams(optax.scale)(step_size=optax.linear_schedule(1.0, 0.0, 10))
    state = tx.init(jnp.zeros(laws.CLASSES))
    assert int(lpg_jax.commit(tx, state, ()).count) == 1


def test_a_class_that_is_ruled_out():
    """A logit of -inf: the loss of the other labels and its gradient are finite."""
    logits, labels = jnp.array([[0.0, 1.0, -jnp.inf]]), jnp.array([1])
    for target in (labels, jax.nn.one_hot(labels, 3)):
        both = jax.jit(jax.value_and_grad(lambda z, target=target: cross_entropy(z, target).sum()))
        value, gradient = both(logits)
        np.testing.assert_allclose(value, np.log1p(np.exp(-1)), rtol=1e-6)
        np.testing.assert_allclose(gradient, [[1 / (1 + np.e), -1 / (1 + np.e), 0]], rtol=1e-5)


def test_second_derivatives_take_rows_for_constants():
    """What the docstring says of them."""
    d, loss_fn = laws.draw(18), lpg_jax.perturbed(cross_entropy, optax.identity())
    first = jax.grad(lambda z: loss_fn(z, d.labels, ())[0].sum())
    laws.equal(grad(lambda z: jnp.sum(jnp.square(first(z))), d.logits), np.zeros_like(d.logits))


def test_a_threshold_schedule_acts_from_the_next_step():
    """tau jumps from 0 to 1 at step 1; the margins of step 1 were made at step 0."""

    def factory(tau):
        return lpg_jax.lpg(lpg_jax.by_frequency(laws.COUNTS, tau), lpg_jax.fixed(0.1))

    tx = optax.inject_hyperparams(factory)(tau=lambda count: jnp.where(count < 1, 0.0, 1.0))
    state, d, signs = tx.init(jnp.zeros(laws.CLASSES)), laws.draw(19), []
    for _ in range(3):
        signs.append(np.sign(np.asarray(optax.tree_utils.tree_get(state, "class_margin"))).sum())
        _, state = laws.update(tx, d, state)
    assert signs[0] < 0
    assert signs[1] < 0 < signs[2]


def test_chain_order_and_foreign_transformations():
    """Rows pass the chain in order, optax's own transformations included."""
    tx, _ = make()
    chained = optax.chain(optax.scale(2.0), tx, optax.trace(0.5))
    state, d = chained.init(jnp.zeros((laws.BATCH, laws.CLASSES))), laws.draw(6)
    loss_fn = lpg_jax.perturbed(cross_entropy, chained)
    gradient, state = grad(
        lambda z: (lambda out, s: (out.sum(), s))(*loss_fn(z, d.labels, state)), d.logits, has_aux=True
    )
    doubled, _ = laws.update(tx, d, tx.init(jnp.zeros(laws.CLASSES)), 2 * laws.gradient_rows(d))
    np.testing.assert_allclose(gradient, doubled, atol=1e-6)
    assert optax.tree_utils.tree_get(state, "trace").shape == (laws.BATCH, laws.CLASSES)


def test_what_is_no_transformation():
    for wrap in (lambda: lpg_jax.perturbed(cross_entropy, 0.3), lambda: lpg_jax.tap(0.3)):
        with pytest.raises(TypeError, match=r"tx=0\.3: must be an optax transformation"):
            wrap()


def test_perturbed_errors():
    tx, state = make()
    d = laws.draw(7)
    with pytest.raises(ValueError, match=r"loss_fn returned shape \(\): must be \(14,\), one loss per example"):
        lpg_jax.perturbed(lambda z, y: cross_entropy(z, y).mean(), tx)(d.logits, d.labels, state)
    with pytest.raises(ValueError, match=r"labels\.shape=\(3,\): must be \(14,\)"):
        lpg_jax.perturbed(cross_entropy, tx)(d.logits, d.labels[:3], state)
    with pytest.raises(ValueError, match=r"mask\.shape=\(3,\): must be \(14,\)"):
        lpg_jax.perturbed(cross_entropy, tx)(d.logits, d.labels, state, mask=jnp.ones(3))
    with pytest.raises(ValueError, match="sum to 1"):
        lpg_jax.perturbed(cross_entropy, tx)(d.logits, jnp.ones_like(d.logits), state)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda z: lpg_jax.perturbed(cross_entropy, tx)(z, d.labels, state)[0], (d.logits,), (d.logits,))
    chained = optax.chain(tx, optax.trace(0.5))
    with pytest.raises(TypeError, match="TraceState: a transformation with a state of its own"):
        lpg_jax.perturbed(cross_entropy, chained)(d.logits, d.labels, chained.init(d.logits), commit=False)


@pytest.mark.parametrize("reduction", ["mean", "sum", 3.5])
def test_tap_undoes_and_redoes_the_reduction(reduction):
    tx, state = make()
    d, sink = laws.draw(8), lpg_jax.zero_sums(make()[1])
    number = {"mean": laws.BATCH, "sum": 1, 3.5: 3.5}[reduction]
    tapped = lpg_jax.tap(tx, reduction)
    gradient = grad(lambda z: jnp.sum(cross_entropy(tapped(z, d.labels, state, sink), d.labels)) / number, d.logits)
    edited, _ = laws.update(tx, d, state)
    np.testing.assert_allclose(gradient * number, edited, atol=1e-6)


def test_tap_leaves_untouched_rows_to_the_bit():
    tx, state = make(epsilon=0.0)
    d, tapped = laws.draw(9), lpg_jax.tap(tx, "mean")
    sink = lpg_jax.zero_sums(state)
    ours = grad(lambda z: cross_entropy(tapped(z, d.labels, state, sink), d.labels).mean(), d.logits)
    laws.equal(ours, grad(lambda z: cross_entropy(z, d.labels).mean(), d.logits))


def test_a_sink_used_twice_adds():
    """Two heads, one state: the sums of both, committed as one batch."""
    tx, state = make()
    left, right = laws.draw(10), laws.draw(11)
    tapped = lpg_jax.tap(tx, "sum")

    def loss(sink):
        total = cross_entropy(tapped(left.logits, left.labels, state, sink), left.labels).sum()
        return total + cross_entropy(tapped(right.logits, right.labels, state, sink), right.labels).sum()

    committed = lpg_jax.commit(tx, state, jax.jit(jax.grad(loss))(lpg_jax.zero_sums(state)))
    both = laws.Draw(*(jnp.concatenate(pair) for pair in zip(left[:3], right[:3], strict=True)), left.head_kernel)
    _, expected = laws.update(tx, both, state)
    for ours, theirs in zip(jax.tree.leaves(committed), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_tap_through_chains_and_schedules():
    """Stateless neighbours, two of ours, and an eps schedule, whose count goes on with commit."""

    def scheduled(epsilon):
        return lpg_jax.lpg(lpg_jax.by_accuracy(), lpg_jax.fixed(epsilon))

    tx = optax.named_chain(
        ("scheduled", optax.inject_hyperparams(scheduled)(epsilon=optax.linear_schedule(0.1, 0.3, 2))),
        ("half", optax.scale(0.5)),
        ("frequency", make()[0]),
    )
    state, direct = tx.init(jnp.zeros(laws.CLASSES)), tx.init(jnp.zeros(laws.CLASSES))
    tapped, loss_fn = lpg_jax.tap(tx, "sum"), lpg_jax.perturbed(cross_entropy, tx)
    for seed in range(3):
        d = laws.draw(seed)

        def by_tap(z, sink, d=d, state=state):
            return cross_entropy(tapped(z, d.labels, state, sink), d.labels).sum()

        def by_perturbed(z, d=d, direct=direct):
            losses, new = loss_fn(z, d.labels, direct)
            return losses.sum(), new

        gradient, sums = jax.jit(jax.grad(by_tap, argnums=(0, 1)))(d.logits, lpg_jax.zero_sums(state))
        assert len(sums) == 2
        expected, direct = jax.jit(jax.grad(by_perturbed, has_aux=True))(d.logits)
        state = lpg_jax.commit(tx, state, sums)
        np.testing.assert_allclose(gradient, expected, atol=1e-6)
        for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(direct), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_tap_passes_callables_and_params():
    """The network metric, whose network= is a function, through tap."""
    tx = lpg_jax.lpg_pgd(lpg_jax.by_frequency(laws.COUNTS), lpg_jax.fixed(0.3), metric="network")
    state, d = tx.init(jnp.zeros(laws.CLASSES)), laws.draw(12)
    tapped, sink = lpg_jax.tap(tx, "sum"), lpg_jax.zero_sums(state)

    def network(kernel):
        return d.features @ kernel

    def loss(kernel):
        logits = tapped(network(kernel), d.labels, state, sink, params=kernel, network=network)
        return cross_entropy(logits, d.labels).sum()

    rows = laws.gradient_rows(d._replace(logits=network(d.head_kernel)))
    arguments = {"labels": d.labels, "logits": network(d.head_kernel), "network": network}
    edited = jax.jit(lambda rows: tx.update(rows, state, d.head_kernel, **arguments)[0])(rows)
    np.testing.assert_allclose(grad(loss, d.head_kernel), d.features.T @ edited, atol=1e-5)


def test_tap_errors():
    tx, state = make()
    d = laws.draw(13)
    with pytest.raises(ValueError, match="sink does not fit the state"):
        lpg_jax.tap(tx)(d.logits, d.labels, state, ())
    with pytest.raises(TypeError, match="TraceState: a transformation with a state of its own; tap, zero_sums"):
        lpg_jax.zero_sums(optax.chain(tx, optax.trace(0.9)).init(jnp.zeros(laws.CLASSES)))
    with pytest.raises(ValueError, match="sums has 0 entries: must be 1, one per stateful transformation"):
        lpg_jax.commit(tx, state, ())
    assert lpg_jax.commit(optax.scale(1.0), optax.scale(1.0).init(d.logits), ()) == optax.EmptyState()


def test_duality_with_logit_perturbation():
    """Eq. 22-23: LPL's gradient is LPG with d = softmax(z + delta) - softmax(z); the first-order form (diag p - p p^T)
    delta is off by O(||delta||^2), and it reaches every zero-sum d: LPL can rotate (method.md, reading 12)."""
    d, rng = laws.draw(14), np.random.default_rng(0)
    direction = jnp.asarray(rng.normal(size=d.logits.shape), jnp.float32)
    p = jax.nn.softmax(d.logits)
    errors = []
    for size in (1e-1, 1e-2):
        delta = size * direction
        exact = jax.nn.softmax(d.logits + delta) - p
        by_shift = grad(lambda z, delta=delta: cross_entropy(z + delta, d.labels).sum(), d.logits)
        add = optax.stateless(lambda rows, _, exact=exact: rows + exact)
        by_lpg = grad(lambda z, add=add: lpg_jax.perturbed(cross_entropy, add)(z, d.labels, ())[0].sum(), d.logits)
        np.testing.assert_allclose(by_lpg, by_shift, atol=1e-6)
        first = p * delta - p * jnp.sum(p * delta, axis=-1, keepdims=True)
        errors.append(float(jnp.abs(first - exact).max()))
    assert 50 < errors[0] / errors[1] < 200
    target = direction - direction.mean(axis=-1, keepdims=True)
    hessian = jax.vmap(lambda q: jnp.diag(q) - jnp.outer(q, q))(p)
    delta = jnp.einsum("bij,bj->bi", jnp.linalg.pinv(hessian, rtol=1e-5), target)
    np.testing.assert_allclose(jnp.einsum("bij,bj->bi", hessian, delta), target, atol=2e-3)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int8, jnp.int16, jnp.int32])
def test_narrow_integer_labels(dtype):
    """uint8 labels with 300 classes: comparisons do not wrap."""
    classes = 300
    tx = lpg_jax.lpg(lpg_jax.by_accuracy(), lpg_jax.fixed(0.3))
    logits, labels = jnp.zeros((2, classes)), jnp.array([0, 44], dtype)
    losses, new = jax.jit(lpg_jax.perturbed(cross_entropy, tx))(logits, labels, tx.init(jnp.zeros(classes)))
    np.testing.assert_allclose(losses, np.log(classes), rtol=1e-6)
    np.testing.assert_array_equal(np.flatnonzero(new.sums.count), [0, 44])


@functools.cache
def gradient_by(tx):
    def total(logits, labels, state):
        return lpg_jax.perturbed(cross_entropy, tx)(logits, labels, state)[0].sum()

    return jax.jit(jax.grad(total))


@pytest.mark.parametrize("gap", [0.0, 5.0, 15.0, 17.0, 30.0, 80.0])
@pytest.mark.parametrize(
    "tx",
    [
        optax.identity(),
        lpg_jax.lpg(lpg_jax.by_frequency([2, 100, 100]), lpg_jax.fixed(0.3)),
        lpg_jax.transforms.gradient_rescaling(8.0, 0.5, "none"),
        lpg_jax.transforms.sample_lpg(lpg_jax.fixed(0.3)),
    ],
    ids=["plain", "lpg", "rescaling", "sample_lpg"],
)
def test_what_is_learnt_by_heart_keeps_its_direction(tx, gap):
    """p_y - 1 has no digits left when p_y rounds to 1; the row must not be made of it."""
    logits, labels = jnp.array([[gap, 1.0, 0.0]]), jnp.array([0])
    row = np.asarray(gradient_by(tx)(logits, labels, tx.init(jnp.zeros(3))), np.float64)[0]
    others = np.exp([1.0, 0.0]) / np.exp([1.0, 0.0]).sum()
    np.testing.assert_allclose(row / np.abs(row).sum(), [-0.5, *others / 2], atol=1e-6)


def test_a_row_keeps_its_digits():
    both = jax.jit(jax.value_and_grad(lambda z: cross_entropy(z, jnp.array([0])).sum()))
    for gap in (5.0, 17.0, 80.0):
        loss, row = both(jnp.array([[gap, 1.0, 0.0]]))
        odds = np.exp([1.0 - gap, -gap]).sum()
        np.testing.assert_allclose(loss, np.log1p(odds), rtol=1e-5)
        np.testing.assert_allclose(-row[0, 0], odds / (1 + odds), rtol=1e-5)
