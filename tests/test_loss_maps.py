"""The normalised head, learnt and estimated transition matrices, mixup and CutMix."""

import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import optax
import pytest
from loss_table import CLASSES, COUNTS, EYE, TRANSITION, softmax

import lpg_jax
from lpg_jax import losses

pytestmark = pytest.mark.usefixtures("strict")

# -- LDAM on plain logits ---------------------------------------------------------------------------------------------


@pytest.fixture
def wide(strict):
    with jax.enable_x64(True):
        yield


def head(seed=0, batch=6, width=3):
    rng = np.random.default_rng(seed)
    shapes = ((batch, width), (width, CLASSES), (CLASSES,))
    return tuple(jnp.asarray(rng.normal(size=shape)) for shape in shapes), jnp.asarray([0, 1, 2, 3, 4, 1])


@pytest.mark.usefixtures("wide")
def test_cosine_logits():
    """Against NumPy; no scale of features or kernel matters; a zero vector has cosine 0 and a finite gradient."""
    (features, kernel, _), _ = head()
    run = jax.jit(jax.value_and_grad(lambda phi, w: (lambda c: (c.sum(), c))(losses.cosine_logits(phi, w)),
                                     argnums=(0, 1), has_aux=True))  # fmt: skip
    phi, w = np.float64(features), np.float64(kernel)
    exact = (phi / np.linalg.norm(phi, axis=1, keepdims=True)) @ (w / np.linalg.norm(w, axis=0))
    for scale in (1, 1e3):
        (_, cosines), _ = run(features * scale, kernel / scale)
        np.testing.assert_allclose(cosines, exact, atol=1e-12)
    (_, cosines), gradients = run(features.at[0].set(0), kernel.at[:, 1].set(0))
    assert not np.any(cosines[0])
    assert not np.any(cosines[:, 1])
    assert all(np.isfinite(leaf).all() for leaf in gradients)


@pytest.mark.usefixtures("wide")
def test_ldam_takes_plain_logits():
    """Plain logits with their features, kernel and bias are the cosines, in value and in every gradient; what a row
    out of range holds does not matter."""
    parameters, labels = head()
    loss = losses.ldam(COUNTS, scale=5.0)
    labels = labels.at[0].set(-1)

    def of_logits(logits, features, kernel, bias):
        return loss(logits, labels, features=features, head_kernel=kernel, head_bias=bias).sum()

    def plain(features, kernel, bias):
        return of_logits(features @ kernel + bias[None], features, kernel, bias)

    def normalised(features, kernel, bias):
        return loss(losses.cosine_logits(features, kernel), labels).sum() + 0 * bias.sum()

    ours, expected = (jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2)))(*parameters) for f in (plain, normalised))
    for got, exact in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, exact, rtol=1e-11, atol=1e-12)
    gradient = jax.jit(jax.grad(of_logits, argnums=(0, 1, 2, 3)))
    features, kernel, bias = parameters
    logits = features @ kernel + bias[None]
    wild = gradient(logits.at[0].set(jnp.nan), features.at[0].set(jnp.nan), kernel, bias)
    laws.equal(wild, gradient(logits, features, kernel, bias))
    laws.equal(wild[0][0], jnp.zeros(CLASSES))


@pytest.mark.usefixtures("wide")
def test_a_transformation_sees_the_rows_of_ldam():
    """Under `perturbed` the rows at the raw logits are edited: LPG adds epsilon to the norm of a rare class."""
    (features, kernel, bias), labels = head()
    tx = lpg_jax.lpg(lpg_jax.by_frequency(COUNTS), lpg_jax.fixed(0.3))
    logits, args = features @ kernel + bias[None], {"features": features, "head_kernel": kernel, "head_bias": bias}

    def rows(tx):
        loss_fn = lpg_jax.perturbed(losses.ldam(COUNTS), tx)
        state = tx.init(jnp.zeros(CLASSES))
        return jax.jit(jax.grad(lambda z: loss_fn(z, labels, state, loss_args=args)[0].sum()))(logits)

    before, after = laws.norms(rows(optax.identity())), laws.norms(rows(tx))
    rare = np.asarray(labels) >= 3
    assert before[rare].min() > 0.01
    np.testing.assert_allclose(after[rare] - before[rare], 0.3, atol=1e-12)


