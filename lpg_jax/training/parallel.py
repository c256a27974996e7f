"""The compiled programs of a run, and how they spread over seeds, devices and processes. The only place that knows.

Every device holds the whole state and a share of each batch. Two routes: "jit" compiles one program for the global
batch, and the compiler adds the sums over devices; "pmap" compiles the program of one device, which sums by itself.
Several processes (`join`) are more devices on the "jit" route.

Seeds of models without convolutions are trained at once by vmap (a group of several seeds, whose state has a leading
axis [S]); those of convolutional models one beside the other (groups of one seed, without that axis).

Likewise R runs of models without convolutions, on one device, that differ only in the values of some numbers
(`recipe.POPULATION`), are trained at once: every leaf then has one more axis [R] in front. All of them see the same
examples at the same step.
"""

import contextlib
import functools
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lpg_jax import models
from lpg_jax.training import batches, frozen, metrics, state
from lpg_jax.training.batches import Arrays, Part, Raw
from lpg_jax.training.presets import Readout
from lpg_jax.training.recipe import AXIS, Recipe, Values, with_values
from lpg_jax.training.settings import Config, ConfigError
from lpg_jax.training.signals import Interrupted
from lpg_jax.training.state import TrainState
from lpg_jax.training.step import Window, train_step

Seeds: TypeAlias = tuple[int, ...]
Carry: TypeAlias = tuple[TrainState, Window]
Advance: TypeAlias = Callable[[Seeds, TrainState, Window, int, int], Carry]

ALONE: Values = types.MappingProxyType({})  # of a run that is trained alone
_SCORED = 512  # examples scored in one call, at least


class Layout(NamedTuple):
    """How a run is spread."""

    route: str  # "jit" or "pmap"
    feed: str  # training data on the "device", or batch by batch from the "host"
    mesh: Mesh  # the devices that share a batch, of all processes, on one axis

    @classmethod
    def of(cls, config: Config) -> "Layout":
        """The layout of a config.

        Raises:
          ConfigError: pmap, or a part of the devices, with several processes; more devices than there are.
        """
        processes, number = jax.process_count(), config.num_devices or jax.device_count()
        if config.parallel == "pmap" and processes > 1:
            raise ConfigError(f"parallel='pmap': is for one process, here are {processes}; set 'jit'")
        if number > jax.device_count() or (processes > 1 and number < jax.device_count()):
            rule = "must be 0 with several processes" if processes > 1 else f"here are only {jax.device_count()}"
            raise ConfigError(f"num_devices={number}: {rule}")
        mesh = jax.make_mesh((number,), (AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:number])
        return cls(config.parallel, config.train.feed, mesh)

    @property
    def shards(self) -> int:
        """Devices that share a batch."""
        return self.mesh.size

    @property
    def whole(self) -> NamedSharding:
        """The same array on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def split(self, axis: int) -> NamedSharding:
        """An array cut along an axis."""
        return NamedSharding(self.mesh, PartitionSpec(*(None,) * axis, AXIS))


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Makes this process one of several that train together; before anything else touches jax.

    Args:
      coordinator: HOST:PORT of process 0; None: from the environment (JAX_COORDINATOR_ADDRESS, SLURM, TPU, ...).
      num_processes, process_id: None: from the environment (JAX_NUM_PROCESSES, JAX_PROCESS_ID, SLURM, TPU, ...).

    Raises:
      ConfigError: the environment does not say, or the processes do not meet.
    """
    given = {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
    for name, variable in (("num_processes", "JAX_NUM_PROCESSES"), ("process_id", "JAX_PROCESS_ID")):
        if given[name] is None and variable in os.environ:
            given[name] = int(os.environ[variable])
    try:
        jax.distributed.initialize(**given)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"several processes: {error}; give --coordinator, --num_processes, --process_id") from error


def leads() -> bool:
    """Whether this process is the one that writes files."""
    return jax.process_index() == 0


