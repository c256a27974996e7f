"""One test per row of the edge-case tables, and every error with its text."""

import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import optax
import pytest

import lpg_jax

pytestmark = pytest.mark.usefixtures("strict")
DIRECTIONS = ("sample", "class_mean", "class_scale")
each_direction = pytest.mark.parametrize("direction", DIRECTIONS)


@functools.cache
def make(direction="sample", epsilon=0.3, counts=tuple(laws.COUNTS), **options):
    """The same transformation for the same options, so that tests share what is compiled."""
    tx = lpg_jax.lpg(lpg_jax.by_frequency(counts), lpg_jax.fixed(epsilon), direction=direction, **options)
    return tx, tx.init(jnp.zeros(len(counts)))


def rows_of(logits, labels):
    return jax.nn.softmax(logits) - jax.nn.one_hot(labels, logits.shape[-1])


def edit(tx, state, rows, labels, logits):
    """`tx.update`, compiled, without a mask."""
    return laws.compiled(tx)(rows, state, {"labels": labels, "logits": logits})


@functools.cache
def losses_and_gradient(tx):
    """Through `perturbed`: the losses, the gradient of their sum and the new state."""
    loss_fn = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx)

    def both(logits, labels, state):
        losses, pull, new = jax.vjp(lambda z: loss_fn(z, labels, state), logits, has_aux=True)
        return losses, pull(jnp.ones_like(losses))[0], new

    return jax.jit(both)


@each_direction
def test_epsilon_zero(direction):
    tx, state = make(direction, epsilon=0.0)
    d = laws.draw()
    laws.equal(laws.update(tx, d, state)[0], laws.gradient_rows(d))


@each_direction
def test_epsilon_above_the_norm_dampens_to_zero(direction):
    """The row, or the class mean, becomes 0 and never turns round."""
    tx, state = make(direction, epsilon=50.0)
    d = laws.draw()
    edited, _ = laws.update(tx, d, state)
    for c in (0, 1):  # dampened
        np.testing.assert_allclose(laws.class_mean(edited, d.labels, c), 0, atol=1e-6)
        if direction != "class_mean":
            np.testing.assert_allclose(np.asarray(edited)[np.asarray(d.labels) == c], 0, atol=1e-6)


@each_direction
def test_zero_gradient(direction):
    """h = 0 (and m_c = 0) is left alone; also differentiable there."""
    tx, state = make(direction)
    labels, logits = jnp.array([0, 4, 4]), jnp.zeros((3, laws.CLASSES))

    @jax.jit
    def edited_and_slope(rows):
        edited, pull = jax.vjp(lambda rows: tx.update(rows, state, None, labels=labels, logits=logits)[0], rows)
        return edited, pull(jnp.ones_like(edited))[0]

    edited, slope = edited_and_slope(jnp.zeros((3, laws.CLASSES)))
    laws.equal(edited, np.zeros((3, laws.CLASSES)))
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("tiny", [1e-20, 1e-30, 1e-12])
def test_tiny_gradients_still_have_a_direction(tiny):
    """No square underflows: ||h~|| = ||h|| + eps down to 1e-30."""
    tx, state = make()
    rows = jnp.full((1, laws.CLASSES), tiny)
    edited, _ = edit(tx, state, rows, jnp.array([4]), rows)
    np.testing.assert_allclose(laws.norms(edited), 0.3, rtol=1e-5)


def test_class_absent_from_the_batch():
    tx, _ = make("class_mean", source="running")
    state = laws.warm(tx, absent=None)
    _, new = laws.update(tx, laws.draw(), state)
    for old, fresh in zip(jax.tree.leaves((state.sums, state.stats)), jax.tree.leaves((new.sums, new.stats)),
                          strict=True):  # fmt: skip
        laws.equal(old[laws.ABSENT], fresh[laws.ABSENT])


@pytest.mark.parametrize("split", [lpg_jax.by_accuracy, lpg_jax.by_gradient_variance])
@pytest.mark.parametrize("threshold", ["mean", "median", 0.5])
def test_class_never_seen(split, threshold):
    """Its margin is 0, and it does not count in the mean or median."""
    tx = lpg_jax.lpg(split(threshold), lpg_jax.fixed(0.3))
    state = laws.warm(tx)
    assert not state.stats.class_seen[laws.ABSENT]
    assert state.class_margin[laws.ABSENT] == 0
    statistic = state.stats.class_accuracy if split is lpg_jax.by_accuracy else state.stats.class_grad_variance
    seen = np.delete(np.asarray(statistic), laws.ABSENT)
    tau = threshold if isinstance(threshold, float) else getattr(np, threshold)(seen)
    np.testing.assert_allclose(np.delete(np.asarray(state.class_margin), laws.ABSENT), tau - seen, atol=1e-6)
    first = tx.init(jnp.zeros(laws.CLASSES))
    np.testing.assert_array_equal(first.class_margin, 0)


