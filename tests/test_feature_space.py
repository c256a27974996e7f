"""PGD in feature space: the best d_c of T steps, against eigenvectors of M_c [C, C] in NumPy float64."""

import functools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import test_pgd
import trust_region

import lpg_jax
from lpg_jax.transforms import feature_space, pgd
from lpg_jax.transforms.feature_space import Head

pytestmark = pytest.mark.usefixtures("strict")

ROWS, CLASSES, WIDTH, STEPS = 4, 30, 9, 5
SIGN, EPSILON = np.array([[1.0], [-1.0], [1.0], [-1.0]]), np.array([[0.1], [0.1], [0.5], [0.5]])


def best_in_span(mean, matrix, radius, sign, steps, zero_sum):
    """The optimum over norm(d) <= radius in span(m, M m, ..., M^steps m), or in its part of zero sum."""
    center = np.eye(len(mean)) - zero_sum / len(mean)
    vectors = [center @ mean, center @ matrix @ mean]
    while len(vectors) < steps + 1:
        vectors.append(center @ matrix @ vectors[-1] / np.linalg.norm(matrix, 2))
        vectors[-1] -= vectors[-2] * (vectors[-2] @ vectors[-1]) / (vectors[-2] @ vectors[-2])
    left, size, _ = np.linalg.svd(np.stack([v / np.linalg.norm(v) for v in vectors], axis=1), full_matrices=False)
    span = left[:, size > 1e-12 * size[0]]
    values, vectors = np.linalg.eigh(span.T @ matrix @ span)
    slope = vectors.T @ span.T @ matrix @ mean

    def point(multiplier):
        denominator = multiplier - values if sign > 0 else -(multiplier + values)
        return span @ vectors @ (slope / denominator)

    low = values[-1] if sign > 0 else 0.0
    high = low + np.linalg.norm(slope) / radius
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.linalg.norm(point(middle)) > radius else (low, middle)
    return point(high)


