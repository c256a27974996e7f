"""Every stateless loss of the table: the laws that all must pass, and the identities of methods.md between them."""

import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import optax
import pytest
from loss_table import CLASSES, COUNTS, EYE, LOSSES, PLAIN, TRANSITION, of_label, softmax

from lpg_jax import losses

pytestmark = pytest.mark.usefixtures("strict")
BATCH = 8
NAMES = pytest.mark.parametrize("name", LOSSES)
RNG = np.random.default_rng(0)
Z = RNG.normal(size=(BATCH, CLASSES)).astype(np.float32) * 2
Y = np.array([0, 1, 2, 3, 4, 0, 3, 2], np.int32)
DIRECTION = RNG.normal(size=(BATCH, CLASSES)).astype(np.float32)


def value_and_rows(loss, z, labels):
    value, pull = jax.vjp(lambda z: loss(z, labels), z)
    return value, pull(jnp.ones_like(value))[0]


@functools.cache
def compiled(name, order=PLAIN):
    """Everything that the laws ask of a loss, as one program: (z, y) -> values, rows, both in bfloat16, curvature,
    values of [2, 4, C] with int8 labels."""
    loss = LOSSES[name].make(order)

    @jax.jit
    def run(z, y):
        value, rows = value_and_rows(loss, z, y)
        half = value_and_rows(loss, z.astype(jnp.bfloat16), y)
        curvature = jax.grad(lambda z: jnp.sum(value_and_rows(loss, z, y)[1] * DIRECTION))(z)
        folded = loss(z.reshape(2, 4, CLASSES), y.astype(jnp.int8).reshape(2, 4))
        return value, rows, half, curvature, folded.reshape(-1)

    return run


@functools.cache
def compiled_soft(name):
    return jax.jit(functools.partial(value_and_rows, LOSSES[name].make(PLAIN)))