def test_frequency_acts_from_the_first_step():
    tx, state = make()
    np.testing.assert_array_equal(np.sign(state.class_margin), [-1, -1, -1, 1, 1])
    d = laws.draw(absent=None)
    assert np.all(np.any(np.asarray(laws.update(tx, d, state)[0] != laws.gradient_rows(d)), axis=-1))


@each_direction
@pytest.mark.parametrize("split", [lpg_jax.by_accuracy(), lpg_jax.by_gradient_variance(), lpg_jax.by_frequency([9])])
def test_one_class_only(direction, split):
    tx = lpg_jax.lpg(split, lpg_jax.fixed(0.3), direction=direction)
    state = tx.init(jnp.zeros(1))
    rows = jnp.ones((3, 1))
    edited, state = tx.update(rows, state, None, labels=jnp.zeros(3, int), logits=rows)
    edited, state = tx.update(edited, state, None, labels=jnp.zeros(3, int), logits=rows)
    laws.equal(edited, rows)
    assert state.stats.class_accuracy[0] == 1


@each_direction
def test_batch_of_one(direction):
    tx, state = make(direction)
    logits, labels = jnp.array([[0.3, -0.2, 0.1, 0.0, 0.5]]), jnp.array([4])
    rows = rows_of(logits, labels)
    edited, _ = edit(tx, state, rows, labels, logits)
    np.testing.assert_allclose(edited, rows * (1 + 0.3 / laws.norms(rows)[0]), rtol=1e-5)


@each_direction
def test_two_classes(direction):
    tx, state = make(direction, counts=(90, 10))
    logits, labels = jnp.array([[0.2, 0.1], [1.0, 0.3]]), jnp.array([0, 1])
    rows = rows_of(logits, labels)
    edited, _ = edit(tx, state, rows, labels, logits)
    np.testing.assert_allclose(laws.norms(edited) - laws.norms(rows), [-0.3, 0.3], atol=1e-6)


@pytest.mark.parametrize("name", ["sample", "class_mean_running", "class_scale_many_classes", "refreshed", "pgd_head"])
def test_every_example_masked(name):
    """Rows 0, statistics to the bit; only the step counts. The gradient is 0 even if the loss is 0 / 0."""
    tx, d = laws.TABLE[name](0.3), laws.draw()
    state, mask = laws.warm(tx), jnp.zeros(laws.BATCH)
    edited, new = laws.update(tx, d, state, mask=mask)
    laws.equal(edited, np.zeros_like(edited))
    assert int(new.step) == int(state.step) + 1
    if name != "refreshed":
        laws.equal(new._replace(step=state.step), state)
    if name != "sample":
        return
    loss_fn = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx)
    gradient = jax.jit(jax.grad(lambda z: loss_fn(z, d.labels, state, mask=mask)[0].sum() / mask.sum()))(d.logits)
    laws.equal(gradient, np.zeros_like(gradient))


@pytest.mark.parametrize("scale", ["log", "max", "share"])
@pytest.mark.parametrize("threshold", [0.5, 0.0, "median", "mean"])
def test_all_counts_equal(scale, threshold):
    split = lpg_jax.by_frequency([7, 7, 7, 7, 7], threshold, scale)
    tx = lpg_jax.lpg(split, lpg_jax.varied(0.3, 1.0))
    state, d = tx.init(jnp.zeros(5)), laws.draw()
    np.testing.assert_array_equal(state.class_margin, 0)
    laws.equal(laws.update(tx, d, state)[0], laws.gradient_rows(d))


def test_ties():
    """|s - tau| <= 1e-5 max(|tau|, |s|) is a margin of exactly 0; just beyond, it is not."""
    stats = laws.warm(lpg_jax.lpg(lpg_jax.by_accuracy(), lpg_jax.fixed(0.1)), absent=None).stats
    near = jnp.array([0.5, 0.5 * (1 + 9e-6), 0.5 * (1 - 9e-6), 0.5 * (1 + 2e-5), 0.5 * (1 - 2e-5)])
    margin = lpg_jax.by_accuracy(0.5)(stats._replace(class_accuracy=near))
    np.testing.assert_array_equal(np.sign(margin), [0, 0, 0, -1, 1])
    tiny = jnp.array([1e-6, 2e-6, 1e-6, 1e-6, 3e-6])  # relative: these differ
    margin = lpg_jax.by_accuracy(1e-6)(stats._replace(class_accuracy=tiny))
    np.testing.assert_array_equal(np.sign(margin), [0, -1, 0, 0, -1])


