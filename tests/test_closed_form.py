"""`lpg` against the equations: an independent NumPy reference, the norm laws and the statistics over several steps."""

import itertools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import reference

import lpg_jax

pytestmark = pytest.mark.usefixtures("strict")
COUNTS = laws.COUNTS
RULES = {
    "frequency": (lambda: lpg_jax.by_frequency(COUNTS), lambda s: reference.margin_by_frequency(COUNTS)),
    "accuracy": (lpg_jax.by_accuracy, lambda s: reference.margin_by_accuracy(s.accuracy, s.seen)),
    "variance": (
        lambda: lpg_jax.by_gradient_variance("median"),
        lambda s: reference.margin_by_variance(s.variance, s.seen, "median"),
    ),
}


def batches(soft, steps=4):
    """Batches with a mask, a row of NaN, a label out of range, mixup targets if soft."""
    made = []
    for seed in range(steps):
        d = laws.draw(seed, absent=seed % laws.CLASSES)
        mask = np.arange(laws.BATCH) % 4 != seed % 4
        labels = np.array(d.labels)
        if soft:
            share = np.random.default_rng(seed).beta(1, 1, size=(laws.BATCH, 1))
            eye = np.eye(laws.CLASSES)
            labels = (share * eye[labels] + (1 - share) * eye[np.roll(labels, 1)]).astype(np.float32)
        else:
            labels[0] = -1
        rows = np.array(laws.gradient_rows(d, None if not soft else jnp.asarray(labels)))
        rows[1] = np.nan
        made.append((rows, labels, np.asarray(d.logits), mask))
    return made


def run(tx, made):
    state, edited = tx.init(jnp.zeros(laws.CLASSES)), []
    step = jax.jit(lambda r, s, y, z, m: tx.update(r, s, None, labels=y, logits=z, mask=m))
    for rows, labels, logits, mask in made:
        out, state = step(*map(jnp.asarray, (rows,)), state, *map(jnp.asarray, (labels, logits, mask)))
        edited.append(np.asarray(out))
    return edited, state


OPTIONS = {
    "default": {},
    "unclamped": {"clamp": False},
    "refresh": {"refresh_every": 2},
    "warmup": {"warmup": 2},
    "slow": {"decay": 0.5},
    "capped": {"max_scale": 1.5},
    "running": {"source": "running"},
}


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize(
    ("direction", "rule", "option"),
    [
        *itertools.product(("sample", "class_mean", "class_scale"), ("frequency",), OPTIONS),
        *itertools.product(("sample", "class_mean"), ("accuracy", "variance"), ("default", "refresh")),
    ],
)
def test_equals_the_reference(direction, rule, option, soft):
    options = OPTIONS[option]
    split, margin_rule = RULES[rule]
    made = batches(soft)
    tx = lpg_jax.lpg(split(), lpg_jax.varied(0.7, 0.4), direction=direction, **options)
    edited, state = run(tx, made)
    expected, statistics = reference.run(made, laws.CLASSES, margin_rule, 0.7, 0.4, direction=direction, **options)
    for ours, theirs in zip(edited, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-5)
    np.testing.assert_allclose(state.stats.class_accuracy, statistics.accuracy, atol=1e-6)
    np.testing.assert_allclose(state.stats.class_grad_variance, statistics.variance, atol=1e-5)
    np.testing.assert_array_equal(state.stats.class_seen, statistics.seen)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("direction", ["sample", "class_mean", "class_scale"])
def test_many_classes_equal_dense(direction, soft):
    """Above dense_limit the rows are the same; only the variance is estimated from pairs."""
    made = batches(soft)

    def make(limit):
        split = lpg_jax.by_frequency(COUNTS)
        return lpg_jax.lpg(split, lpg_jax.fixed(0.4), direction=direction, dense_limit=limit)

    dense, dense_state = run(make(4096), made)
    large, large_state = run(make(0), made)
    np.testing.assert_allclose(large, dense, atol=2e-5)
    np.testing.assert_allclose(large_state.stats.class_accuracy, dense_state.stats.class_accuracy, atol=1e-6)
    assert max(leaf.size for leaf in jax.tree.leaves(large_state)) == laws.CLASSES


def test_pair_sums_equal_the_reference():
    made = batches(soft=False, steps=1)
    rows, labels, _logits, mask = made[0]
    tx = lpg_jax.lpg(lpg_jax.by_accuracy(), lpg_jax.fixed(0.1), dense_limit=0, decay=0.0)
    _, state = run(tx, made)
    products, pairs = reference.pair_norm2(rows, labels, mask)
    np.testing.assert_allclose(state.sums.pair_product, products, atol=1e-5)
    np.testing.assert_allclose(state.sums.pair_count, pairs, atol=1e-5)