def draw(family, seed=0, condition=100):
    """m_c of zero sum, a_c and W whose M_c have the condition number given."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(ROWS, CLASSES))
    mean = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) - np.eye(CLASSES)[:ROWS]
    kernel = family(rng)
    return mean, np.full((ROWS, 1), np.linalg.norm(kernel, 2) ** 2 / (condition - 1)), kernel


FAMILIES = {  # of fewer features than classes
    "centred": lambda rng: test_pgd.centred(rng, CLASSES)[:WIDTH],
    "spectrum": lambda rng: test_pgd.spectrum(rng, CLASSES)[-WIDTH:],
    "narrow": lambda rng: test_pgd.narrow(rng, CLASSES),
    "uneven": lambda rng: test_pgd.uneven(rng, CLASSES)[:WIDTH],
    "features that are always 0": lambda rng: rng.normal(size=(WIDTH, CLASSES)) * (np.arange(WIDTH) < 3)[:, None],
}


@functools.cache
def compiled(zero_sum, steps=STEPS, step_size=None):
    def run(mean, sign, epsilon, scale, kernel):
        return pgd.solve(mean, sign, epsilon, Head(scale, kernel), pgd.Ascent(steps, step_size, "l2", zero_sum, True))

    return jax.jit(run)


def solved(problem, zero_sum=False, dtype=jnp.float32, **options):
    mean, scale, kernel = problem
    found = compiled(zero_sum, **options)(*(jnp.asarray(a, dtype) for a in (mean, SIGN, EPSILON, scale, kernel)))
    assert found.dtype == dtype
    return np.asarray(found, np.float64)


def expected(problem, zero_sum=False, steps=STEPS):
    mean, scale, kernel = problem
    return np.stack([
        best_in_span(m, a * np.eye(CLASSES) + kernel.T @ kernel, min(e, np.linalg.norm(m)), s, steps, zero_sum)
        for m, a, s, e in zip(mean, scale[:, 0], SIGN[:, 0], EPSILON[:, 0], strict=True)
    ])  # fmt: skip


@pytest.mark.parametrize("condition", [1.01, pytest.param(3, marks=pytest.mark.slow), 100])
@pytest.mark.parametrize("family", FAMILIES)
def test_is_the_optimum_in_reach(family, condition):
    problem = draw(FAMILIES[family], condition=condition)
    np.testing.assert_allclose(solved(problem), expected(problem), atol=1e-5)


@pytest.mark.parametrize("family", ["narrow", "centred"])
def test_float64(family):
    with jax.enable_x64(True):
        problem = draw(FAMILIES[family])
        np.testing.assert_allclose(solved(problem, dtype=jnp.float64), expected(problem), atol=1e-9)


def test_zero_sum_of_a_mean_that_has_none():
    """The steps see W^T W m of the whole m, and move within the subspace."""
    mean, scale, kernel = draw(FAMILIES["uneven"])
    problem = mean + 0.1, scale, kernel
    found = solved(problem, zero_sum=True)
    np.testing.assert_allclose(found, expected(problem, zero_sum=True), atol=1e-5)
    assert np.abs(found.sum(axis=1)).max() < 1e-6
    assert np.abs(found - expected((mean, scale, kernel), zero_sum=True)).max() > 1e-3


def test_a_head_of_more_features_than_classes_stays_among_the_logits(monkeypatch):
    monkeypatch.delattr(feature_space, "feature_space")
    mean, scale, _ = draw(FAMILIES["centred"])
    problem = mean, scale, np.random.default_rng(1).normal(size=(CLASSES, CLASSES))
    metric = Head(*(jnp.asarray(part, jnp.float32) for part in problem[1:]))
    assert feature_space.space_of(jnp.asarray(mean, jnp.float32), metric, False, 3).mean.shape == mean.shape


def test_no_array_of_classes_squared():
    """And the steps see no array as wide as the classes: the number of products with W does not grow with them."""
    mean, scale, kernel = (np.zeros(shape, np.float32) for shape in ((4, 9999), (4, 1), (8, 9999)))
    texts = [
        str(jax.make_jaxpr(compiled(False, steps=steps))(mean, scale, scale + 0.3, scale, kernel)) for steps in (2, 9)
    ]
    assert "9999,9999" not in texts[0]
    assert texts[0].count("9999") == texts[1].count("9999")


@pytest.mark.parametrize(
    ("source", "options"),
    [("batch", {}), ("running", {"zero_sum": True}), ("running", {"step_size": 0.1}), ("batch", {"step_rule": "sign"})],
)
def test_fewer_examples_than_classes(source, options):
    """The classes present, wherever they are: labels outside, masked rows, the classes of another shard."""
    batch, counts = 8, np.arange(1, CLASSES + 1)
    d = laws.draw(3, batch=batch, classes=CLASSES)._replace(labels=jnp.array([7, 29, 7, 0, CLASSES, 29, 7, 3]))
    tx = lpg_jax.lpg_pgd(lpg_jax.by_frequency(counts), lpg_jax.fixed(0.4), metric="head", source=source, **options)
    state, mask = laws.warm(tx, steps=2, classes=CLASSES), np.arange(batch) != 3
    rows = laws.gradient_rows(d)
    edited, _ = laws.update(tx, d, state, rows, mask=jnp.asarray(mask))
    rows64, labels = np.asarray(rows, np.float64), np.asarray(d.labels)
    features, kernel = np.asarray(d.features, np.float64), np.asarray(d.head_kernel, np.float64)
    matrices = trust_region.head_matrices(features, labels, kernel, mask, rows64)
    mean = np.asarray(state.stats.class_grad_mean, np.float64) if source == "running" else None
    expected = trust_region.pgd_rows(
        rows64, labels, np.asarray(state.class_margin), np.full(CLASSES, 0.4), matrices, mask, mean, **options
    )
    np.testing.assert_allclose(edited, np.where(mask[:, None], expected, 0), atol=1e-5)

    def on_shard(logits, labels, features, rows, mask):
        arguments = {"logits": logits, "labels": labels, "features": features, "head_kernel": d.head_kernel}
        return tx.update(rows, state, None, mask=mask, axis_name="shard", **arguments)[0]

    shards = (a.reshape(2, 4, *a.shape[1:]) for a in (d.logits, d.labels, d.features, rows, jnp.asarray(mask)))
    by_shard = jax.jit(jax.vmap(on_shard, axis_name="shard"))(*shards)
    np.testing.assert_allclose(by_shard.reshape(batch, CLASSES), edited, atol=1e-6)