@pytest.mark.parametrize("label", [-1, laws.CLASSES, 1000, -(2**31), 2**31 - 1])
def test_label_outside_the_classes(label):
    """The row passes unperturbed and stays out of the statistics; the loss is 0 with a zero row."""
    tx, state = make("class_mean")
    d = laws.draw()
    labels, rows = d.labels.at[0].set(label), laws.gradient_rows(d)
    edited, new = laws.update(tx, d, state, rows, labels=labels)
    laws.equal(edited[0], rows[0])
    assert float(new.sums.count.sum()) == pytest.approx(0.01 * (laws.BATCH - 1), rel=1e-5)
    losses, gradient, _ = losses_and_gradient(tx)(d.logits.at[0, 0].set(jnp.nan), labels, state)
    assert losses[0] == 0
    laws.equal(gradient[0], np.zeros(laws.CLASSES))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e25, 1.5e19])
def test_row_that_is_not_finite(value):
    tx, state = make("class_scale")
    d = laws.draw()
    rows = laws.gradient_rows(d).at[2, 1].set(value)
    edited, new = laws.update(tx, d, state, rows)
    laws.equal(edited[2], rows[2])
    assert np.isfinite(np.delete(np.asarray(edited), 2, axis=0)).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new))
    assert float(new.sums.count.sum()) == pytest.approx(0.01 * (laws.BATCH - 1), rel=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_logits(dtype):
    """Statistics in float32; the cotangent in the logits' dtype, rounded once from the float32 result."""
    tx, state = make()
    d = laws.draw()
    half = d.logits.astype(dtype)
    losses, gradient, new = losses_and_gradient(tx)(half, d.labels, state)
    exact_losses, exact, exact_new = losses_and_gradient(tx)(half.astype(jnp.float32), d.labels, state)
    assert gradient.dtype == dtype
    assert losses.dtype == jnp.float32
    laws.equal((gradient, losses, new), (exact.astype(dtype), exact_losses, exact_new))
    assert {leaf.dtype for leaf in jax.tree.leaves(new.stats)} == {jnp.dtype("float32"), jnp.dtype("bool")}


def test_float64_template():
    with jax.enable_x64(True):
        tx = lpg_jax.lpg(lpg_jax.by_accuracy(), lpg_jax.fixed(0.3))
        state = tx.init(jax.ShapeDtypeStruct((3,), jnp.float64))
        assert state.class_margin.dtype == jnp.float64
        rows = jnp.ones((2, 3), jnp.float64)
        edited, new = edit(tx, state, rows, jnp.array([0, 1]), rows)
        assert edited.dtype == new.sums.gradient.dtype == jnp.float64


def test_template_of_half_precision_keeps_float32_statistics():
    state = lpg_jax.lpg(lpg_jax.by_accuracy(), lpg_jax.fixed(0.3)).init(jnp.zeros(3, jnp.bfloat16))
    assert state.class_margin.dtype == jnp.float32


def test_traced_epsilon_passes_and_follows_its_schedule():
    """inject_hyperparams with an eps schedule: step t is perturbed by eps(t)."""

    def factory(epsilon):
        return lpg_jax.lpg(lpg_jax.by_frequency(laws.COUNTS), lpg_jax.fixed(epsilon))

    tx = optax.inject_hyperparams(factory)(epsilon=optax.linear_schedule(0.0, 0.4, 4))
    state, d = tx.init(jnp.zeros(laws.CLASSES)), laws.draw(absent=None)
    tail = np.asarray(d.labels) == 4
    for step in range(5):
        edited, state = laws.update(tx, d, state)
        grown = (laws.norms(edited) - laws.norms(laws.gradient_rows(d)))[tail]
        np.testing.assert_allclose(grown, 0.1 * step, atol=1e-5)
    assert optax.tree_utils.tree_get(state, "class_epsilon").shape == (laws.CLASSES,)


def test_class_table_shows_who_is_amplified():
    tx, _ = make(epsilon=0.3)
    for wrapped in (tx, optax.chain(optax.identity(), tx), optax.named_chain(("lpg", tx))):
        table = lpg_jax.class_table(wrapped.init(jnp.zeros(laws.CLASSES)))
        np.testing.assert_allclose(table["perturbation"], [-0.3, -0.3, -0.3, 0.3, 0.3], rtol=1e-6)
        assert set(table) == {"perturbation", "margin", "epsilon", "accuracy", "grad_norm", "grad_variance", "seen"}
    state = laws.warm(tx)
    table, stats = lpg_jax.class_table(state), state.stats
    for name in ("accuracy", "grad_norm", "grad_variance", "seen"):
        laws.equal(table[name], getattr(stats, f"class_{name}"))
    assert len({table[name].tobytes() for name in table}) == len(table)
    with pytest.raises(ValueError, match="state holds 2 LPG transformations: must be 1"):
        lpg_jax.class_table(optax.chain(tx, tx).init(jnp.zeros(laws.CLASSES)))


SPLIT, BOUND = lpg_jax.by_accuracy(), lpg_jax.fixed(0.3)
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: lpg_jax.fixed(-0.1), r"epsilon=-0\.1: must be >= 0"),
        (lambda: lpg_jax.fixed(NAN), r"epsilon=nan: must be >= 0"),
        (lambda: lpg_jax.fixed(INF), r"epsilon=inf: must be >= 0"),
        (lambda: lpg_jax.fixed(jnp.array(-1.0)), r"epsilon=-1\.0: must be >= 0"),
        (lambda: lpg_jax.fixed("big"), r"epsilon='big': must be a number"),
        (lambda: lpg_jax.varied(0.1, -2.0), r"slope=-2\.0: must be >= 0"),
        (lambda: lpg_jax.varied(0.1, NAN), r"slope=nan: must be >= 0"),
        (lambda: lpg_jax.by_accuracy(1.5), r"threshold=1\.5: must be >= 0 and <= 1"),
        (lambda: lpg_jax.by_accuracy(-0.1), r"threshold=-0\.1: must be >= 0 and <= 1"),
        (lambda: lpg_jax.by_accuracy(NAN), r"threshold=nan: must be >= 0 and <= 1"),
        (lambda: lpg_jax.by_accuracy("avg"), r"threshold='avg': must be 'mean', 'median' or a number"),
        (lambda: lpg_jax.by_gradient_variance(-1), r"threshold=-1: must be >= 0"),
        (lambda: lpg_jax.by_frequency([1, 2], 2.0), r"threshold=2\.0: must be >= 0 and <= 1"),
        (lambda: lpg_jax.by_frequency([5, 0, 2]), r"class_counts\[1\]=0: must be > 0"),
        (lambda: lpg_jax.by_frequency([5, -3]), r"class_counts\[1\]=-3: must be > 0"),
        (lambda: lpg_jax.by_frequency([5, NAN]), r"class_counts\[1\]=nan: must be > 0"),
        (lambda: lpg_jax.by_frequency([]), r"class_counts\.shape=\(0,\): must be \(C,\)"),
        (lambda: lpg_jax.by_frequency([5, 2], scale="sqrt"), "scale='sqrt': must be one of 'log', 'max', 'share'"),
        (lambda: lpg_jax.by_frequency([5, 2])(laws_stats(3)), r"class_counts\.shape=\(2,\): must be \(3,\), one count"),
        (lambda: lpg_jax.by_frequency("abc"), r"class_counts='abc': must be \(C,\) numbers"),
        (lambda: jax.jit(lpg_jax.by_frequency)(jnp.ones(3)), "must be concrete; build the split outside jit"),
        (lambda: lpg_jax.by_accuracy([0.1, 0.2]), r"threshold\.shape=\(2,\): must be a single number"),
        (lambda: lpg_jax.lpg(SPLIT, BOUND, clamp="no"), "clamp='no': must be one of True, False"),
        (lambda: lpg_jax.lpg_pgd(SPLIT, BOUND, zero_sum="yes"), "zero_sum='yes': must be one of True, False"),
        (lambda: lpg_jax.lpg_pgd(SPLIT, BOUND, step_size=jnp.ones(3)), r"step_size\.shape=\(3,\): must be a single"),
        (lambda: lpg_jax.lpg(SPLIT, BOUND, direction="mean"), "direction='mean': must be one of 'sample'"),
        (lambda: lpg_jax.lpg(SPLIT, BOUND, source="all"), "source='all': must be one of 'batch', 'running'"),
        (lambda: lpg_jax.lpg(SPLIT, BOUND, decay=1.0), r"decay=1\.0: must be >= 0 and < 1"),
        (lambda: lpg_jax.lpg(SPLIT, BOUND, decay=-0.1), r"decay=-0\.1: must be >= 0 and < 1"),
        (lambda: lpg_jax.lpg(SPLIT, BOUND, refresh_every=0), "refresh_every=0: must be >= 1"),
        (lambda: lpg_jax.lpg(SPLIT, BOUND, refresh_every=2.5), r"refresh_every=2\.5: must be an integer >= 1"),
        (lambda: lpg_jax.lpg(SPLIT, BOUND, warmup=-1), "warmup=-1: must be >= 0"),
        (lambda: lpg_jax.lpg(SPLIT, BOUND, max_scale=0.5), r"max_scale=0\.5: must be >= 1"),
        (lambda: lpg_jax.lpg(SPLIT, BOUND, dense_limit=-1), "dense_limit=-1: must be >= 0"),
        (lambda: lpg_jax.lpg_pgd(SPLIT, BOUND, steps=0), "steps=0: must be >= 1"),
        (lambda: lpg_jax.lpg_pgd(SPLIT, BOUND, step_size=-1.0), r"step_size=-1\.0: must be >= 0"),
        (lambda: lpg_jax.lpg_pgd(SPLIT, BOUND, step_rule="adam"), "step_rule='adam': must be one of 'l2', 'sign'"),
        (lambda: lpg_jax.lpg_pgd(SPLIT, BOUND, metric="all"), "metric='all': must be one of 'identity'"),
        (lambda: lpg_jax.tap(optax.identity(), "max"), "reduction='max': must be one of 'mean', 'sum'"),
        (lambda: lpg_jax.tap(optax.identity(), 0), "reduction=0: must be > 0"),
        (lambda: lpg_jax.tap(optax.identity(), NAN), "reduction=nan: must be > 0"),
    ],
)
def test_construction_errors(build, text):
    with pytest.raises(ValueError, match=text):
        build()


