"""One device = N devices (batch sharded): by pmap with axis_name, and by jit over a sharded global batch."""

import functools

import chex
import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import lpg_jax

DEVICES, SHARD = 4, 6
NAMES = (
    "sample_accuracy",
    "class_mean",
    "class_scale",
    "class_mean_many_classes",
    "class_scale_many_classes",
    "pgd_head",
)


@functools.cache
def stream(steps, dtype):
    """In NumPy: what cuts and stacks it needs no compilation."""
    draws = [laws.draw(seed, batch=DEVICES * SHARD, dtype=dtype) for seed in range(steps)]
    return [laws.Draw(*map(np.asarray, d)) for d in draws]


def train_step(tx, params, state, d, mask, axis_name=None):
    """A step of gradient descent on a two-layer network; the mean over all examples that are there."""
    loss_fn = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx)

    def loss(params):
        hidden = jnp.tanh(d.features @ params["hidden"])
        losses, new = loss_fn(hidden @ params["head"], d.labels, state, mask=mask, features=hidden,
                              head_kernel=params["head"], axis_name=axis_name)  # fmt: skip
        return losses.sum(), new

    gradient, state = jax.grad(loss, has_aux=True)(params)
    number = mask.sum()
    if axis_name is not None:
        gradient, number = jax.lax.psum((gradient, number), axis_name)
    return jax.tree.map(lambda p, g: p - 0.5 * g / number, params, gradient), state


def start(tx, dtype):
    rng = np.random.default_rng(0)
    params = {"hidden": rng.normal(size=(laws.FEATURES, 8)), "head": rng.normal(size=(8, laws.CLASSES))}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params), tx.init(jnp.zeros(laws.CLASSES, dtype))


def masks(step):
    """Uneven over the shards: one device has a single example."""
    mask = np.ones(DEVICES * SHARD, np.float32)
    mask[1:SHARD] = 0
    return np.roll(mask, step * SHARD)


def shard(leaf):
    return leaf.reshape(DEVICES, SHARD, *leaf.shape[1:])


def on_one(tx, draws, dtype):
    params, state = start(tx, dtype)
    step = jax.jit(functools.partial(train_step, tx))
    for number, d in enumerate(draws):
        params, state = jax.block_until_ready(step(params, state, d, masks(number)))
    return params, state


def by_pmap(tx, draws, dtype):
    devices = jax.devices()[:DEVICES]
    params, state = jax.tree.map(lambda leaf: np.stack([leaf] * DEVICES), start(tx, dtype))
    step = jax.pmap(functools.partial(train_step, tx, axis_name="data"), axis_name="data", devices=devices)
    for number, d in enumerate(draws):
        sharded = laws.Draw(*map(shard, d[:3]), np.stack([d.head_kernel] * DEVICES))
        params, state = jax.block_until_ready(step(params, state, sharded, shard(masks(number))))
    params, state = jax.device_get((params, state))
    for leaf in jax.tree.leaves((params, state)):
        np.testing.assert_array_equal(leaf[0], leaf[-1])
    return jax.tree.map(lambda leaf: leaf[0], (params, state))


def by_mesh(tx, draws, dtype):
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:DEVICES])
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    params, state = jax.device_put(start(tx, dtype), whole)
    step = jax.jit(functools.partial(train_step, tx))
    for number, d in enumerate(draws):
        d = laws.Draw(*jax.device_put(tuple(d[:3]), split), jax.device_put(d.head_kernel, whole))
        params, state = jax.block_until_ready(step(params, state, d, jax.device_put(masks(number), split)))
        assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
    return params, state


def by_shard_map(tx, draws, dtype):
    """Parameters and state replicated, the batch sharded; check_vma=True sums the parameters' gradients by itself."""
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:DEVICES])
    split, whole = PartitionSpec("data"), PartitionSpec()
    params, state = start(tx, dtype)
    one = functools.partial(train_step, tx, axis_name="data")
    specs = (whole, whole, laws.Draw(split, split, split, whole), split)
    step = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=specs, out_specs=(whole, whole), check_vma=False))
    for number, d in enumerate(draws):
        params, state = jax.block_until_ready(step(params, state, d, masks(number)))
    return params, state


