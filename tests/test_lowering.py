"""Every route lowers for TPU and GPU, without one at hand; nothing in the program would fail or be slow there.

Lowering compiles nothing and needs no device: what is read is the StableHLO of `jit(...).trace(...).lower(...)`.
"""

import functools
import re

import jax
import jax.numpy as jnp
import laws
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec
from tiny_config import tiny

import lpg_jax
from lpg_jax.training import batches, parallel, presets, recipe
from lpg_jax.training.parallel import Layout

PLATFORMS = ("tpu", "cuda")
UNWANTED = {
    "float64": r"(?:<|x)f64\b",
    "int64": r"(?:<|x)i64\b",  # but ui64, in which jax.random counts
    "a dynamic shape": r"tensor<(?:[^>]*x)?\?",
    "a host callback": r"callback|@SendToHost|@RecvFromHost|stablehlo\.(?:send|recv|infeed|outfeed)\b",
}


def program(function, *arguments, platforms=PLATFORMS):
    """The StableHLO of a jitted (or pmapped) function for platforms that are not here; one text for all of them."""
    function = function if hasattr(function, "trace") else jax.jit(function)  # pmap has none of its own
    return function.trace(*arguments).lower(lowering_platforms=platforms).as_text()


def faults(text):
    """What does not belong into a program for an accelerator; the types of attributes are none of its values."""
    operations = re.sub(r"= dense<[^>]*> : tensor<[^>]*>|array<i64[^>]*>", "", text)
    return {name for name, pattern in UNWANTED.items() if re.search(pattern, operations)}


def check(function, *arguments):
    """No fault, on either platform; returns the program."""
    text = program(function, *arguments)
    assert not faults(text)
    return text


# -- the checker can fail ---------------------------------------------------------------------------------------------


def test_a_callback_is_found():
    def function(x):
        return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    printing = jax.jit(lambda x: (jax.debug.print("{}", x), x)[1])
    for wrong in (jax.jit(function), printing):
        assert faults(program(wrong, jnp.ones(3), platforms=("cpu",))) == {"a host callback"}


def test_wide_numbers_are_found():
    with jax.enable_x64(True):
        text = program(jax.jit(lambda x, n: (x * 2, n + 1)), jnp.ones(3), jnp.ones((), int))
    assert faults(text) == {"float64", "int64"}


def test_a_dynamic_shape_is_found():
    (size,) = jax.export.symbolic_shape("b")
    exported = jax.export.export(jax.jit(lambda x: x + 1), platforms=PLATFORMS)
    text = exported(jax.ShapeDtypeStruct((size,), jnp.float32)).mlir_module()
    assert "a dynamic shape" in faults(text)


# -- transformations --------------------------------------------------------------------------------------------------


def gradient(tx, axis_name=None):
    """Loss, logit gradient and statistics of a batch."""
    loss_fn = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, tx)

    def one(d, state):
        def loss(logits):
            losses, new = loss_fn(logits, d.labels, state, features=d.features, head_kernel=d.head_kernel,
                                  axis_name=axis_name)  # fmt: skip
            return losses.sum(), new

        return jax.value_and_grad(loss, has_aux=True)(d.logits)

    return one


@functools.cache
def drawn():
    return laws.draw(batch=8)


def state_of(tx):
    return jax.eval_shape(tx.init, jax.ShapeDtypeStruct((laws.CLASSES,), jnp.float32))


FAST = ("sample", "class_mean_many_classes", "class_scale_many_classes", "class_scale_running", "pgd_head")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in laws.TABLE]
)
def test_every_transformation(name):
    tx = laws.TABLE[name](0.3)
    check(jax.jit(gradient(tx)), drawn(), state_of(tx))


def test_sums_by_class_are_products_on_accelerators():
    """On CPU they are a scatter, whose order of additions would be a matter of chance elsewhere."""
    tx, d = laws.TABLE["class_mean_running"](0.3), drawn()
    update, arguments = laws.compiled(tx), (d.logits, state_of(tx), laws.keywords(d))
    scatters = {
        name: program(update, *arguments, platforms=(name,)).count("stablehlo.scatter") for name in ("cpu", *PLATFORMS)
    }
    assert scatters["cpu"] > scatters["tpu"] == scatters["cuda"] == 0


def test_tap():
    tx = laws.TABLE["class_mean"](0.3)
    tapped, d = lpg_jax.tap(tx, "mean"), drawn()

    def one(logits, state, sink):
        def loss(logits, sink):
            return lpg_jax.losses.cross_entropy(tapped(logits, d.labels, state, sink), d.labels).mean()

        rows, sums = jax.grad(loss, argnums=(0, 1))(logits, sink)
        return rows, lpg_jax.commit(tx, state, sums)

    state = tx.init(jnp.zeros(laws.CLASSES))
    check(jax.jit(one), d.logits, state, lpg_jax.zero_sums(state))