def state_with_margins(epsilon=0.3, direction="sample", **options):
    tx = lpg_jax.lpg(lpg_jax.by_frequency(COUNTS), lpg_jax.fixed(epsilon), direction=direction, **options)
    return tx, tx.init(jnp.zeros(laws.CLASSES))


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 3.0])
def test_sample_norms(epsilon):
    """||h~|| = ||h|| + eps, or max(||h|| - eps, 0); never rotates."""
    tx, state = state_with_margins(epsilon)
    d = laws.draw(30, absent=None)
    rows = laws.gradient_rows(d)
    edited, _ = laws.update(tx, d, state)
    sign = laws.sign_of(state, d.labels)
    expected = np.maximum(laws.norms(rows) + sign * epsilon, 0)
    np.testing.assert_allclose(laws.norms(edited), expected, atol=1e-5)
    alignment = np.sum(np.asarray(edited) * np.asarray(rows), axis=-1)
    np.testing.assert_allclose(alignment, laws.norms(edited) * laws.norms(rows), atol=1e-5)


@pytest.mark.parametrize("direction", ["class_mean", "class_scale"])
@pytest.mark.parametrize("epsilon", [0.1, 0.5, 3.0])
def test_class_mean_norms(direction, epsilon):
    """The class mean grows by eps or shrinks by min(eps, ||m_c||)."""
    tx, state = state_with_margins(epsilon, direction, max_scale=1e3)
    d = laws.draw(31, absent=None)
    edited, _ = laws.update(tx, d, state)
    for c in np.unique(d.labels):
        before = laws.norms(laws.class_mean(laws.gradient_rows(d), d.labels, c))
        after = laws.norms(laws.class_mean(edited, d.labels, c))
        expected = max(before + np.sign(state.class_margin[c]) * epsilon, 0)
        np.testing.assert_allclose(after, expected, atol=1e-5)


def test_directions_coincide_for_one_example_per_class():
    d = laws.draw(32)._replace(labels=jnp.arange(laws.CLASSES))
    d = d._replace(logits=d.logits[: laws.CLASSES], features=d.features[: laws.CLASSES])
    results = []
    for direction in ("sample", "class_mean", "class_scale"):
        tx, state = state_with_margins(0.2, direction)
        results.append(laws.update(tx, d, state)[0])
    np.testing.assert_allclose(results[1], results[0], atol=1e-6)
    np.testing.assert_allclose(results[2], results[0], atol=1e-6)


def test_unclamped_dampening_overshoots():
    tx, state = state_with_margins(3.0, clamp=False)
    d = laws.draw(33)
    edited, _ = laws.update(tx, d, state)
    head = np.asarray(d.labels) == 0
    assert (np.sum(np.asarray(edited * laws.gradient_rows(d)), axis=-1)[head] < 0).all()


def test_max_scale_caps_the_factor():
    """A class mean that nearly cancels would scale its rows without bound."""
    rows = jnp.array([[1.0, -1.0], [-1.0, 1.0 + 1e-4]])
    tx = lpg_jax.lpg(lpg_jax.by_frequency([9, 1]), lpg_jax.fixed(0.5), direction="class_scale", max_scale=4.0)
    edited, _ = laws.compiled(tx)(rows, tx.init(jnp.zeros(2)), {"labels": jnp.array([1, 1]), "logits": rows})
    np.testing.assert_allclose(edited, 4 * rows, rtol=1e-6)


def test_max_scale_caps_the_literal_factor_from_below():
    """Without the clamp 1 - eps / ||m_c|| has no lower bound."""
    rows = jnp.array([[1.0, -1.0], [-1.0, 1.0 + 1e-3]])
    split = lpg_jax.by_frequency([9, 1])
    tx = lpg_jax.lpg(split, lpg_jax.fixed(0.5), direction="class_scale", max_scale=4.0, clamp=False)
    edited, _ = laws.compiled(tx)(rows, tx.init(jnp.zeros(2)), {"labels": jnp.array([0, 0]), "logits": rows})
    np.testing.assert_allclose(edited, -4 * rows, rtol=1e-6)


def test_labels_for_the_classes_of_smoothed_targets():
    """class_labels= stands in for targets that are no membership."""
    d = laws.draw(34)
    tx, state = state_with_margins()
    smooth = 0.9 * jax.nn.one_hot(d.labels, laws.CLASSES) + 0.02
    edited, new = laws.update(tx, d, state, labels=smooth, class_labels=d.labels)
    expected, expected_new = laws.update(tx, d, state)
    laws.equal((edited, new), (expected, expected_new))