def meet(name: str) -> None:
    """Waits for the other processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """One of several processes that fails ends at once: an orderly exit would wait for the others, and they for it."""
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1 or isinstance(error, Interrupted):  # a signal is acted on by all
            raise
        if isinstance(error, ConfigError):
            print(f"error: process {jax.process_index()}: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(2 if isinstance(error, ConfigError) else 1)


def groups(recipe: Recipe, seeds: Seeds) -> list[Seeds]:
    """Which seeds are trained by one program."""
    return [seeds] if isinstance(recipe.model, models.MLP) else [(seed,) for seed in seeds]


def over_seeds(function: Callable[..., Any], several: bool, in_axes: Any) -> Callable[..., Any]:
    """The function for all seeds of a group at once, or as it is for a single one, whose state has no such axis."""
    return jax.vmap(function, in_axes) if several else function


def over_runs(function: Callable[..., Any], values: Values, in_axes: Any) -> Callable[..., Any]:
    """The function of (values, ...) for all runs of a population at once, or as it is for a run alone."""
    return functools.partial(jax.vmap(function, (0, *in_axes)) if values else function, dict(values))


@jax.jit
def of_run(tree: Any, number: int | jax.Array) -> Any:
    """What a population holds of one run, in the form of a run alone."""
    return jax.tree.map(lambda leaf: leaf[number], tree)


def _put(values: Any, sharding: NamedSharding) -> jax.Array:
    """Host values (the same in every process) as an array over all devices."""
    if jax.process_count() == 1:
        return jax.device_put(values, sharding)
    values = np.asarray(values)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def view(layout: Layout, tree: Any) -> Any:
    """What every device holds, once: drops the axis of devices that pmap adds."""
    if layout.route == "jit":
        return tree
    return jax.tree.map(lambda leaf: jnp.reshape(leaf.addressable_data(0), leaf.shape[1:]), tree)


def spread(layout: Layout, tree: Any) -> Any:
    """Undoes `view`: arrays that lie on every device, or on one, in the form that the steps take."""
    if layout.route == "jit":
        return tree
    devices = list(layout.mesh.devices.flat)
    return jax.pmap(lambda _, leaves: leaves, in_axes=(0, None), devices=devices)(np.zeros(layout.shards), tree)


def merge(trees: Sequence[Any]) -> Any:
    """The views of all groups as one tree: with several groups of one seed a leading axis [S] is added."""
    return trees[0] if len(trees) == 1 else jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def on_devices(layout: Layout, arrays: Arrays) -> Arrays:
    """Copies arrays to every device, or leaves them on the host if the feed is from there."""
    return arrays if layout.feed == "host" else jax.tree.map(lambda leaf: _put(leaf, layout.whole), arrays)


class Shared(NamedTuple):
    """Programs that the methods of a run share."""

    init: Callable[[Any], Any]  # seeds of a group -> (keys, variables)
    # (params, batch_stats, raw, leading axes of the former two, what predicts) -> figures
    score: Callable[..., metrics.Score]


def make_shared(recipe: Recipe, layout: Layout) -> Shared:
    """Compiles nothing yet; `recipe` may be that of any method."""

    def of_seed(seed: jax.Array) -> tuple[jax.Array, Any]:
        key = jax.random.key(seed)
        return key, state.initial_variables(recipe, key)

    def init(seeds: jax.Array) -> Any:
        return jax.vmap(of_seed)(seeds) if seeds.ndim else of_seed(seeds)

    def score(params: Any, batch_stats: Any, raw: Raw, axes: int, readout: Readout | None) -> metrics.Score:
        batch = batches.prepare(recipe, jax.tree.map(lambda leaf: leaf[0], raw), None)
        of_method = recipe._replace(method=recipe.method._replace(readout=readout))
        function = functools.partial(metrics.score_batch, of_method)
        for _ in range(axes):  # of runs and seeds
            function = jax.vmap(function, (0, 0, None))
        return function(params, batch_stats, batch)

    return Shared(
        jax.jit(init, out_shardings=layout.whole),
        jax.jit(score, static_argnames=("axes", "readout"), out_shardings=layout.whole),
    )


def start(recipe: Recipe, layout: Layout, seeds: Seeds, shared: Shared, values: Values = ALONE) -> Carry:
    """State and figures of a group before the first step, on all devices."""

    def of_seed(values: Values, key: jax.Array, variables: Any) -> Carry:
        return state.create(with_values(recipe, values), key, variables), Window.empty(recipe.facts.num_classes)

    numbers = np.asarray(seeds, np.uint32)
    begun = shared.init(numbers if len(seeds) > 1 else numbers[0])
    create = over_runs(over_seeds(of_seed, len(seeds) > 1, (None, 0, 0)), values, (None, None))
    return spread(layout, jax.jit(create, out_shardings=layout.whole)(*begun))


def abstract_start(recipe: Recipe, layout: Layout, seeds: Seeds) -> Carry:
    """Shapes and dtypes of a view of `start`, computed without a device; a checkpoint is restored onto them."""
    alone = layout._replace(route="jit")
    return jax.eval_shape(lambda: start(recipe, alone, seeds, make_shared(recipe, alone)))


def score(recipe: Recipe, shared: Shared, layout: Layout, carry: Carry, part: Part) -> metrics.Score:
    """Figures of a group on a part of the data, batch by batch."""
    current = state.predictor(recipe, view(layout, carry[0]))
    if layout.route == "pmap":  # the view lies on one device
        current = jax.device_put(current, layout.whole)
    fetch = make_fetch(layout._replace(route="jit"), part.arrays)
    size = -(-_SCORED // layout.shards) * layout.shards
    total = None
    for index in batches.sequential_order(part.index, size, part.arrays.labels.shape[0]):
        raw, readout = fetch(index[None], index[None]), recipe.method.readout
        figures = shared.score(current.params, current.batch_stats, raw, axes=current.step.ndim, readout=readout)
        total = figures if total is None else _added(total, figures)
        _calm(layout, figures.nll)
    assert total is not None
    return total


@jax.jit
def _added(total: metrics.Score, figures: metrics.Score) -> metrics.Score:
    return jax.tree.map(jnp.add, total, figures)  # one call for all leaves: on small parts they take most of the time


def finish(recipe: Recipe, layout: Layout, carry: Carry, train: Arrays) -> Carry:
    """A group after the last step, with the head of the method's second stage if it has one."""
    if recipe.method.second_stage is None:
        return carry
    there = view(layout, carry[0])
    params = frozen.finish(recipe, recipe.method.second_stage, there, train).params
    if layout.route == "jit":
        params = jax.device_put(params, layout.whole)
    return spread(layout, there._replace(params=params)), carry[1]