def laws_stats(num_classes):
    return lpg_jax.lpg(SPLIT, BOUND).init(jnp.zeros(num_classes)).stats


def test_split_and_bound_must_be_functions():
    with pytest.raises(TypeError, match=r"split='accuracy': must be a function, such as lpg_jax\.by_accuracy\(\)"):
        lpg_jax.lpg("accuracy", BOUND)
    with pytest.raises(TypeError, match=r"bound=0\.3: must be a function"):
        lpg_jax.lpg(SPLIT, 0.3)


def test_init_errors():
    with pytest.raises(ValueError, match=r"class_counts\.shape=\(3,\): must be \(4,\), one count per class"):
        lpg_jax.lpg(lpg_jax.by_frequency([3, 2, 1]), BOUND).init(jnp.zeros(4))
    with pytest.raises(ValueError, match=r"epsilon.shape=\(3,\): must be \(\) or \(4,\), one number per class"):
        lpg_jax.lpg(SPLIT, lpg_jax.fixed([0.1, 0.2, 0.3])).init(jnp.zeros(4))
    for wrong in (lambda stats: stats.class_accuracy[:2], lambda stats: jnp.float32(1)):
        with pytest.raises(ValueError, match=r"split returned shape \(.*\): must be \(4,\), one per class"):
            lpg_jax.lpg(wrong, BOUND).init(jnp.zeros(4))
    with pytest.raises(ValueError, match="must be a template of one row"):
        lpg_jax.lpg(SPLIT, BOUND).init(jnp.zeros(0))
    with pytest.raises(ValueError, match=r"must be a template of one row, such as jnp\.zeros"):
        lpg_jax.lpg(SPLIT, BOUND).init(10)
    with pytest.raises(ValueError, match=r"source='running' with 5 classes: .* dense_limit=4"):
        lpg_jax.lpg(SPLIT, BOUND, direction="class_mean", source="running", dense_limit=4).init(jnp.zeros(5))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"labels": None}, "labels=None: pass tx.update"),
        ({"logits": None}, "logits=None: pass tx.update"),
        ({"labels": jnp.zeros(3, int)}, r"labels\.shape=\(3,\): must be \(14,\), to match the batch"),
        ({"labels": jnp.zeros((14, 4))}, r"labels\.shape=\(14, 4\): must be \(14, 5\), to match logits"),
        ({"labels": jnp.zeros(14)}, r"labels\.dtype=float32: must be an integer type"),
        ({"logits": jnp.zeros((14, 4))}, r"logits\.shape=\(14, 4\): must be \(14, 5\), to match rows"),
        ({"mask": jnp.ones(5)}, r"mask\.shape=\(5,\): must be \(14,\), to match the batch"),
        ({"labels": jnp.ones((14, 5))}, r"labels\[0\] sums to 5, .*membership must be >= 0 and sum to 1"),
        ({"labels": jnp.tile(jnp.array([2.0, -1, 0, 0, 0]), (14, 1))}, r"labels\[0\] sums to 1, minimum -1"),
        ({"features": jnp.zeros((14, 2))}, r"features\.shape=\(14, 2\): must be \[\.\.\., 3\]"),
        ({"features": jnp.zeros((13, 3))}, r"features\.shape=\(13, 3\): must be"),
        ({"features": None}, r"features=None: metric='head' needs features="),
        ({"head_kernel": None}, r"head_kernel=None: metric='head' needs"),
        ({"head_kernel": jnp.zeros((3, 4))}, r"head_kernel\.shape=\(3, 4\): must be \(D, 5\)"),
    ],
)
def test_update_errors(change, text):
    tx, d = laws.TABLE["pgd_head"](0.3), laws.draw()
    with pytest.raises(ValueError, match=text):
        tx.update(laws.gradient_rows(d), tx.init(jnp.zeros(5)), None, **{**laws.keywords(d), **change})
    with pytest.raises(ValueError, match=r"rows\.shape=\(14, 5\): the last axis must be 3, as in init"):
        tx.update(laws.gradient_rows(d), lpg_jax.lpg(SPLIT, BOUND).init(jnp.zeros(3)), None, **laws.keywords(d))


