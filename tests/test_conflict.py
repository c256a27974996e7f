"""PCGrad and GradDrop against cases computed by hand and their algorithms in NumPy; gradients of class groups."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lpg_jax
from lpg_jax.descent import class_groups, graddrop, group_gradients, group_weights, pcgrad, sam

pytestmark = pytest.mark.usefixtures("strict")
KEYS = jax.random.split(jax.random.key(0), 256)
pcgrad_of_keys = jax.jit(jax.vmap(pcgrad, (None, 0)))
graddrop_of_keys = jax.jit(jax.vmap(graddrop, (None, 0)))


@pytest.fixture
def wide(strict):
    with jax.enable_x64(True):
        yield


def distinct(results):
    """The different results [n, P] among many, to nine digits."""
    return np.unique(np.asarray(results).round(9) + 0.0, axis=0)


# -- PCGrad -----------------------------------------------------------------------------------------------------------

TWO_TASKS = {  # g_1, g_2 -> g_1' + g_2' by hand
    "conflict": ([1.0, 0.0], [-1.0, 1.0], [0.5, 1.5]),  # (.5, .5) + (0, 1)
    "of unequal length": ([4.0, 0.0], [-1.0, 2.0], [3.2, 3.6]),  # (4 - .8, 1.6) + (0, 2)
    "agreement": ([1.0, 2.0], [3.0, 0.0], [4.0, 2.0]),
    "orthogonal": ([0.0, 2.0], [3.0, 0.0], [3.0, 2.0]),
    "opposite": ([1.0, -2.0], [-3.0, 6.0], [0.0, 0.0]),
    "absent": ([1.0, -2.0], [0.0, 0.0], [1.0, -2.0]),
}


@pytest.mark.parametrize("name", TWO_TASKS)
def test_pcgrad_by_hand(name):
    """For every order: of the tasks on their axis, and of the visits (256 keys)."""
    one, other, expected = TWO_TASKS[name]
    for pair in ([one, other], [other, one]):
        results = pcgrad_of_keys(jnp.array(pair), KEYS)
        np.testing.assert_allclose(results, np.broadcast_to(expected, (256, 2)), atol=1e-6)


def pcgrad_reference(gradients, orders):
    """Algorithm 1 of the paper, each task with an order of the others."""
    total = np.zeros_like(gradients[0])
    for own, order in zip(gradients, orders, strict=True):
        changed = own.copy()
        for other in order:
            dot = changed @ gradients[other]
            if dot < 0:
                changed -= dot / (gradients[other] @ gradients[other]) * gradients[other]
        total += changed
    return total


THREE = np.array([[1.0, 0.2, 0.0, 0.5], [-0.8, 1.0, 0.3, -1.0], [0.1, -1.5, 1.0, -0.2]])
# the others turn g_1' against g_1 itself, which must not count
AGAINST_ITSELF = np.array([[1.0, 0.0, 0.1, 0.0], [-0.9, 0.44, 0.0, 0.1], [-0.9, -0.4, 0.1, 0.0]])


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("tasks", [THREE, AGAINST_ITSELF], ids=["conflict", "against itself"])
def test_pcgrad_goes_through_every_order(tasks):
    """Three tasks in conflict: the results over many keys are those of all 8 orders of the paper's algorithm."""
    orders = itertools.product([(1, 2), (2, 1)], [(0, 2), (2, 0)], [(0, 1), (1, 0)])
    expected = distinct([pcgrad_reference(tasks, order) for order in orders])
    assert len(expected) == 8
    np.testing.assert_allclose(distinct(pcgrad_of_keys(jnp.asarray(tasks), KEYS)), expected, atol=3e-9)


def test_pcgrad_projects_on_the_originals():
    """Not on what a projection has already made of them: that would give other results than the paper's."""
    changed = THREE.copy()
    for i, j in itertools.permutations(range(3), 2):
        dot = changed[i] @ changed[j]
        changed[i] -= min(dot, 0) / (changed[j] @ changed[j]) * changed[j]
    results = np.asarray(pcgrad_of_keys(jnp.asarray(THREE, jnp.float32), KEYS))
    assert np.abs(results - changed.sum(0)).max(axis=-1).min() > 1e-3


