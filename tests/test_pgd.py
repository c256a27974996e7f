"""`lpg_pgd`: the reference in NumPy, the closed form as a special case, the trust-region oracle, finite differences."""

import functools
import itertools

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
import reference
import trust_region

import lpg_jax
from lpg_jax.transforms import pgd
from lpg_jax.transforms.class_level import gather_batch

pytestmark = pytest.mark.usefixtures("strict")


OPTIONS = {
    "default": {},
    "five steps": {"steps": 5},
    "step size": {"step_size": 0.1},
    "step size beyond the minimiser": {"step_size": 3.0, "steps": 1},
    "unclamped": {"clamp": False},
    "zero sum": {"zero_sum": True},
    "sign": {"step_rule": "sign"},
    "literal": {"step_rule": "sign", "clamp": False, "step_size": 0.05, "zero_sum": True},
}


@pytest.mark.parametrize(
    ("metric", "option", "source", "soft"),
    [
        *(("head", option, "batch", False) for option in OPTIONS),
        *(("identity", option, "batch", False) for option in ("default", "unclamped", "sign")),
        *itertools.product(("identity", "head"), ("five steps",), ("running",), (False, True)),
        ("head", "step size", "batch", True),
    ],
)
def test_equals_the_reference(metric, option, source, soft):
    d, options = laws.draw(3), OPTIONS[option]
    tx = lpg_jax.lpg_pgd(lpg_jax.by_frequency(laws.COUNTS), lpg_jax.fixed(0.4), metric=metric, source=source, **options)
    state = laws.warm(tx, steps=2)
    labels, mask = d.labels, np.arange(laws.BATCH) != 4
    if soft:
        share = np.random.default_rng(0).beta(1, 1, size=(laws.BATCH, 1)).astype(np.float32)
        hot = np.eye(laws.CLASSES, dtype=np.float32)[np.asarray(labels)]
        labels = jnp.asarray(share * hot + (1 - share) * np.roll(hot, 1, axis=0))
    rows = laws.gradient_rows(d, labels)
    edited, _ = laws.update(tx, d, state, rows, labels=labels, mask=jnp.asarray(mask))
    rows64, labels64 = np.asarray(rows, np.float64), np.asarray(labels)
    kernel, features = np.asarray(d.head_kernel, np.float64), np.asarray(d.features, np.float64)
    matrices = trust_region.head_matrices(features, labels64, kernel, mask, rows64) if metric == "head" else None
    mean = np.asarray(state.stats.class_grad_mean, np.float64) if source == "running" else None
    expected = trust_region.pgd_rows(
        rows64, labels64, np.asarray(state.class_margin), np.full(laws.CLASSES, 0.4), matrices, mask, mean, **options
    )
    np.testing.assert_allclose(edited, expected, atol=5e-5)
    assert np.abs(np.asarray(edited)[mask] - np.asarray(rows)[mask]).max() > 0.05


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 3.0])
def test_identity_metric_is_the_clamped_class_mean(epsilon):
    """Also for eps > ||m||."""
    split, bound, d = lpg_jax.by_frequency(laws.COUNTS), lpg_jax.fixed(epsilon), laws.draw(5, absent=None)
    closed = lpg_jax.lpg(split, bound, direction="class_mean")
    for steps in (1, 3):
        iterated = lpg_jax.lpg_pgd(split, bound, steps=steps)
        state = iterated.init(jnp.zeros(laws.CLASSES))
        expected, _ = laws.update(closed, d, closed.init(jnp.zeros(laws.CLASSES)))
        np.testing.assert_allclose(laws.update(iterated, d, state)[0], expected, atol=3e-6)


def centred(rng, num_classes):
    """More features than classes and rows that sum to 0, as softmax training leaves them."""
    kernel = rng.normal(size=(64, num_classes))
    return kernel - kernel.mean(axis=1, keepdims=True)


def spectrum(rng, num_classes, condition=100):
    """A random basis with evenly spaced eigenvalues, so that m has a part along all of them."""
    basis = np.linalg.qr(rng.normal(size=(num_classes, num_classes)))[0]
    return np.sqrt(np.linspace(0, condition - 1, num_classes))[:, None] * basis.T