def make_advance(
    recipe: Recipe,
    layout: Layout,
    arrays: Arrays,
    several: bool,
    values: Values = ALONE,
    validation: Arrays | None = None,
) -> Advance:
    """`advance(seeds, state, window, first, last)`: the steps first..last-1 of a group; donates state and window.

    A run cut anywhere by evaluations, checkpoints or a kill goes through the same bits. `several`: groups have more
    than one seed. `values`: of a population, where `takes_population` allows one. `validation`: on the host; what a
    method with `meta` learns from.
    """
    dense = isinstance(recipe.model, models.MLP)
    loops = dense or jax.default_backend() != "cpu"  # a loop around convolutions is 20 times slower on CPU
    if layout.route == "jit" and layout.shards == 1 and layout.feed == "device" and loops:
        return _looped(recipe, arrays, several, values, validation)
    assert not values
    return _stepwise(recipe, layout, arrays, several, validation)


def takes_population(recipe: Recipe, layout: Layout) -> bool:
    """Whether runs of this model can be trained at once."""
    one_device = layout.shards == 1 and jax.process_count() == 1 and layout.route == "jit"
    return one_device and layout.feed == "device" and isinstance(recipe.model, models.MLP)


def _looped(recipe: Recipe, arrays: Arrays, several: bool, values: Values, validation: Arrays | None) -> Advance:
    """Many steps per call, for one device. The bounds are traced, so that one loop body serves every stretch."""
    order_of = over_seeds(functools.partial(batches.epoch_order, recipe), several, (0, None, None))
    places = batches.slots(recipe.batch_size, recipe.micro_batches, 1)
    length = recipe.steps_per_epoch

    def one_step(values: Values, carry: Carry, order: jax.Array, row: jax.Array, arrays: Arrays) -> Carry:
        index = jnp.append(order[row], recipe.facts.train_size)[places]
        raw = batches.take(arrays, index, jnp.asarray(places))
        return _step(with_values(recipe, values), *carry, raw, validation=validation)

    of_seeds = over_seeds(one_step, several, (None, 0, 0, None, None))
    step_of = over_runs(of_seeds, values, (0, None, None, None))

    def advance(state: TrainState, window: Window, arrays: Arrays, first: jax.Array, last: jax.Array) -> Carry:
        def epoch(number: jax.Array, carry: Carry) -> Carry:
            order = order_of(state.key[0] if values else state.key, number, arrays.labels)  # the same in all runs
            begin, end = jnp.maximum(first - number * length, 0), jnp.minimum(last - number * length, length)
            return jax.lax.fori_loop(begin, end, lambda row, carry: step_of(carry, order, row, arrays), carry)

        return jax.lax.fori_loop(first // length, (last + length - 1) // length, epoch, (state, window))

    program = jax.jit(advance, donate_argnums=(0, 1))
    return lambda seeds, state, window, first, last: program(state, window, arrays, first, last)


def _step(
    recipe: Recipe,
    state: TrainState,
    window: Window,
    raw: Raw,
    axis_name: str | None = None,
    validation: Arrays | None = None,
) -> Carry:
    state, figures = train_step(recipe, state, raw, axis_name, validation)
    return state, jax.tree.map(jnp.add, window, figures)


def make_step(recipe: Recipe, layout: Layout, several: bool, validation: Arrays | None = None) -> Any:
    """The compiled step (state, window, raw) -> (state, window) over all devices, by either route; donates."""
    in_axes = (0, 0, Raw(0, 0, 0, None))  # positions have no axis of seeds
    axis_name = AXIS if layout.route == "pmap" else None
    step = over_seeds(functools.partial(_step, recipe, axis_name=axis_name, validation=validation), several, in_axes)
    if layout.route == "pmap":
        return jax.pmap(step, AXIS, devices=list(layout.mesh.devices.flat), donate_argnums=(0, 1))
    return jax.jit(step, donate_argnums=(0, 1), out_shardings=layout.whole)


def _stepwise(recipe: Recipe, layout: Layout, arrays: Arrays, several: bool, validation: Arrays | None) -> Advance:
    """One call per step."""

    def of_seed(seed: jax.Array, epoch: jax.Array, labels: jax.Array) -> jax.Array:
        return batches.epoch_order(recipe, jax.random.key(seed), epoch, labels)

    order_of, labels = jax.jit(jax.vmap(of_seed, (0, None, None))), np.asarray(arrays.labels)
    places = batches.slots(recipe.batch_size, recipe.micro_batches, layout.shards)
    step, fetch = make_step(recipe, layout, several, validation), make_fetch(layout, arrays)
    size = recipe.facts.train_size

    @functools.lru_cache(maxsize=64)
    def order(seeds: Seeds, epoch: int) -> np.ndarray:
        return np.asarray(order_of(np.asarray(seeds, np.uint32), epoch, labels))  # [S, steps, B]

    def advance(seeds: Seeds, state: TrainState, window: Window, first: int, last: int) -> Carry:
        for number in range(first, last):
            epoch, row = divmod(number, recipe.steps_per_epoch)
            index = np.pad(order(seeds, epoch)[:, row], ((0, 0), (0, 1)), constant_values=size)[:, places]
            state, window = step(state, window, fetch(index if several else index[0], places))
            _calm(layout, window.loss)
        return state, window

    return advance


def _calm(layout: Layout, array: jax.Array) -> None:
    """On CPU, collectives of several programs in flight can wait for each other for ever."""
    if layout.shards > 1 and jax.default_backend() == "cpu":
        jax.block_until_ready(array)


def make_fetch(layout: Layout, arrays: Arrays) -> Callable[[np.ndarray, np.ndarray], Raw]:
    """`fetch(index [..., M, b], position [M, b])`: those examples, spread over the devices as the route wants them."""

    def cut(values: np.ndarray) -> np.ndarray:  # [..., M, b] -> [devices, ..., M, b / devices] for pmap
        if layout.route == "jit":
            return values
        return np.moveaxis(values.reshape(*values.shape[:-1], layout.shards, -1), -2, 0)

    def fetch(index: np.ndarray, position: np.ndarray) -> Raw:
        axis, place_axis = (index.ndim - 1, 1) if layout.route == "jit" else (0, 0)
        sharding = layout.split(axis)
        shardings = Raw(sharding, sharding, sharding, layout.split(place_axis))
        index, position = cut(index), cut(position)
        if layout.feed == "host":
            return jax.tree.map(_put, batches.take_on_host(arrays, index, position), shardings)
        put = _put(index, shardings.mask), _put(position, shardings.position)
        return _take(tuple(shardings))(arrays, *put)

    @functools.cache
    def _take(shardings: tuple[NamedSharding, ...]) -> Callable[..., Raw]:
        return jax.jit(batches.take, out_shardings=Raw(*shardings))

    return fetch