# -- transition matrices ----------------------------------------------------------------------------------------------


@jax.jit
def with_transition(logits, labels, matrix):
    """Losses, and the gradient of their sum at logits and matrix, of a loss that takes T by loss_args."""
    loss_fn = lpg_jax.perturbed(losses.forward_correction(), optax.identity())

    def total(logits, matrix):
        value, _ = loss_fn(logits, labels, optax.EmptyState(), loss_args={"transition": matrix})
        return value.sum(), value

    return jax.grad(total, argnums=(0, 1), has_aux=True)(logits, matrix)


@pytest.mark.usefixtures("wide")
def test_a_transition_matrix_can_be_learnt():
    """As a loss argument it gets the plain gradient, -p_i / (p T)_y in column y, at its zeros too."""
    z, labels = np.random.default_rng(1).normal(size=(4, CLASSES)), np.array([0, 2, 2, 4], np.int32)
    matrix = EYE.copy()
    matrix[0] = TRANSITION[0]
    p = softmax(z)
    noisy = p @ matrix
    expected = np.zeros((CLASSES, CLASSES))
    for i, y in enumerate(labels):
        expected[:, y] -= p[i] / noisy[i, y]
    (_, gradient), value = with_transition(z, labels, matrix)
    np.testing.assert_allclose(value, -np.log(noisy[np.arange(4), labels]), rtol=1e-12)
    np.testing.assert_allclose(gradient, expected, rtol=1e-11, atol=1e-12)


def test_a_label_that_cannot_be():
    """No class of positive probability turns into the label: the loss is inf, the row 0."""
    matrix = np.tile(EYE[0], (CLASSES, 1)).astype(np.float32)
    (rows, gradient), value = with_transition(np.zeros((4, CLASSES), np.float32), np.array([1, 0, 0, 0]), matrix)
    assert np.isposinf(value[0])
    laws.equal(rows[0], jnp.zeros(CLASSES))
    np.testing.assert_allclose(value[1:], 0, atol=1e-6)
    assert np.isfinite(gradient).all()


def test_one_transition_matrix_only():
    z, labels, matrix = jnp.zeros((4, CLASSES)), jnp.zeros(4, jnp.int32), jnp.asarray(EYE, jnp.float32)
    loss = losses.forward_correction()
    with pytest.raises(ValueError, match=r"transition is given nowhere: must come either"):
        loss(z, labels)
    with pytest.raises(ValueError, match=r"transition is given twice: must come either"):
        losses.forward_correction(EYE)(z, labels, transition=matrix)
    with pytest.raises(ValueError, match=r"transition\[1\] sums to 2"):
        loss(z, labels, transition=matrix.at[1].multiply(2))