@pytest.mark.parametrize("route", ["shard_map", "pmap"])
@pytest.mark.parametrize("name", ["class_mean", "class_mean_many_classes", "pgd_head"])
def test_over_devices_by_axis_name(name, route):
    tx, d, count = laws.TABLE[name](0.3), drawn(), 4
    one, devices = gradient(tx, "data"), jax.devices()[:count]
    if route == "pmap":
        d = jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), d._replace(head_kernel=None))
        d = d._replace(head_kernel=drawn().head_kernel)
        axes = laws.Draw(0, 0, 0, None)
        text = check(jax.pmap(one, "data", in_axes=(axes, None), devices=devices), d, state_of(tx))
    else:
        mesh = Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))
        split, whole = PartitionSpec("data"), PartitionSpec()
        specs, out = (laws.Draw(split, split, split, whole), whole), ((whole, whole), split)
        spread = jax.shard_map(one, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)
        text = check(jax.jit(spread), d, state_of(tx))
    assert "stablehlo.all_reduce" in text


# -- training ---------------------------------------------------------------------------------------------------------

FACTS = recipe.Facts(
    input_shape=(8, 8, 1), input_dtype="float32", train_size=32, num_classes=4, class_names=tuple("abcd"),
    class_counts=(16, 8, 5, 3), noise_rate=0.1, mean=(0.3,), std=(0.4,),
    confusion=tuple(map(tuple, (0.9 * np.eye(4) + 0.1 * np.roll(np.eye(4), 1, 1)).tolist())),
)  # fmt: skip
ARRAYS = batches.Arrays(np.zeros((32, 8, 8, 1), np.float32), np.arange(32, dtype=np.int32) % 4)


def config_of(**fields):
    return tiny(**{"num_seeds": 1, "train__batch_size": 8, "method": "lpg", "num_devices": 1} | fields)


def step_arguments(config, several=False):
    """A compiled-to-be training step with abstract arguments, as a run calls it."""
    of_method, layout = recipe.build(config, FACTS, config.method), Layout.of(config)
    validation = ARRAYS if of_method.method.meta is not None else None
    step = parallel.make_step(of_method, layout, several, validation)
    carry = parallel.abstract_start(of_method, layout, (0, 1) if several else (0,))
    parts, shards = config.train.micro_batches, layout.shards if layout.route == "pmap" else 1
    lead = (2,) if several else ()
    each = (parts, 8 // parts // shards)

    def batch(shape, dtype, axes=lead):
        return jax.ShapeDtypeStruct((*axes, *each, *shape), dtype)

    raw = batches.Raw(
        batch((8, 8, 1), jnp.float32), batch((), jnp.int32), batch((), jnp.bool_), batch((), jnp.int32, ())
    )
    if layout.route == "pmap":
        carry, raw = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((shards, *leaf.shape), leaf.dtype), (carry, raw))
    else:
        whole = layout.whole
        carry = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), carry)
        axis = len(lead) + 1
        raw = batches.Raw(*(
            jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout.split(1 if name == "position" else axis))
            for name, leaf in raw._asdict().items()
        ))  # fmt: skip
    return step, (*carry, raw)


RESNET = {"model__name": "resnet8", "model__hidden": None}
STEPS = {
    "mesh": {"num_devices": 4},
    "pmap": {"num_devices": 4, "parallel": "pmap"},
    "micro-batches": {"train__micro_batches": 2},
    "bfloat16": {"train__dtype": "bfloat16"},
    "PGD": {"lpg__pgd_steps": 2, "lpg__metric": "head"},
}


@pytest.mark.parametrize("name", STEPS)
def test_training_steps(name):
    step, arguments = step_arguments(config_of(**STEPS[name]))
    text = check(step, *arguments)
    assert ("num_partitions = 4" in text) == ("num_devices" in STEPS[name])
    assert ("stablehlo.all_reduce" in text) == (name == "pmap")


def test_seeds_at_once():
    step, arguments = step_arguments(config_of(num_seeds=2), several=True)
    check(step, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_training_steps_of_a_resnet(name):
    step, arguments = step_arguments(config_of(**STEPS[name], **RESNET, augment__crop=1, augment__flip=True))
    check(step, *arguments)


# -- loops and populations --------------------------------------------------------------------------------------------


def looped(config, values=parallel.ALONE):
    """The looped program of a run, and its abstract arguments."""
    of_method, layout = recipe.build(config, FACTS, config.method), Layout.of(config)
    arrays = jax.tree.map(jnp.asarray, ARRAYS)
    programs = []
    with pytest.MonkeyPatch.context() as patch:  # `make_advance` returns a function around the jitted one
        patch.setattr(jax, "jit", lambda function, jit=jax.jit, **options: programs.append(jit(function, **options)))
        parallel.make_advance(of_method, layout, arrays, config.num_seeds > 1, values)
    carry = parallel.abstract_start(of_method, layout, tuple(range(config.num_seeds)))
    if values:
        carry = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), carry)
    return programs[-1], (*carry, arrays, 0, 3)


@pytest.mark.parametrize("population", [False, True])
def test_loops_over_steps(population):
    values = {"lpg.epsilon": np.array([0.1, 0.2], np.float32)} if population else parallel.ALONE
    program, arguments = looped(config_of(num_seeds=2), values)
    text = check(program, *arguments)
    assert text.count("stablehlo.while") >= 2, "epochs and steps"


# -- every method -----------------------------------------------------------------------------------------------------

FIELDS = {"data__noise__kind": "symmetric", "data__noise__rate": 0.1, "data__validation": 0.2}


@pytest.mark.slow
@pytest.mark.parametrize("part", presets.KNOWN)
def test_every_method(part):
    image = RESNET if part == "cutmix" else {}
    step, arguments = step_arguments(config_of(method=part, **FIELDS, **image))
    check(step, *arguments)
