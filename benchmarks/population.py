"""Part "population": S small networks in one vmapped program against S runs, one after the other in a Python loop.

All minimise cross-entropy; "seeds, lpg" is the program with LPG and its statistics, beside the same plain loop.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import flax_loop
from benchmarks.settings import Settings
from benchmarks.timing import Row, interleave, row, seconds_of
from configs import digits_longtail
from lpg_jax import data
from lpg_jax.training import batches, parallel, recipe
from lpg_jax.training.recipe import Facts

SIZE = 16


class Timed(NamedTuple):
    """A way to train, compiled."""

    first: float  # seconds of the first call, which compiles
    again: Callable[[], float]  # seconds of another one


class Runs:
    """The digits MLP, as `configs/digits_longtail.py` trains it, for so many steps a call."""

    def __init__(self, steps: int, method: str):
        config = digits_longtail.get_config()
        config.method, config.num_seeds = method, 1
        self.config, self.steps = config, steps
        self.dataset = data.load(config.data, config.seed)
        self.facts, self.layout = Facts.of(self.dataset), parallel.Layout.of(config)
        self.train = parallel.on_devices(self.layout, batches.arrays_of(self.dataset.train))

    def together(self, seeds: tuple[int, ...], configs: list[Any]) -> Timed:
        """All seeds, or all configs, by one vmapped program."""
        built = recipe.build(configs[0], self.facts, self.config.method)
        values, several = recipe.values_of(configs), len(seeds) > 1
        carry = parallel.start(built, self.layout, seeds, parallel.make_shared(built, self.layout), values)
        advance = parallel.make_advance(built, self.layout, self.train, several, values)
        return _timed(advance, [seeds], [carry], self.steps)

    def one_by_one(self, seeds: tuple[int, ...]) -> Timed:
        """The seeds one after the other, all by the program of a single run, whose steps are one call."""
        built = recipe.build(self.config, self.facts, self.config.method)
        shared = parallel.make_shared(built, self.layout)
        carries = [parallel.start(built, self.layout, (seed,), shared) for seed in seeds]
        advance = parallel.make_advance(built, self.layout, self.train, several=False)
        return _timed(advance, [(seed,) for seed in seeds], carries, self.steps)


def _timed(advance: Any, groups: list[tuple[int, ...]], carries: list[Any], steps: int) -> Timed:
    def again() -> float:
        start = time.perf_counter()
        for number, seeds in enumerate(groups):
            carries[number] = advance(seeds, *carries[number], 0, steps)
            jax.block_until_ready(carries[number][1].loss)
        return time.perf_counter() - start

    return Timed(again(), again)


def hand_written(path: str, size: int, steps: int, batch: int) -> Timed:
    """A loop over runs around a loop over steps around a jitted step: what a user would write."""
    runs = [flax_loop.Loop(path, "mlp", batch, seed=seed) for seed in range(size)]

    def again() -> float:
        return sum(steps * seconds_of(run.step, jax.block_until_ready, steps) for run in runs)

    return Timed(again(), again)


def measure(settings: Settings) -> list[Row]:
    """Runs in a process of its own."""
    size, steps = (4, 6) if settings.quick else (SIZE, 60)
    runs, perturbed = Runs(steps, "ce"), Runs(steps, "lpg")
    seeds = tuple(range(size))
    rates = [runs.config.copy_and_resolve_references() for _ in seeds]
    for config, rate in zip(rates, np.linspace(0.02, 0.2, size), strict=True):
        config.train.learning_rate = float(rate)
    path = settings.images + ".digits.npz"
    np.savez(path, x_train=runs.dataset.train.inputs, y_train=runs.dataset.train.labels)
    ways = {
        "seeds": runs.together(seeds, [runs.config]),
        "learning rates": runs.together((0,), rates),
        "seeds, lpg": perturbed.together(seeds, [perturbed.config]),
        "run by run, a call each": runs.one_by_one(seeds),
        "Python loop": hand_written(path, size, steps, runs.config.train.batch_size),
    }
    seconds = interleave({name: way.again for name, way in ways.items()}, settings.rounds(15))
    case = f"digits mlp S={size}"
    *together, calls, loop = ways
    rows = [row("population", case, name, "ms per step and model", 1e3 * values / steps / size)
            for name, values in seconds.items()]  # fmt: skip
    rows += [row("population", case, f"{slow} / {name}", "x", seconds[slow] / seconds[name])
             for slow in (loop, calls) for name in together]  # fmt: skip
    return rows + [row("population", case, f"{name}: first call", "s", way.first) for name, way in ways.items()]