def test_products_are_global():
    """A tree is one vector: conflict in one leaf that another leaf outweighs is none."""
    of_tree = jax.jit(lambda rows, key: pcgrad({"a": rows[:, :1], "b": rows[:, 1:].reshape(3, 1, 3)}, key))
    outweighed = jnp.array([[1.0, 2.0, 0.0, 0.0], [-1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    result = of_tree(outweighed, KEYS[0])
    np.testing.assert_array_equal(result["a"], [0.0])
    np.testing.assert_array_equal(result["b"], [[4.0, 0.0, 0.0]])
    joint, whole = (
        of_tree(jnp.asarray(THREE, jnp.float32), KEYS[1]),
        pcgrad_of_keys(jnp.asarray(THREE, jnp.float32), KEYS),
    )
    np.testing.assert_allclose(np.append(joint["a"], joint["b"]), whole[1], atol=1e-6)


# -- GradDrop ---------------------------------------------------------------------------------------------------------


def test_graddrop_by_hand():
    """Coordinates (3, -1), (-2, -1), (0, 2), (1, -1), (0, 0): P = 3/4, 0, 1, 1/2, 1/2; one sign is kept of each."""
    for pair in ([[3.0, -2.0, 0.0, 1.0, 0.0], [-1.0, -1.0, 2.0, -1.0, 0.0]],
                 [[-1.0, -1.0, 2.0, -1.0, 0.0], [3.0, -2.0, 0.0, 1.0, 0.0]]):  # fmt: skip
        results = np.asarray(graddrop_of_keys(jnp.array(pair), KEYS))
        expected = {(a, -3.0, 2.0, b, 0.0) for a in (3.0, -1.0) for b in (1.0, -1.0)}
        assert {tuple(row) for row in results.tolist()} == expected  # every combination: one draw per coordinate
        share = (results[:, (0, 3)] > 0).mean(axis=0)
        np.testing.assert_allclose(share, [0.75, 0.5], atol=4 * 0.5 / 16)  # four standard deviations of 256 draws


@pytest.mark.usefixtures("wide")
def test_graddrop_is_the_plain_sum_on_average():
    gradients = jnp.asarray(np.random.default_rng(1).normal(size=(3, 40)))
    results = np.asarray(graddrop_of_keys(gradients, KEYS), np.float64)
    error = (results.mean(axis=0) - np.asarray(gradients).sum(axis=0)) / (results.std(axis=0) / 16 + 1e-6)
    assert np.abs(error).max() < 5
    one_sign = np.maximum(gradients, 0).sum(axis=0), np.minimum(gradients, 0).sum(axis=0)
    gap = np.min([np.abs(results - kept) for kept in one_sign], axis=0)
    np.testing.assert_allclose(gap, 0, atol=1e-12)


def test_leaves_draw_apart():
    """Two equal leaves do not keep the same signs."""
    leaf = jnp.asarray(np.random.default_rng(2).normal(size=(2, 40)), jnp.float32)
    result = graddrop({"a": leaf, "b": leaf}, KEYS[0])
    assert np.any(result["a"] != result["b"])
    np.testing.assert_array_equal(graddrop({"a": leaf, "b": leaf}, KEYS[0])["b"], result["b"])


# -- both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combine", [pcgrad, graddrop])
def test_without_conflict_and_dtypes(combine):
    """The plain sum; bfloat16 in, bfloat16 out, summed in float32; a NaN or inf is not lost."""
    gradients = {"w": jnp.abs(jnp.asarray(THREE, jnp.bfloat16)), "b": jnp.ones((3, 2, 1))}
    result = combine(gradients, KEYS[0])
    assert result["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(result["b"], jnp.full((2, 1), 3.0))
    plain = jnp.sum(gradients["w"].astype(jnp.float32), axis=0).astype(jnp.bfloat16)
    np.testing.assert_array_equal(result["w"].astype(jnp.float32), plain.astype(jnp.float32))
    one = combine(jnp.asarray(THREE[:1], jnp.float32), KEYS[0])
    np.testing.assert_array_equal(one, THREE[0].astype(np.float32))
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        assert not np.isfinite(combine(jnp.array([[bad], [1.0], [1.0]]), KEYS[0])[0])
    with pytest.raises(ValueError, match=r"gradients: have shapes .*\(2, 3\), \(3, 3\).* same leading axis"):
        combine([jnp.ones((2, 3)), jnp.ones((3, 3))], KEYS[0])


# -- groups of classes ------------------------------------------------------------------------------------------------


def test_class_groups():
    counts = np.array([20, 5, 500, 50, 100, 10, 2])
    groups = class_groups(counts)
    assert groups.tolist() == [1, 2, 0, 0, 0, 1, 2]
    assert class_groups(counts, 7).tolist() == np.argsort(np.argsort(-counts)).tolist()
    assert class_groups([7, 7, 7, 7], 2).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (([5, 3], 3), r"num_groups=3: must be <= 2, the number of classes"),
        (([5, 3], 1), r"num_groups=1: must be >= 2"),
        (([5, 3], 2.0), r"num_groups=2\.0: must be an integer >= 2"),
        (([5, -3], 2), r"class_counts=.*: must be >= 0"),
        (([[5, 3]], 2), r"class_counts\.shape=\(1, 2\): must be \(C,\)"),
    ],
)
def test_class_groups_errors(arguments, text):
    with pytest.raises(ValueError, match=text):
        class_groups(*arguments)


def test_group_weights():
    """One group per example; nothing for labels out of range; shares for soft labels; one-hot equals integers."""
    groups, labels = np.array([0, 1, 1, 2]), jnp.array([0, 2, 3, 4, -1])
    weights = group_weights(labels, groups)
    np.testing.assert_array_equal(weights, [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0]])
    soft = jnp.array([[0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 0.25, 0.75]])
    np.testing.assert_array_equal(group_weights(soft, groups), [[0.5, 0], [0.5, 0.25], [0, 0.75]])
    np.testing.assert_array_equal(group_weights(jax.nn.one_hot(labels, 4), groups), weights)
    with pytest.raises(ValueError, match=r"labels\.shape=\(2, 3\): must be \(B, 4\), to match groups"):
        group_weights(jnp.ones((2, 3)), groups)


def classifier():
    """(objective with LPG and an input scale that couples the examples as BatchNorm does, params, labels)."""
    rng = np.random.default_rng(3)
    inputs = jnp.asarray(rng.normal(size=(9, 4)))
    labels, mask = jnp.array([0, 0, 1, 0, 2, 1, 0, 2, 1]), jnp.arange(9) < 8
    tx = lpg_jax.lpg(lpg_jax.by_frequency([90, 30, 10]), lpg_jax.fixed(0.3))
    loss_fn, state = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx), tx.init(jnp.zeros(3))

    def objective(params):
        hidden = inputs @ params["in"]
        hidden = hidden / jnp.sqrt(jnp.mean(jnp.square(hidden), axis=0, keepdims=True))
        return loss_fn(jnp.tanh(hidden) @ params["out"], labels, state, mask=mask)

    shapes = {"in": (4, 5), "out": (5, 3)}
    return objective, {k: jnp.asarray(rng.normal(size=shape)) for k, shape in shapes.items()}, labels