def test_lists_are_taken_for_arrays():
    tx, state = make(counts=(90, 10))
    logits, labels, mask = jnp.array([[0.2, 0.1], [1.0, 0.3]]), [0, 1], [True, False]
    loss_fn = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx)
    found = jax.jit(lambda z: loss_fn(z, labels, state, mask=mask))(logits)
    laws.equal(found, jax.jit(lambda z: loss_fn(z, jnp.array(labels), state, mask=jnp.array(mask)))(logits))


def test_no_examples_at_all():
    for direction in DIRECTIONS:
        tx, state = make(direction)
        empty = jnp.zeros((0, laws.CLASSES))
        edited, new = edit(tx, state, empty, jnp.zeros(0, int), empty)
        assert edited.shape == empty.shape
        laws.equal(new._replace(step=state.step), state)


def test_a_class_mean_that_is_not_finite_leaves_the_others_alone():
    """NaN features beside a finite row: that class is left alone, the others are perturbed as ever."""
    tx, d = laws.TABLE["pgd_head"](0.3), laws.draw()
    state = laws.warm(tx)
    expected, _ = laws.update(tx, d, state)
    edited, _ = laws.update(tx, d._replace(features=d.features.at[0].set(jnp.nan)), state)
    same = np.asarray(d.labels) == int(d.labels[0])
    laws.equal(edited[same], laws.gradient_rows(d)[same])
    np.testing.assert_allclose(edited[~same], expected[~same], atol=1e-6)


