"""`equalization` and `density_harmonizing` against their equations, over batches."""

import jax
import jax.numpy as jnp
import laws
import numpy as np
import operator_reference as reference
import optax
import pytest
from laws import CLASSES, COUNTS, draw, gradient_rows

import lpg_jax
from lpg_jax import transforms

pytestmark = [pytest.mark.usefixtures("strict"), pytest.mark.slow]

ROW = jnp.zeros(CLASSES)


def wide(*arrays):
    return [np.asarray(a, np.float64) for a in arrays]


def once(tx, d, rows=None, **more):
    rows = gradient_rows(d) if rows is None else rows
    return tx.update(rows, tx.init(ROW), None, labels=d.labels, logits=d.logits, **more)[0]


def over_batches(tx, expected, seeds=range(6)):
    """Compares the rows of several batches with a reference that keeps its own state."""
    state = tx.init(ROW)
    step = jax.jit(lambda rows, state, d: tx.update(rows, state, None, labels=d.labels, logits=d.logits))
    for seed in seeds:
        d = draw(seed)
        rows = gradient_rows(d)
        edited, state = step(rows, state, d)
        np.testing.assert_allclose(edited, expected(*wide(rows, d.logits), np.asarray(d.labels)), rtol=2e-4, atol=1e-6)
    return state


# -- EQL-v2 -----------------------------------------------------------------------------------------------------------


def test_equalization_is_its_equation():
    """Over several batches, with the weights of a step from the re-weighted sums before it."""
    expected = reference.Equalization(CLASSES)
    state = over_batches(transforms.equalization(), lambda rows, logits, labels: expected(rows, labels))
    np.testing.assert_allclose(state.class_positive, expected.positive, rtol=1e-4)
    np.testing.assert_allclose(state.class_negative, expected.negative, rtol=1e-4)
    assert state.class_positive[laws.ABSENT] == 0
    np.testing.assert_allclose(state.class_gain[laws.ABSENT], 1 / (1 + np.exp(12 * 0.8)), rtol=1e-3)
    options = {"gamma": 5.0, "mu": 0.5, "alpha": 2.0}
    other = reference.Equalization(CLASSES, **options)
    over_batches(transforms.equalization(**options), lambda rows, logits, labels: other(rows, labels))


class PlainSums(reference.Equalization):
    """A fault: the plain gradients are accumulated."""

    def __call__(self, rows, labels):
        edited, own = super().__call__(rows, labels), np.eye(CLASSES)[labels] > 0
        for sums, chosen in ((self.positive, own), (self.negative, ~own)):
            sums += np.sum((np.abs(rows) - np.abs(edited)) * chosen, axis=0)
        return edited


class OneStepAhead(reference.Equalization):
    """A fault: the factors read the batch itself."""

    def __call__(self, rows, labels):
        super().__call__(rows, labels)
        sums = self.positive.copy(), self.negative.copy()
        edited = super().__call__(rows, labels)
        self.positive, self.negative = sums
        return edited


@pytest.mark.parametrize("fault", [PlainSums, OneStepAhead])
def test_equalization_faults_are_caught(fault):
    expected = fault(CLASSES)
    with pytest.raises(AssertionError):
        over_batches(transforms.equalization(), lambda rows, logits, labels: expected(rows, labels))


def test_equalization_starts_plain_and_favours_the_rare_class():
    """First step bit-identical; then a class whose positives are outweighed gets more push up and less push down."""
    tx, d = transforms.equalization(), draw()
    state = tx.init(ROW)
    edited, state = tx.update(gradient_rows(d), state, None, labels=d.labels)
    np.testing.assert_array_equal(edited, gradient_rows(d))
    order = np.argsort(np.asarray(state.class_positive / state.class_negative))
    assert np.all(np.diff(np.asarray(state.class_gain)[order]) >= 0)
    assert np.abs(np.sum(tx.update(gradient_rows(d), state, None, labels=d.labels)[0], axis=1)).max() > 0.1
    chained = optax.chain(tx, transforms.zero_sum())
    rows = chained.update(gradient_rows(d), (state, optax.EmptyState()), None, labels=d.labels)[0]
    np.testing.assert_allclose(np.sum(rows, axis=1), 0, atol=1e-5)


def test_equalization_soft_labels():
    """One-hot membership is integer labels."""
    d, tx = draw(), transforms.equalization()
    state = tx.init(ROW)
    for _ in range(2):
        hard = tx.update(gradient_rows(d), state, None, labels=d.labels)
        soft = tx.update(gradient_rows(d), state, None, labels=jax.nn.one_hot(d.labels, CLASSES))
        for a, b in zip(jax.tree.leaves(hard), jax.tree.leaves(soft), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        state = hard[1]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"gamma": 0.0}, "gamma=0.0: must be > 0"),
        ({"mu": np.nan}, "mu=nan: must be finite"),
        ({"alpha": -1}, "alpha=-1: must be >= 0"),
        ({"alpha": [1.0, 2.0]}, r"alpha.shape=\(2,\): must be \(\), one number"),
    ],
)
def test_equalization_errors(options, text):
    with pytest.raises(ValueError, match=text):
        transforms.equalization(**options)