@pytest.mark.usefixtures("wide")
def test_group_gradients():
    """Each is the gradient of its group's sum of (LPG's) losses; together they are the batch's; absent groups are 0."""
    objective, params, labels = classifier()
    weights = group_weights(labels, np.array([0, 1, 1]))
    per_group = jax.jit(lambda p, w: group_gradients(objective, p, w))
    gradients, losses, new_state = per_group(params, weights)

    @jax.jit
    def of_weights(params, weight):
        def total(params):
            losses, new_state = objective(params)
            return jnp.sum(weight.astype(losses.dtype) * losses), (losses, new_state)

        return jax.grad(total, has_aux=True)(params)

    whole, (expected_losses, expected_state) = of_weights(params, jnp.ones(9))
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), new_state, expected_state)
    for leaf in params:
        for group in (0, 1):
            expected = of_weights(params, weights[group])[0][leaf]
            np.testing.assert_allclose(gradients[leaf][group], expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(np.sum(gradients[leaf], axis=0), whole[leaf], rtol=1e-10, atol=1e-12)
    absent, _, _ = per_group(params, jnp.zeros((2, 9)))
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(absent))
    with pytest.raises(ValueError, match=r"losses\.shape=\(\), weights\.shape=\(2, 9\): must be \(B,\) and \(K, B\)"):
        group_gradients(lambda w: (w, None), jnp.array(1.0), weights)


@pytest.mark.usefixtures("wide")
def test_with_sam():
    """PCGrad inside SAM's gradient function: both passes in the same random order, the first one's losses."""
    inputs = jnp.asarray(THREE)

    @jax.jit
    def gradient_fn(params):
        gradients, losses, _ = group_gradients(lambda w: (jnp.square(inputs @ w - 1), None), params, jnp.eye(3))
        return pcgrad(gradients, KEYS[0]), losses

    params, method = jnp.array([0.5, -1.0, 0.2, 0.3]), sam(0.1)
    gradient, losses, _ = method.gradient(gradient_fn, params, method.init(params))
    clean, expected = gradient_fn(params)
    np.testing.assert_array_equal(losses, expected)
    ascended = params + 0.1 * clean / np.linalg.norm(clean)
    np.testing.assert_allclose(gradient, gradient_fn(ascended)[0], rtol=1e-10)