def narrow(rng, num_classes):
    """Fewer features than classes: whole directions that W does not see."""
    return rng.normal(size=(num_classes // 2, num_classes))


def uneven(rng, num_classes):
    """Classes of very different weight."""
    return rng.normal(size=(64, num_classes)) * np.exp(rng.normal(size=num_classes))


def problem(rng, num_classes, condition, head=centred):
    """m_c of an untrained classifier, a and W of a random head, and M = a I + W^T W with the condition number given."""
    logits = rng.normal(size=(40, num_classes)) * 0.5
    mean = (reference.softmax(logits) - np.eye(num_classes)[np.zeros(40, int)]).mean(axis=0)
    kernel = head(rng, num_classes)
    low, high = np.linalg.eigvalsh(kernel.T @ kernel)[[0, -1]]
    scale = max((high - condition * low) / (condition - 1), 1e-3 * high)
    matrix = scale * np.eye(num_classes) + kernel.T @ kernel
    assert np.linalg.cond(matrix) <= condition * 1.001
    return mean, scale, kernel, matrix


@functools.cache
def compiled(rule, steps):
    def run(mean, scale, kernel, epsilon, sign):
        ascent = pgd.Ascent(steps, None, rule, False, True)
        return pgd.solve(mean, sign, epsilon, lambda v: scale * v + (v @ kernel.T) @ kernel, ascent)

    return jax.jit(run)


def solve(mean, scale, kernel, epsilon, amplify, rule="l2", steps=5):
    arguments = mean[None], [[scale]], kernel, [[epsilon]], [[1.0 if amplify else -1.0]]
    d = compiled(rule, steps)(*(jnp.asarray(a, jnp.float32) for a in arguments))
    assert np.linalg.norm(d) <= epsilon * (1 + 1e-5)
    return np.asarray(d[0], np.float64)


@pytest.mark.parametrize("amplify", [True, False], ids=["amplify", "dampen"])
@pytest.mark.parametrize("num_classes", [10, 100])
@pytest.mark.parametrize("head", [centred, spectrum, narrow, uneven])
def test_gap_to_the_trust_region_optimum(head, num_classes, amplify):
    """Bar: below 1 % in 5 steps of the head metric for eps .1, .3, .5 and condition numbers up to 100; the gaps for
    eps 1 and 2 are printed."""
    rng, worst = np.random.default_rng(num_classes), {}
    for condition, epsilon in itertools.product((3, 10, 30, 100), (0.1, 0.3, 0.5, 1.0, 2.0)):
        for _ in range(6 if num_classes == 10 else 1):
            mean, scale, kernel, matrix = problem(rng, num_classes, condition, head)
            gap = trust_region.gap(mean, matrix, solve(mean, scale, kernel, epsilon, amplify), epsilon, amplify)
            worst[epsilon] = max(worst.get(epsilon, 0), gap)
    print({f"eps {epsilon}": f"{100 * gap:.2f} %" for epsilon, gap in worst.items()})
    assert max(worst[epsilon] for epsilon in (0.1, 0.3, 0.5)) < 0.01


def test_amplifying_steps_are_monotone():
    """Going to the sphere never lowers a convex objective."""
    mean, scale, kernel, matrix = problem(np.random.default_rng(0), 10, 30, narrow)
    found = [solve(mean, scale, kernel, 1.5, True, steps=steps) for steps in range(1, 8)]
    values = np.array([trust_region.objective(mean, matrix, d) for d in found])
    assert (np.diff(values) >= -1e-5 * values[0]).all()
    assert values[-1] > values[0]


@pytest.mark.parametrize("steps", [pytest.param(3, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow), 8])
def test_zero_sum_holds_when_the_space_is_exhausted(steps):
    """Few classes or features: what is new in a gradient is soon rounding alone, which knows of no subspace."""

    @jax.jit
    def solve(mean, sign, epsilon, W):
        ascent = pgd.Ascent(steps, None, "l2", True, True)
        return pgd.solve(mean, sign, epsilon, lambda v: 2 * v + v @ W.T @ W, ascent)

    for seed, size in itertools.product(range(5), (2, 20)):
        rng = np.random.default_rng(seed)
        mean, kernel = rng.normal(size=(4, 4)), jnp.asarray(rng.normal(size=(size, 4)), jnp.float32)
        mean = jnp.asarray(mean - mean.mean(axis=1, keepdims=True), jnp.float32)
        sign, epsilon = jnp.asarray([[1], [-1], [1], [-1]], jnp.float32), jnp.full((4, 1), 0.3, jnp.float32)
        d = solve(mean, sign, epsilon, kernel)
        assert np.abs(np.sum(d, axis=-1)).max() < 1e-6
        assert np.linalg.norm(d, axis=-1).max() <= 0.3 * (1 + 1e-5)


def test_sign_steps_do_worse_on_their_own_objective():
    """Reading 5: the printed sign step with an l2 projection loses to the l2 step."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        mean, scale, kernel, matrix = problem(rng, 10, 10)
        by_l2, by_sign = (
            trust_region.gap(mean, matrix, solve(mean, scale, kernel, 0.3, True, rule, steps=3), 0.3, True)
            for rule in ("l2", "sign")
        )
        assert by_sign > by_l2


def network_of(d):
    def network(params):
        return jnp.tanh(d.features @ params["hidden"]) @ params["head"] + params["bias"][None]

    rng = np.random.default_rng(4)
    shapes = {"hidden": (laws.FEATURES, 4), "head": (4, laws.CLASSES), "bias": (laws.CLASSES,)}
    return network, {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


def test_network_metric_is_the_gradient_of_the_squared_parameter_gradient():
    """M_c v by vjp and jvp = finite differences of f(v) = mean_c ||J_i v||^2 / 2, J_i v a plain gradient."""
    d = laws.draw(6)
    network, params = network_of(d)
    tx = lpg_jax.lpg_pgd(lpg_jax.by_frequency(laws.COUNTS), lpg_jax.fixed(0.3), metric="network")
    state = tx.init(jnp.zeros(laws.CLASSES))
    vectors = jnp.asarray(np.random.default_rng(5).normal(size=(laws.CLASSES, laws.CLASSES)), jnp.float32)

    @jax.jit
    def products_with(vectors):
        batch, _ = gather_batch(laws.gradient_rows(d), state, labels=d.labels, logits=d.logits, network=network)
        means = pgd.class_means(batch, state.stats, "batch")
        return pgd.network_metric(batch, means, params)(vectors)

    products = products_with(vectors)
    with jax.enable_x64(True):
        params64 = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), params)
        d64 = laws.Draw(*(np.asarray(leaf, np.float64) for leaf in d[:1]), d.labels, np.asarray(d.features, np.float64),
                        None)  # fmt: skip
        network64 = network_of(d64)[0]
        members = np.flatnonzero(np.asarray(d.labels) == 0)

        @jax.jit
        def half_square(v):
            total = 0.0
            for i in members:
                gradient = jax.grad(lambda p, i=i: jnp.vdot(v, network64(p)[i]))(params64)
                total += sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient))
            return total / len(members) / 2

        v, step = np.asarray(vectors[0], np.float64), 1e-4
        numeric = [(half_square(v + step * e) - half_square(v - step * e)) / (2 * step) for e in np.eye(laws.CLASSES)]
    np.testing.assert_allclose(products[0], numeric, rtol=2e-4, atol=2e-4)


def test_head_metric_is_the_network_metric_of_the_last_layer():
    """With the features among the parameters, the head metric is exact (reading 5)."""
    d = laws.draw(7)
    split, bound = lpg_jax.by_frequency(laws.COUNTS), lpg_jax.fixed(0.3)
    params = {"features": d.features, "kernel": d.head_kernel, "bias": jnp.zeros(laws.CLASSES)}
    head, network = (lpg_jax.lpg_pgd(split, bound, metric=metric) for metric in ("head", "network"))
    state, rows = head.init(jnp.zeros(laws.CLASSES)), laws.gradient_rows(d)
    by_head, _ = laws.update(head, d, state)
    by_network, _ = jax.jit(functools.partial(
        network.update, network=lambda p: p["features"] @ p["kernel"] + p["bias"][None]
    ))(rows, state, params, labels=d.labels, logits=d.logits)  # fmt: skip
    np.testing.assert_allclose(by_network, by_head, atol=1e-5)


def test_network_metric_through_perturbed():
    d = laws.draw(8)
    network, params = network_of(d)
    tx = lpg_jax.lpg_pgd(lpg_jax.by_frequency(laws.COUNTS), lpg_jax.fixed(0.3), metric="network")
    state, loss_fn = tx.init(jnp.zeros(laws.CLASSES)), lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx)

    def loss(params):
        logits = network(params)
        losses, _ = loss_fn(logits, d.labels, state, params=params, network=network)
        return losses.sum(), logits

    (_, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    rows, update = laws.gradient_rows(d._replace(logits=logits)), functools.partial(tx.update, network=network)
    edited, _ = jax.jit(update)(rows, state, params, labels=d.labels, logits=logits)
    np.testing.assert_allclose(gradient["bias"], edited.sum(axis=0), atol=1e-5)


def test_many_classes_use_only_those_present(monkeypatch):
    """Above the limit the head metric works on the classes of the batch, with the same result."""
    d = laws.draw(9)
    split, bound = lpg_jax.by_frequency(laws.COUNTS), lpg_jax.fixed(0.3)
    dense = lpg_jax.lpg_pgd(split, bound, metric="head")
    expected, _ = laws.update(dense, d, dense.init(jnp.zeros(laws.CLASSES)))
    monkeypatch.setattr(pgd, "DENSE_LIMIT", 2)
    large = lpg_jax.lpg_pgd(split, bound, metric="head")
    edited, state = laws.update(large, d, large.init(jnp.zeros(laws.CLASSES)))
    assert state.sums.gradient is None
    np.testing.assert_allclose(edited, expected, atol=2e-6)
    hot = jax.nn.one_hot(d.labels, laws.CLASSES)
    with pytest.raises(ValueError, match="at most 2 classes; pass integer labels"):
        laws.update(large, d, state, labels=hot)
    tx = lpg_jax.lpg_pgd(split, bound, metric="network")
    with pytest.raises(ValueError, match="metric='network' with 5 classes: at most 2"):
        tx.update(laws.gradient_rows(d), state, {}, labels=d.labels, logits=d.logits, network=lambda p: d.logits)
    with pytest.raises(ValueError, match="source='running' with 5 classes"):
        lpg_jax.lpg_pgd(split, bound, source="running").init(jnp.zeros(laws.CLASSES))
