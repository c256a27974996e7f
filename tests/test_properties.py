"""Property tests: shapes, dtypes, class counts, masks and options drawn by hypothesis, against the NumPy reference."""

import jax
import jax.numpy as jnp
import numpy as np
import reference
from hypothesis import given, settings
from hypothesis import strategies as st

import lpg_jax

settings.register_profile("suite", max_examples=20, deadline=None, derandomize=True)
settings.load_profile("suite")

SHAPES = [((1,), 1), ((3,), 2), ((2, 3), 4), ((2, 1, 2), 7)]  # few, so that compilations are, too


@st.composite
def cases(draw):
    leading, classes = draw(st.sampled_from(SHAPES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = int(np.prod(leading))
    rows = rng.normal(size=(size, classes)) * 10 ** draw(st.floats(-3, 1))
    rows[rng.random(size) < draw(st.sampled_from([0, 0.3]))] = 0
    rows[rng.random(size) < draw(st.sampled_from([0, 0.3]))] = draw(st.sampled_from([np.nan, np.inf]))
    labels = rng.integers(-1, classes + 1, size=size)
    mask = rng.random(size) < draw(st.sampled_from([0.0, 0.6, 1.0]))
    counts = rng.integers(1, draw(st.sampled_from([2, 1000])), size=classes)
    dtype = draw(st.sampled_from([np.float32, np.float16]))
    return leading, rows.astype(dtype), labels, mask, counts


@settings(parent=settings.get_profile("suite"))
@given(
    case=cases(),
    epsilon=st.floats(0, 5),
    slope=st.sampled_from([0.0, 0.5]),
    direction=st.sampled_from(["sample", "class_mean", "class_scale"]),
    clamp=st.booleans(),
    scale=st.sampled_from(["log", "max", "share"]),
)
def test_any_batch_equals_the_reference(case, epsilon, slope, direction, clamp, scale):
    leading, rows, labels, mask, counts = case
    size, classes = rows.shape
    split = lpg_jax.by_frequency(counts, 0.5, scale)
    tx = lpg_jax.lpg(split, lpg_jax.varied(epsilon, slope), direction=direction, clamp=clamp)
    logits = np.random.default_rng(0).normal(size=rows.shape).astype(np.float32)
    state = tx.init(jnp.zeros(classes))
    edited, new = tx.update(
        jnp.asarray(rows).reshape(*leading, classes), state, None, labels=jnp.asarray(labels).reshape(leading),
        logits=jnp.asarray(logits).reshape(*leading, classes), mask=jnp.asarray(mask).reshape(leading),
    )  # fmt: skip
    assert edited.shape == (*leading, classes)
    assert edited.dtype == rows.dtype
    margin = reference.margin_by_frequency(counts, 0.5, scale)
    expected = reference.closed_form(rows, labels, margin, reference.epsilon_of(margin, epsilon, slope), direction,
                                     clamp, mask=mask)  # fmt: skip
    ours = np.asarray(edited, np.float64).reshape(size, classes)
    finite = np.isfinite(expected).all(axis=-1)
    np.testing.assert_array_equal(ours[~finite], rows[~finite].astype(np.float64))
    tolerance = 1e-4 if rows.dtype == np.float32 else 2e-2
    scale_of_rows = 1 + np.abs(expected[finite]).max(initial=0)
    np.testing.assert_allclose(ours[finite], expected[finite], atol=tolerance * scale_of_rows)
    statistics = reference.Statistics(classes)
    statistics.absorb(rows, labels, logits, mask)
    np.testing.assert_allclose(new.stats.class_accuracy, statistics.accuracy, atol=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new))


@settings(parent=settings.get_profile("suite"))
@given(
    values=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8),
    unseen=st.integers(0, 255),
    threshold=st.one_of(st.sampled_from(["mean", "median"]), st.floats(0, 1)),
)
def test_any_statistics_split_like_the_reference(values, unseen, threshold):
    values = np.array(values, np.float32)
    seen = np.array([unseen >> c & 1 == 0 for c in range(len(values))])
    zeros = jnp.zeros(len(values))
    stats = lpg_jax.ClassStats(jnp.asarray(seen), jnp.asarray(seen), jnp.asarray(values), zeros, jnp.asarray(values),
                               None)  # fmt: skip
    expected = reference.margin_by_accuracy(values.astype(np.float64), seen, threshold)
    for split in (lpg_jax.by_accuracy, lpg_jax.by_gradient_variance):
        margin = np.asarray(split(threshold)(stats))
        tau = reference.threshold_value(threshold, values.astype(np.float64), seen)
        near_tie = np.abs(np.abs(values - tau) - 1e-5 * np.maximum(tau, values)) < 1e-6
        np.testing.assert_allclose(margin[~near_tie], expected[~near_tie], atol=1e-6)


@settings(parent=settings.get_profile("suite"))
@given(counts=st.lists(st.integers(1, 10**6), min_size=1, max_size=6), epsilon=st.floats(0, 2), slope=st.floats(0, 2))
def test_bound_grows_with_the_margin(counts, epsilon, slope):
    """eps_c >= epsilon, equal at the threshold, monotone in |margin|; amplified classes are the rarer ones."""
    stats = lpg_jax.lpg(lpg_jax.by_accuracy(), lpg_jax.fixed(0)).init(jnp.zeros(len(counts))).stats
    margin = lpg_jax.by_frequency(counts)(stats)
    bound = np.asarray(lpg_jax.varied(epsilon, slope)(margin))
    order = np.argsort(np.abs(margin))
    assert (np.diff(bound[order]) >= 0).all()
    np.testing.assert_allclose(bound[np.asarray(margin) == 0], epsilon, rtol=1e-6)
    rarest, commonest = np.argmin(counts), np.argmax(counts)
    if counts[rarest] != counts[commonest]:
        assert margin[rarest] > 0 > margin[commonest]