def test_negative_zero_survives_epsilon_zero():
    """Bit-identical means the sign of a zero, too."""
    for direction in DIRECTIONS:
        tx, state = make(direction, epsilon=0.0)
        rows = jnp.array([[-0.0, 0.0, 1.0, -1.0, -0.0]])
        edited, _ = edit(tx, state, rows, jnp.array([4]), rows)
        np.testing.assert_array_equal(np.signbit(edited), np.signbit(rows))


def test_dampening_ends_at_zero_to_the_bit():
    tx, state = make(epsilon=50.0)
    d = laws.draw()
    edited, _ = laws.update(tx, d, state)
    laws.equal(edited[np.asarray(d.labels) == 0], np.zeros((int(np.sum(d.labels == 0)), laws.CLASSES)))


def test_network_metric_errors():
    tx, d = lpg_jax.lpg_pgd(SPLIT, BOUND, metric="network"), laws.draw()
    state, arguments = tx.init(jnp.zeros(5)), {"labels": d.labels, "logits": d.logits}
    with pytest.raises(ValueError, match="network=None: metric='network' needs network= "):
        tx.update(laws.gradient_rows(d), state, {}, **arguments)
    with pytest.raises(ValueError, match="params=None: metric='network' needs"):
        tx.update(laws.gradient_rows(d), state, None, network=lambda p: d.logits, **arguments)