def noisy_posteriors(number=2000, seed=2):
    """Posteriors p T, where a tenth of the examples are certain of their true class."""
    rng = np.random.default_rng(seed)
    clean = rng.dirichlet(np.ones(CLASSES), size=number)
    clean[: number // 2] = np.repeat(EYE, number // 10, axis=0)
    return clean @ TRANSITION, rng


@pytest.mark.parametrize("quantile", [0.95, 0.97, 1.0])
def test_estimated_transition_is_the_planted_one(quantile):
    posteriors, _ = noisy_posteriors()
    np.testing.assert_allclose(losses.estimate_transition(posteriors, quantile=quantile), TRANSITION, atol=1e-12)


def test_estimated_transition_survives_outliers_by_its_quantile():
    """One absurdly confident example per class ruins the maximum, not the quantile."""
    posteriors, _ = noisy_posteriors()
    spoilt = np.concatenate([posteriors, EYE])
    laws.equal(losses.estimate_transition(spoilt, quantile=1.0), EYE)
    np.testing.assert_allclose(losses.estimate_transition(spoilt), TRANSITION, atol=1e-12)


def test_estimated_transition_from_noisy_labels():
    """Shares of the noisy labels among the anchors, also where the model is over-confident and its p_j are wrong."""
    posteriors, rng = noisy_posteriors(8000)
    labels = (posteriors.cumsum(axis=1) > rng.random((len(posteriors), 1))).argmax(axis=1)
    sharpened = posteriors**3 / (posteriors**3).sum(axis=1, keepdims=True)
    by_counts = losses.estimate_transition(sharpened, labels, quantile=0.91)
    np.testing.assert_allclose(by_counts, TRANSITION, atol=0.06)  # about 800 anchors per class: 3.4 sigma
    np.testing.assert_allclose(by_counts.sum(axis=1), 1)
    assert np.abs(losses.estimate_transition(sharpened) - TRANSITION).max() > 0.1


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda p: losses.estimate_transition(p, quantile=0.0), r"quantile=0.0: must be <= 1 and > 0"),
        (lambda p: losses.estimate_transition(p[0]), r"probabilities.shape=\(5,\): must be \(N, C\)"),
        (lambda p: losses.estimate_transition(np.log(p)), r"probabilities\[0\] sums to .*: must be >= 0, sum 1"),
        (lambda p: losses.estimate_transition(p, np.zeros(3, int)), r"labels.shape=\(3,\): must be \(10,\)"),
        (lambda p: losses.estimate_transition(p, np.full(10, 5)), r"labels: must be integers in \[0, 5\)"),
    ],
)
def test_estimate_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make(noisy_posteriors(10)[0])


# -- mixup and CutMix -------------------------------------------------------------------------------------------------

BATCH, KEYS, SIDE = 8, 2000, 16
IMAGES = np.broadcast_to(np.arange(BATCH, dtype=np.uint8)[:, None, None, None], (BATCH, SIDE, SIDE, 1))
TARGETS = np.eye(BATCH, dtype=np.float32)
MASK = np.array([1, 1, 0, 1, 1, 1, 0, 1], bool)
EVERYONE = np.ones(BATCH, bool)


@functools.cache
def over_keys(function):
    run = jax.vmap(lambda key, *rest: function(key, *rest[:3], mask=rest[3]), (0, None, None, None, None))
    return jax.jit(run)


def many(function, inputs, alpha, mask=EVERYONE):
    """The function at KEYS keys: inputs and targets [KEYS, B, ...]; alpha and mask are traced."""
    keys = jax.random.split(jax.random.key(0), KEYS)
    return jax.tree.map(np.asarray, over_keys(function)(keys, inputs, TARGETS, np.float32(alpha), mask))


def test_mixup_is_one_convex_combination():
    """Inputs and targets share lam and partner; lam has the moments of Beta(0.4, 0.4); partners are uniform."""
    inputs, targets = many(losses.mixup, TARGETS, alpha=0.4)
    laws.equal(inputs, targets)
    for axis in (-1, -2):  # over the two of a mixture; over where an example goes, since partners are a permutation
        np.testing.assert_allclose(targets.sum(axis), 1, atol=1e-6)
    assert targets.min() >= 0
    diagonal = np.diagonal(targets, axis1=1, axis2=2)
    lam = diagonal.min(-1)
    assert np.all((diagonal > 1 - 1e-6) | np.isclose(diagonal, lam[:, None], rtol=1e-6))  # one lam for the batch
    assert lam.mean() == pytest.approx(0.5, abs=0.04)  # 5 sigma
    assert lam.var() == pytest.approx(1 / (4 * 1.8), abs=0.014)
    np.testing.assert_allclose((targets[:, 0, 1:] > 0).mean(0), 1 / BATCH, atol=0.037)


def test_padding_mixes_into_nothing():
    """Masked examples pass to the bit, NaN too; the others mix among themselves alone, all of them."""
    wild = np.where(MASK[:, None], TARGETS, np.float32(np.nan))
    inputs, targets = many(losses.mixup, wild, alpha=1.0, mask=MASK)
    assert np.isnan(inputs[:, ~MASK]).all()
    laws.equal(targets[:, ~MASK], np.broadcast_to(TARGETS[~MASK], targets[:, ~MASK].shape))
    laws.equal(inputs[:, MASK], np.where(MASK, targets[:, MASK], 0))