# -- GHM --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bins", "momentum"), [(10, 0.75), (4, 0.0), (1, 0.5)])
def test_density_is_its_equation(bins, momentum):
    expected = reference.Density(bins, momentum)
    state = over_batches(transforms.density_harmonizing(bins, momentum), expected)
    np.testing.assert_allclose(state.bin_count, expected.count, rtol=1e-5)


class EmptyBinsCount(reference.Density):
    """A fault: M counts the regions without examples."""

    def __call__(self, rows, logits, labels):
        regions = {min(int((1 - 1 / np.sum(np.exp(z - z[y]))) * self.bins), self.bins - 1)
                   for z, y in zip(logits, labels, strict=True)}  # fmt: skip
        return super().__call__(rows, logits, labels) * len(regions) / self.bins


class EmptyBinsDecay(reference.Density):
    """A fault: the counts of regions without examples decay."""

    def __call__(self, rows, logits, labels):
        before = self.count.copy()
        edited = super().__call__(rows, logits, labels)
        self.count = np.where(self.count == before, self.momentum * before, self.count)
        return edited


class StartsAtZero(reference.Density):
    """A fault: the first counts enter with 1 - momentum only."""

    def __call__(self, rows, logits, labels):
        self.count = np.where(self.count == 0, 1e-30, self.count)
        return super().__call__(rows, logits, labels)


@pytest.mark.parametrize("fault", [EmptyBinsCount, EmptyBinsDecay, StartsAtZero])
def test_density_faults_are_caught(fault):
    with pytest.raises(AssertionError):
        over_batches(transforms.density_harmonizing(), fault())


def test_density_weights_have_mean_one_and_regions_weigh_alike():
    """With momentum 0: mean weight 1, and every region with examples has the same total weight."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(200, 3)) * 3, jnp.float32)
    labels = jnp.asarray(rng.integers(0, 3, 200), jnp.int32)
    rows = jax.nn.softmax(logits) - jax.nn.one_hot(labels, 3)
    tx = transforms.density_harmonizing(momentum=0.0)
    edited = tx.update(rows, tx.init(jnp.zeros(3)), None, labels=labels, logits=logits)[0]
    weight = np.linalg.norm(edited, axis=1) / np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(weight.mean(), 1, rtol=1e-4)
    region = np.minimum((np.abs(rows).max(axis=1) * 10).astype(int), 9)
    np.testing.assert_allclose([weight[region == k].sum() for k in range(10)], 20, rtol=1e-3)


def test_density_edges():
    """g = 1 lies in the last region; one-hot targets are hard ones; rows with NaN logits pass, out of the counts."""
    tx = transforms.density_harmonizing()
    logits, labels = jnp.array([[0.0, 300.0], [0.0, 300.0], [5.0, jnp.nan]]), jnp.array([0, 1, 0])
    rows = jnp.array([[-1.0, 1.0], [0.0, 0.0], [-0.5, 0.5]])
    edited, state = tx.update(rows, tx.init(jnp.zeros(2)), None, labels=labels, logits=logits)
    np.testing.assert_array_equal(state.bin_count, [1, *[0] * 8, 1])
    np.testing.assert_array_equal(edited, rows)
    d = draw()
    hot = jax.nn.one_hot(d.labels, CLASSES)
    np.testing.assert_allclose(once(tx, d), once(tx, d._replace(labels=hot), gradient_rows(d)), rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bins": 0}, "bins=0: must be >= 1"),
        ({"bins": 2.5}, "bins=2.5: must be an integer"),
        ({"momentum": 1.0}, "momentum=1.0: must be >= 0 and < 1"),
        ({"momentum": [0.1]}, r"momentum.shape=\(1,\): must be \(\), one number"),
    ],
)
def test_density_errors(options, text):
    with pytest.raises(ValueError, match=text):
        transforms.density_harmonizing(**options)
    with pytest.raises(ValueError, match=r"logits=None: pass tx.update"):
        transforms.density_harmonizing().update(jnp.zeros((2, 2)), None, None, labels=jnp.zeros(2, jnp.int32))


def test_micro_batches():
    """Stateless operators go with commit=False; stateful ones say what they are."""
    d = draw()
    loss_fn = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, transforms.class_balanced(COUNTS, 0.99))
    assert loss_fn(d.logits, d.labels, optax.EmptyState(), commit=False)[1] == ()
    for tx, name in (
        (transforms.equalization(), "EqualizationState"),
        (transforms.density_harmonizing(), "DensityState"),
        (transforms.class_balanced(COUNTS, start_step=3), "ClassBalancedState"),
        (transforms.row_noise(0.1, key=0), "RowNoiseState"),
        (transforms.watch_classes(transforms.zero_sum()), "WatchState"),
    ):
        with pytest.raises(TypeError, match=f"{name}: a transformation with a state of its own"):
            lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx)(d.logits, d.labels, tx.init(ROW), commit=False)