@NAMES
def test_value_and_row_are_those_of_the_formula(name):
    """Against NumPy in float64, literally from the papers: w(p_y) (p - e_y) for the CE family."""
    value, rows = LOSSES[name].reference(Z.astype(np.float64), Y)
    got_value, got_rows, *_ = compiled(name)(Z, Y)
    np.testing.assert_allclose(got_value, value, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(got_rows, rows, rtol=2e-6, atol=1e-6)


@NAMES
def test_float64_agrees_to_1e_12(name):
    with jax.enable_x64(True):
        got = value_and_rows(LOSSES[name].make(PLAIN), jnp.asarray(Z, jnp.float64), jnp.asarray(Y))
        assert got[0].dtype == got[1].dtype == jnp.float64
        for ours, exact in zip(got, LOSSES[name].reference(Z.astype(np.float64), Y), strict=True):
            np.testing.assert_allclose(ours, exact, rtol=1e-12, atol=1e-13)


@NAMES
def test_labels_outside_give_nothing(name):
    """Loss 0 and a zero row, whatever the logits hold; the other rows keep their bits."""
    plain = compiled(name)(Z, Y)
    labels, wild = Y.copy(), Z.copy()
    labels[[1, 4, 6]] = (-1, CLASSES, 255)
    wild[[1, 4, 6]] = ([np.nan] * 5, [np.inf] * 5, [-np.inf, np.inf, 0, np.nan, 3e38])
    got = compiled(name)(wild, labels)
    keep = np.isin(np.arange(BATCH), [1, 4, 6], invert=True)
    for ours, expected in zip(jax.tree.leaves(got), jax.tree.leaves(plain), strict=True):
        expected = np.where(keep.reshape(-1, *(1,) * (ours.ndim - 1)), np.float32(expected), 0)
        laws.equal(np.float32(ours), expected)


@NAMES
def test_bfloat16_is_computed_in_float32(name):
    """The values of the rounded logits in float32; the gradient only is rounded."""
    rounded = np.asarray(jnp.asarray(Z, jnp.bfloat16), np.float32)
    value, rows, (half_value, half_rows), *_ = compiled(name)(rounded, Y)
    assert half_value.dtype == jnp.float32
    assert half_rows.dtype == jnp.bfloat16
    np.testing.assert_allclose(half_value, value, rtol=1e-6)
    np.testing.assert_allclose(np.float32(half_rows), rows, rtol=5e-3, atol=1e-6)


def extreme():
    """p_y = 1, p_y = 0, ties, p_y one rounding below 1, and classes (a label's as well) ruled out by -inf."""
    z = np.zeros((BATCH, CLASSES), np.float32)
    z[0], z[0, Y[0]] = -1e4, 1e4
    z[1, Y[1]] = -1e4
    z[2] = 1e4
    z[3, Y[3]] = 15.5
    z[4] = np.where(RNG.random(CLASSES) < 0.5, 1e4, -1e4)
    z[5, Y[5]] = 30
    z[6, Y[6] - 1] = -np.inf
    z[7, Y[7]] = -np.inf
    return z


@NAMES
def test_extreme_logits_give_finite_gradients(name):
    """In float32 and bfloat16, first and second derivatives; losses are finite up to -inf."""
    value, rows, (half_value, half_rows), curvature, _ = compiled(name)(extreme(), Y)
    for array in (value[:6], half_value[:6], rows, half_rows, curvature):
        assert np.isfinite(np.float32(array)).all()
    if name not in ("label_smoothing", "backward_correction"):  # whose target has every class in it
        assert np.isfinite(value[6])
        assert not np.isnan(value[7])


@pytest.mark.parametrize("name", ["mean_absolute_error", "generalized_cross_entropy", "symmetric_cross_entropy",
                                  "focal", "focal_below_one"])  # fmt: skip
def test_rows_at_both_ends(name):
    """w h at p_y -> 0 (h = p - e_y of norm >= 1) and at p_y = 1 (0), to the limits that the formulas have."""
    z = extreme()
    w = {"mean_absolute_error": 0, "generalized_cross_entropy": 0, "symmetric_cross_entropy": 0.1}.get(name, 1)
    rows = np.asarray(compiled(name)(z, Y)[1])
    for at in (1, 7):
        np.testing.assert_allclose(rows[at], w * (softmax(z[at]) - EYE[Y[at]]), atol=1e-6)
    laws.equal(rows[0], np.zeros(CLASSES))


@NAMES
def test_classes_can_be_permuted(name):
    """Permuting the classes, in the counts and matrices as well, permutes the rows and keeps the losses."""
    order = (3, 0, 4, 1, 2)
    value, rows, *_ = compiled(name)(Z, Y)
    got_value, got_rows, *_ = compiled(name, order)(Z[:, list(order)], np.argsort(order)[Y].astype(np.int32))
    np.testing.assert_allclose(got_value, value, rtol=3e-6, atol=1e-6)
    np.testing.assert_allclose(got_rows, rows[:, list(order)], rtol=1e-5, atol=1e-6)


@NAMES
def test_leading_dimensions_and_no_jit(name):
    """[2, 4, C] and labels of another width give the same losses, and so does the function op by op."""
    value, *_, folded = compiled(name)(Z, Y)
    np.testing.assert_allclose(folded, value, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(LOSSES[name].make(PLAIN)(jnp.asarray(Z), jnp.asarray(Y)), value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, entry in LOSSES.items() if entry.soft])
def test_float_membership(name):
    """One-hot floats are the integers; a mixture is the expectation over its labels; no membership, no loss."""
    value, rows, *_ = compiled(name)(Z, Y)
    hard_value, hard_rows = compiled_soft(name)(Z, EYE[Y].astype(np.float32))
    np.testing.assert_allclose(hard_value, value, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(hard_rows, rows, rtol=1e-6, atol=1e-6)
    other = np.roll(Y, 1)
    mixed = (0.75 * EYE[Y] + 0.25 * EYE[other]).astype(np.float32)
    mixed[0] = 0
    got_value, got_rows = compiled_soft(name)(Z, mixed)
    assert got_value[0] == 0
    laws.equal(got_rows[0], np.zeros(CLASSES, np.float32))
    if LOSSES[name].linear:
        other_value, other_rows, *_ = compiled(name)(Z, other)
        np.testing.assert_allclose(got_value[1:], (0.75 * value + 0.25 * other_value)[1:], rtol=2e-6, atol=1e-6)
        np.testing.assert_allclose(got_rows[1:], (0.75 * rows + 0.25 * other_rows)[1:], rtol=2e-6, atol=1e-6)


@NAMES
def test_shapes_that_do_not_fit(name):
    loss = LOSSES[name].make(PLAIN)
    with pytest.raises(ValueError, match=r"labels.shape=\(7,\): must be \(8,\)"):
        loss(jnp.asarray(Z), jnp.asarray(Y[:7]))
    if name != "cross_entropy":
        with pytest.raises(ValueError, match=r"labels.dtype=float32: must be an integer type"):
            loss(jnp.asarray(Z), jnp.ones(BATCH, jnp.float32))
    if name in ("logit_adjusted", "ldam", "forward_correction", "backward_correction"):
        with pytest.raises(ValueError, match=r"(class_counts|transition).shape=.*: must be \(4"):
            loss(jnp.asarray(Z[:, :4]), jnp.asarray(Y) % 4)


# -- identities -------------------------------------------------------------------------------------------------------


def same(loss, other, z=Z, tolerance=1e-12):
    """Both losses agree in value and row, in float64."""
    with jax.enable_x64(True):
        z, y = jnp.asarray(z, jnp.float64), jnp.asarray(Y)
        for ours, theirs in zip(value_and_rows(loss, z, y), value_and_rows(other, z, y), strict=True):
            assert ours.dtype == theirs.dtype == jnp.float64
            np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def test_gce_lies_between_ce_and_mae():
    same(losses.generalized_cross_entropy(1e-8), losses.cross_entropy, tolerance=1e-6)
    same(losses.generalized_cross_entropy(1.0), losses.mean_absolute_error, tolerance=0)


def test_mae_is_half_the_l1_distance():
    def half_distance(z, y):
        return 0.5 * jnp.abs(jax.nn.softmax(z) - jax.nn.one_hot(y, CLASSES, dtype=z.dtype)).sum(-1)

    same(losses.mean_absolute_error, half_distance)


def test_sce_is_a_sum():
    """alpha CE + beta |A| MAE; also with one weight 0, where the label's logit may be -inf."""
    same(losses.symmetric_cross_entropy(1.0, 0.0), losses.cross_entropy)
    only_reverse = losses.symmetric_cross_entropy(0.0, 1.0, log_zero=-4.0)
    same(only_reverse, lambda z, y: 4 * losses.mean_absolute_error(z, y), z=extreme())


@pytest.mark.parametrize(
    "loss",
    [
        losses.focal(0.0),
        losses.logit_adjusted([7] * CLASSES),
        losses.logit_adjusted(COUNTS, tau=0.0),
        losses.label_smoothing(0.0),
        losses.forward_correction(EYE),
        losses.backward_correction(EYE),
        lambda z, y: losses.ldam(COUNTS, max_margin=0.0, scale=4.0)(z / 4, y),
    ],
)
def test_special_cases_are_cross_entropy(loss):
    same(loss, losses.cross_entropy)
    same(loss, losses.cross_entropy, z=extreme()[[0, 1, 2, 3, 4, 5, 6, 0]])


def test_label_smoothing_is_optax():
    def by_optax(z, y):
        return optax.softmax_cross_entropy(z, optax.smooth_labels(jax.nn.one_hot(y, CLASSES, dtype=z.dtype), 0.3))

    same(losses.label_smoothing(0.3), by_optax)


def test_backward_correction_is_unbiased():
    """sum_j T_yj backward_j = CE_y, in value and row."""
    backward = losses.backward_correction(TRANSITION)

    def mean_over_noise(z, y):
        return sum(jnp.asarray(TRANSITION[Y, j], z.dtype) * backward(z, jnp.full_like(y, j)) for j in range(CLASSES))

    same(mean_over_noise, losses.cross_entropy)
    assert backward(jnp.asarray(Z), jnp.asarray(Y)).min() < 0  # a well-classified example


def test_forward_correction_is_minimal_at_the_clean_posterior():
    """With noisy labels drawn from p T, the mean row at z = log p is 0; that of cross-entropy is not."""
    noisy = (softmax(Z) @ TRANSITION).astype(np.float32)

    def mean_row(loss):
        return value_and_rows(loss, jnp.asarray(Z), jnp.asarray(noisy))[1]

    np.testing.assert_allclose(mean_row(losses.forward_correction(TRANSITION)), 0, atol=1e-6)
    assert np.abs(mean_row(losses.cross_entropy)).max() > 0.05


def test_logit_adjustment_shifts_the_prior():
    """z = log-likelihood: the adjusted softmax is the posterior under the training prior, z itself the balanced one."""
    prior, likelihood = COUNTS / COUNTS.sum(), softmax(Z.astype(np.float64)) * 3
    posterior = prior * likelihood / (prior * likelihood).sum(-1, keepdims=True)
    z = jnp.asarray(np.log(likelihood), jnp.float32)
    loss = losses.logit_adjusted(COUNTS)(z, jnp.asarray(Y))
    np.testing.assert_allclose(loss, -np.log(of_label(posterior, Y)), rtol=1e-6, atol=1e-6)
    rows = value_and_rows(losses.logit_adjusted(COUNTS), z, jnp.asarray(posterior, jnp.float32))[1]
    np.testing.assert_allclose(rows, 0, atol=1e-6)  # a minimum of the training risk
    balanced = jax.nn.softmax(losses.adjust_logits(jnp.asarray(np.log(posterior), jnp.float32), COUNTS))
    np.testing.assert_allclose(balanced, likelihood / likelihood.sum(-1, keepdims=True), atol=1e-6)


def test_post_hoc_adjustment_is_a_subtraction():
    got = losses.adjust_logits(jnp.asarray(Z, jnp.bfloat16), COUNTS, tau=0.5)
    assert got.dtype == jnp.float32
    exact = np.float32(jnp.asarray(Z, jnp.bfloat16)) - 0.5 * np.log(COUNTS / COUNTS.sum())
    np.testing.assert_allclose(got, exact, rtol=1e-6, atol=1e-6)
    same(lambda z, y: losses.logit_adjusted(COUNTS)(losses.adjust_logits(z, COUNTS), y), losses.cross_entropy)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: losses.generalized_cross_entropy(q=-0.1), r"q=-0.1: must be <= 1 and > 0"),
        (lambda: losses.generalized_cross_entropy(q=0), r"q=0: must be <= 1 and > 0"),
        (lambda: losses.generalized_cross_entropy(q=[0.1, 0.2]), r"q.shape=\(2,\): must be \(\), one number"),
        (lambda: losses.symmetric_cross_entropy(-1, 1), r"alpha=-1: must be >= 0"),
        (lambda: losses.symmetric_cross_entropy(1, float("nan")), r"beta=nan: must be >= 0"),
        (lambda: losses.symmetric_cross_entropy(0, 0), r"alpha=0, beta=0: one of them must be > 0"),
        (lambda: losses.symmetric_cross_entropy(1, 1, log_zero=4), r"log_zero=4: must be < 0"),
        (lambda: losses.focal(-2), r"gamma=-2: must be >= 0"),
        (lambda: losses.label_smoothing(1.0), r"alpha=1.0: must be >= 0 and < 1"),
        (lambda: losses.logit_adjusted([3, 0]), r"class_counts\[1\]=0: must be > 0; drop the class or merge it"),
        (lambda: losses.logit_adjusted([3, 1], tau=-1), r"tau=-1: must be >= 0"),
        (lambda: losses.adjust_logits(jnp.zeros((1, 2)), [-3, 1]), r"class_counts\[0\]=-3: must be > 0"),
        (lambda: losses.adjust_logits(jnp.zeros((1, 2)), [3, 1, 1]), r"class_counts.shape=\(3,\): must be \(2,\)"),
        (lambda: losses.ldam([[3, 1]]), r"class_counts.shape=\(1, 2\): must be \(C,\)"),
        (lambda: losses.ldam(["a"]), r"class_counts=\['a'\]: must be \(C,\) numbers"),
        (lambda: losses.ldam([3, 1], max_margin=-1), r"max_margin=-1: must be >= 0"),
        (lambda: losses.ldam([3, 1], scale=0), r"scale=0: must be > 0"),
        (lambda: jax.jit(losses.ldam)(jnp.ones(2)), r"class_counts=.*: must be concrete"),
        (lambda: losses.forward_correction(np.ones((2, 3))), r"transition.shape=\(2, 3\): must be \(C, C\)"),
        (lambda: losses.forward_correction([[1, 0], [0.5, 0.4]]), r"transition\[1\] sums to 0.9, minimum 0.4: rows"),
        (lambda: losses.backward_correction([[1.5, -0.5], [0, 1]]), r"transition\[0\] sums to 1, minimum -0.5: rows"),
        (lambda: losses.backward_correction(np.full((2, 2), 0.5)), r"condition number .*: must be below 1e\+06"),
        (lambda: jax.jit(losses.backward_correction)(jnp.eye(2)), r"transition=.*: must be concrete"),
        (lambda: losses.label_smoothing()(jnp.zeros((2, 3)), jnp.zeros((2, 3))), r"smoothing takes integers only"),
    ],
)  # fmt: skip
def test_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make()