@functools.cache
def alone_for_twenty_steps(name, epsilon):
    return on_one(laws.TABLE[name](epsilon), stream(20, np.float64), jnp.float64)


OFTEN = ("sample_accuracy", "class_mean_many_classes", "pgd_head")


@pytest.mark.parametrize("route", [by_pmap, by_mesh])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in OFTEN)) for n in NAMES])
def test_float64_after_twenty_steps(name, route):
    with jax.enable_x64(True):
        tx = laws.TABLE[name](0.3)
        draws = stream(20, np.float64)
        alone, spread = alone_for_twenty_steps(name, 0.3), route(tx, draws, jnp.float64)
        if route is by_pmap and "many" in name:  # pairs are formed within a shard: the same in expectation only
            alone, spread = ((p, s.class_margin, s.stats.class_accuracy) for p, s in (alone, spread))
        chex.assert_trees_all_close(spread, alone, atol=1e-10)
        plain, _ = alone_for_twenty_steps(name, 0.0)
        assert np.any(np.asarray(plain["head"]) != np.asarray(alone[0]["head"]))


@pytest.mark.parametrize("route", [by_pmap, by_mesh, by_shard_map])
def test_float32_after_one_step(route):
    tx, draws = laws.TABLE["class_mean"](0.3), stream(1, np.float32)
    chex.assert_trees_all_close(route(tx, draws, jnp.float32), on_one(tx, draws, jnp.float32), atol=1e-5)


def test_tap_over_devices():
    """The sums of all shards, once, and the rows of the whole batch."""
    tx, d = laws.TABLE["class_mean"](0.3), stream(1, np.float32)[0]
    state = laws.warm(tx)
    tapped, sink = lpg_jax.tap(tx, "sum"), lpg_jax.zero_sums(state)

    def gradient(logits, labels, axis_name=None):
        def loss(logits, sink):
            logits = tapped(logits, labels, state, sink, axis_name=axis_name)
            return lpg_jax.losses.cross_entropy(logits, labels).sum()

        return jax.grad(loss, argnums=(0, 1))(logits, sink)

    by_one, sums = jax.jit(gradient)(d.logits, d.labels)
    spread = jax.pmap(functools.partial(gradient, axis_name="data"), "data", devices=jax.devices()[:DEVICES])
    by_all, all_sums = jax.block_until_ready(spread(shard(d.logits), shard(d.labels)))
    np.testing.assert_allclose(by_all, shard(np.asarray(by_one)), atol=1e-6)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[1], jax.device_get(all_sums)), sums, atol=1e-5)


def test_axis_name_is_needed():
    """Without axis_name each device keeps statistics of its own shard: the test above can fail."""
    tx, d = laws.TABLE["class_mean"](0.3), stream(1, np.float32)[0]
    _, state = start(tx, jnp.float32)
    rows = shard(np.asarray(laws.gradient_rows(d)))

    @functools.partial(jax.jit, static_argnums=0)
    def update(axis_name):
        def one(rows, labels, logits):
            return tx.update(rows, state, None, labels=labels, logits=logits, axis_name=axis_name)

        return jax.vmap(one, axis_name="data")(rows, shard(d.labels), shard(d.logits))

    whole, _ = laws.update(tx, d, state)
    together, new = update("data")
    apart, own = update(None)
    whole = shard(np.asarray(whole))
    np.testing.assert_allclose(together, whole, atol=1e-5)
    assert np.abs(np.asarray(apart) - whole).max() > 0.01
    assert np.ptp(np.asarray(new.sums.count), axis=0).max() == 0
    assert np.ptp(np.asarray(own.sums.count), axis=0).max() > 0
