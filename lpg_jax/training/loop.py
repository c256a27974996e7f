"""Trains one method: all seeds at once, from wherever its checkpoints stand to the end."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lpg_jax.training import parallel, records, workdir
from lpg_jax.training.batches import Arrays
from lpg_jax.training.checkpoint import Checkpoints
from lpg_jax.training.progress import Bar
from lpg_jax.training.recipe import Recipe
from lpg_jax.training.settings import Config, ConfigError
from lpg_jax.training.state import TrainState
from lpg_jax.training.step import Window

_CALL_SECONDS = 0.5  # about how long one call into a compiled program may take, so that bar and interrupts keep up


class Plan(NamedTuple):
    """For whom, and when to stop on the way."""

    seeds: tuple[int, ...]
    evaluate_every: int  # steps
    checkpoint_every: int  # steps; 0: only at the end
    keep: int  # newest checkpoints that stay

    @classmethod
    def of(cls, config: Config, steps_per_epoch: int) -> "Plan":
        """The plan of a config."""
        return cls(
            seeds=tuple(range(config.seed, config.seed + config.num_seeds)),
            evaluate_every=config.evaluate.every_epochs * steps_per_epoch,
            checkpoint_every=config.checkpoint.every_steps,
            keep=config.checkpoint.keep,
        )


class Job(NamedTuple):
    """One method to train."""

    recipe: Recipe
    plan: Plan
    train: Arrays
    held_out: dict[str, Arrays]  # "test", perhaps "validation"
    shared: parallel.Shared
    home: Path  # WORKDIR/METHOD


def train(job: Job, bar: Bar) -> tuple[TrainState, dict[str, Any]]:
    """Trains a method to the end, resuming from its newest checkpoint, and writes its metrics and its result.

    Args:
      job: what to train.
      bar: told about every stretch of steps.

    Returns:
      The final state, and the method's entry of summary.json plus "seconds".

    Raises:
      FloatingPointError: a loss is not finite; names seed and steps. The checkpoints are from before.
    """
    began = time.perf_counter()
    home, plan, total = job.home, job.plan, job.recipe.total_steps
    home.mkdir(exist_ok=True)
    drive = _Driver(job, bar)
    with Checkpoints(home / workdir.CHECKPOINTS, plan.keep) as checkpoints:
        state, window, restored_steps = _begin(job, checkpoints)
        step = int(np.max(state.step))
        bar.begin(step)
        for stop, evaluates, saves in stops(plan, step, total):
            state, window = drive(state, window, step, stop)
            step = stop
            if evaluates:
                _record(job, state, window)
                window = jax.tree.map(jnp.zeros_like, window)
            if saves:
                checkpoints.save(step, (state, window))
    if len(_records_of(home, total)) != len(plan.seeds):  # lines lost after the checkpoint was saved
        _record(job, state, window)
    last = _records_of(home, total)
    result = records.result(last, state, plan.seeds, restored_steps) | {"seconds": time.perf_counter() - began}
    workdir.write_json(home / workdir.RESULT, result)
    return state, result


def restore(recipe: Recipe, plan: Plan, home: Path) -> TrainState:
    """The state of the newest checkpoint of a method.

    Raises:
      ConfigError: there is none.
    """
    directory = home / workdir.CHECKPOINTS
    found = None
    if directory.is_dir():
        with Checkpoints(directory, plan.keep) as checkpoints:
            found = checkpoints.restore(parallel.abstract_start(recipe, plan.seeds))
    if found is None:
        raise ConfigError(f"{directory}: no checkpoint; run the same config in this work directory to make one")
    return found[0]


def stops(plan: Plan, step: int, total: int) -> list[tuple[int, bool, bool]]:
    """The steps after `step` at which to evaluate or to save: (step, evaluates, saves); both at the end.

    >>> stops(Plan((0,), evaluate_every=4, checkpoint_every=3, keep=1), 3, 8)
    [(4, True, False), (6, False, True), (8, True, True)]
    """
    evaluations = {*range(plan.evaluate_every, total, plan.evaluate_every), total}
    saves = {*(range(plan.checkpoint_every, total, plan.checkpoint_every) if plan.checkpoint_every else ()), total}
    return [(stop, stop in evaluations, stop in saves) for stop in sorted(evaluations | saves) if stop > step]


def _begin(job: Job, checkpoints: Checkpoints) -> tuple[TrainState, Window, list[int]]:
    """The newest checkpoint or the start, and the steps ever restored; the files then say nothing of later steps."""
    found = checkpoints.restore(parallel.abstract_start(job.recipe, job.plan.seeds))
    state, window = found or parallel.start(job.recipe, job.plan.seeds, job.shared)
    step, path = int(np.max(state.step)), job.home / workdir.RESTORED
    restored_steps = workdir.read_json(path, list) if path.exists() else []
    if found is not None:
        restored_steps.append(step)
        workdir.write_json(path, restored_steps)
    workdir.keep_lines(job.home / workdir.METRICS, step)
    return state, window, restored_steps


def _records_of(home: Path, step: int) -> list[dict[str, Any]]:
    return [record for record in workdir.read_lines(home / workdir.METRICS) if record["step"] == step]


def _record(job: Job, state: TrainState, window: Window) -> None:
    scores = {name: job.shared.score(state.params, state.batch_stats, arrays) for name, arrays in job.held_out.items()}
    lines = records.lines(job.recipe, job.plan.seeds, state, window, scores)
    workdir.append_lines(job.home / workdir.METRICS, lines)


class _Driver:
    """Takes a state from step to step in calls of about `_CALL_SECONDS`."""

    def __init__(self, job: Job, bar: Bar):
        self._advance = parallel.make_advance(job.recipe, job.plan.seeds)
        self._job, self._bar, self._size = job, bar, 1
        self._timed: tuple[int, float] | None = None  # steps and seconds

    def __call__(self, state: TrainState, window: Window, first: int, stop: int) -> tuple[TrainState, Window]:
        while first < stop:
            clock, last = time.perf_counter(), min(stop, first + self._size)
            state, window = self._advance(state, window, self._job.train, first, last)
            _check_finite(window, self._job.plan.seeds, first, last)  # waits for the result
            self._bar.advance(last, window, self._pace(last - first, time.perf_counter() - clock))
            first = last
        return state, window

    def _pace(self, steps: int, seconds: float) -> float | None:
        """Steps per second so far, without the first call, which compiles; sets the size of the next call."""
        if self._timed is None:
            self._timed = (0, 0.0)
            return None
        self._timed = (self._timed[0] + steps, self._timed[1] + seconds)
        self._size *= 2 if seconds < _CALL_SECONDS / 2 else 1
        return self._timed[0] / self._timed[1]


def _check_finite(window: Window, seeds: tuple[int, ...], first: int, last: int) -> None:
    finite = np.isfinite(np.atleast_1d(window.loss))
    if not finite.all():
        raise FloatingPointError(
            f"seed {seeds[int(np.argmin(finite))]}: the loss became NaN or infinite in steps {first + 1} to {last}; "
            "lower train.learning_rate or lpg.epsilon, or set train.clip_norm (earlier checkpoints are kept)"
        )