def test_cutmix_weights_are_areas():
    """The share of pasted pixels is the partner's weight to the bit; boxes are boxes, and reach every pixel."""
    images, targets = many(losses.cutmix, IMAGES, alpha=1.0, mask=MASK)
    assert images.dtype == np.uint8
    shares = [(images == label).mean((2, 3, 4), dtype=np.float32) for label in range(BATCH)]
    laws.equal(np.stack(shares, axis=-1), targets)
    laws.equal(images[:, ~MASK], np.broadcast_to(IMAGES[~MASK], images[:, ~MASK].shape))
    box = (images != IMAGES).any((1, 4))  # [KEYS, H, W], where any example of the batch was changed
    rows, columns = box.any(2), box.any(1)
    laws.equal(box, rows[:, :, None] & columns[:, None, :])
    for sides in (rows, columns):
        assert np.all(np.abs(np.diff(np.pad(sides, ((0, 0), (1, 1))).astype(int), axis=1)).sum(1) <= 2)  # one run
    assert box.any(0).all()


def test_cutmix_box_has_the_drawn_area():
    """lam = 1/2: sides floor(16 sqrt(1/2)) = 11, less what the border cuts off, around a uniform centre."""
    _, targets = many(losses.cutmix, IMAGES, alpha=1e9)
    area = (1 - targets[targets[:, 0, 0] < 1][:, 0, 0]) * SIDE**2
    starts = np.arange(SIDE) - 5
    lengths = np.minimum(starts + 11, SIDE) - np.maximum(starts, 0)
    assert area.max() == 121
    assert set(area.tolist()) <= {float(a * b) for a in lengths for b in lengths}
    assert area.mean() == pytest.approx(lengths.mean() ** 2, abs=3)  # 5 sigma


def test_mixing_is_off_at_alpha_zero_and_keeps_dtypes():
    for function, inputs in ((losses.mixup, TARGETS), (losses.cutmix, IMAGES)):
        got = many(function, inputs, alpha=0.0)
        laws.equal(got, jax.tree.map(lambda a: np.broadcast_to(a, (KEYS, *a.shape)), (inputs, TARGETS)))
        half = jnp.zeros((BATCH, SIDE, SIDE, 1), jnp.bfloat16), jnp.zeros((BATCH, 3), jnp.bfloat16)
        shapes = jax.eval_shape(lambda key, f=function, half=half: f(key, *half, 0.5), jax.random.key(0))
        assert [(leaf.shape, leaf.dtype) for leaf in shapes] == [(leaf.shape, leaf.dtype) for leaf in half]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda key, t: losses.mixup(key, jnp.zeros((4, 2)), t, alpha=-1), r"alpha=-1: must be >= 0"),
        (lambda key, t: losses.mixup(key, jnp.zeros((4, 2), jnp.uint8), t), r"inputs.dtype=uint8: must be floating"),
        (lambda key, t: losses.mixup(key, jnp.zeros((3, 2)), t), r"targets.shape=\(4, 4\): must be \(3, 4\)"),
        (lambda key, t: losses.mixup(key, jnp.zeros((4, 2)), jnp.arange(4)), r"targets: int32\[4\] must be floating"),
        (lambda key, t: losses.mixup(key, t, t, mask=jnp.ones(3)), r"mask.shape=\(3,\): must be \(4,\)"),
        (lambda key, t: losses.cutmix(key, jnp.zeros((4, 2)), t), r"images.shape=\(4, 2\): must be \(B, H, W, K\)"),
        (lambda key, t: losses.ldam(COUNTS)(t, jnp.arange(4), features=t), r"features= and head_kernel= must come tog"),
        (lambda key, t: losses.cosine_logits(t, jnp.zeros((3, 2))), r"head_kernel.shape=\(3, 2\): must be \(4, C\)"),
    ],
)
def test_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make(jax.random.key(0), jnp.eye(4))
