"""Trains one method: all seeds, from wherever its checkpoints stand to the end."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lpg_jax.training import parallel, records, signals, workdir
from lpg_jax.training.batches import Arrays, Part
from lpg_jax.training.checkpoint import Checkpoints
from lpg_jax.training.parallel import Carry, Layout, Seeds
from lpg_jax.training.progress import Bar
from lpg_jax.training.recipe import Recipe
from lpg_jax.training.settings import Config, ConfigError
from lpg_jax.training.signals import Interrupted, Signals
from lpg_jax.training.state import TrainState
from lpg_jax.training.step import Window
from lpg_jax.training.trackers import Trackers

_CALL_SECONDS = 0.5  # about how long a stretch of steps may take, so that bar and signals keep up
_SHARED_STRETCH = 10  # its length where several processes must stop at the same step
LAST = 5  # epochs at the end of each of which there is an evaluation, for the mean over them


class Plan(NamedTuple):
    """For whom, and when to stop on the way."""

    seeds: Seeds
    steps_per_epoch: int
    evaluate_every: int  # steps
    checkpoint_every: int  # steps; 0: only at the end
    keep: int  # newest checkpoints that stay

    @classmethod
    def of(cls, config: Config, steps_per_epoch: int) -> "Plan":
        """The plan of a config."""
        return cls(
            seeds=tuple(range(config.seed, config.seed + config.num_seeds)),
            steps_per_epoch=steps_per_epoch,
            evaluate_every=config.evaluate.every_epochs * steps_per_epoch,
            checkpoint_every=config.checkpoint.every_steps,
            keep=config.checkpoint.keep,
        )


class Job(NamedTuple):
    """One method to train."""

    recipe: Recipe
    plan: Plan
    layout: Layout
    train: Arrays
    parts: dict[str, Part]  # what is scored: "test", perhaps "validation", "clean", ...
    shared: parallel.Shared
    home: Path  # WORKDIR/METHOD
    signals: Signals


def train(job: Job, bar: Bar, open_trackers: Callable[[], Trackers]) -> tuple[TrainState, dict[str, Any]]:
    """Trains a method to the end, resuming from its newest checkpoint, and writes its metrics and its result.

    Args:
      job: what to train.
      bar: told about every stretch of steps.
      open_trackers: makes the context manager that gets every record.

    Returns:
      The final state, and (in the process that writes files) the method's entry of summary.json plus "seconds".

    Raises:
      FloatingPointError: a loss is not finite; names seed and steps. The checkpoints are from before.
      Interrupted: by a signal; a checkpoint of the step reached is saved.
    """
    began = time.perf_counter()
    home, plan, total = job.home, job.plan, job.recipe.total_steps
    home.mkdir(exist_ok=True)
    drive = _Driver(job, bar)
    with Checkpoints(home / workdir.CHECKPOINTS, plan.keep) as checkpoints, open_trackers() as trackers:
        carries, restored_steps = _begin(job, checkpoints)
        step = _step_of(carries)
        bar.begin(step)
        for stop, evaluates, saves in stops(plan, step, total):
            carries, reached = drive(carries, step, stop)
            if reached < stop:
                _save(job, checkpoints, reached, carries)
                checkpoints.wait()
                raise Interrupted(drive.signal, reached)
            step = stop
            if evaluates:
                _record(job, carries, trackers)
                carries = [(state, jax.tree.map(jnp.zeros_like, window)) for state, window in carries]
            if saves:
                _save(job, checkpoints, step, carries)
        if parallel.leads() and len(_records_of(home, total)) != len(plan.seeds):  # lines lost after the checkpoint
            _record(job, carries, trackers)
    state = parallel.merge([parallel.view(job.layout, state) for state, _ in carries])
    if not parallel.leads():
        return state, {}
    lines = workdir.read_lines(home / workdir.METRICS)
    result = records.result(lines, state, plan.seeds, restored_steps, total)
    result["seconds"] = time.perf_counter() - began
    workdir.write_json(home / workdir.RESULT, result)
    return state, result


def restore(recipe: Recipe, plan: Plan, layout: Layout, home: Path) -> TrainState:
    """The state of the newest checkpoint of a method, with a leading axis of seeds if there are several.

    Raises:
      ConfigError: there is none.
    """
    directory = home / workdir.CHECKPOINTS
    found = None
    if directory.is_dir():
        with Checkpoints(directory, plan.keep) as checkpoints:
            found = checkpoints.restore(abstract(recipe, plan, layout), layout.whole)
    if found is None:
        raise ConfigError(f"{directory}: no checkpoint; run the same config in this work directory to make one")
    return parallel.merge([state for state, _ in found[1]])


def abstract(recipe: Recipe, plan: Plan, layout: Layout) -> list[Carry]:
    """Shapes and dtypes of a checkpoint: state and figures of every group of seeds."""
    return [parallel.abstract_start(recipe, layout, seeds) for seeds in parallel.groups(recipe, plan.seeds)]


def stops(plan: Plan, step: int, total: int) -> list[tuple[int, bool, bool]]:
    """The steps after `step` at which to evaluate or to save: (step, evaluates, saves); both at the end.

    >>> stops(Plan((0,), 1, evaluate_every=4, checkpoint_every=3, keep=1), 3, 8)
    [(4, True, False), (5, True, False), (6, True, True), (7, True, False), (8, True, True)]
    """
    last = {total - plan.steps_per_epoch * number for number in range(LAST)}
    evaluations = {*range(plan.evaluate_every, total, plan.evaluate_every), *last}
    saves = {*(range(plan.checkpoint_every, total, plan.checkpoint_every) if plan.checkpoint_every else ()), total}
    return [(stop, stop in evaluations, stop in saves) for stop in sorted(evaluations | saves) if stop > step]


def _step_of(carries: list[Carry]) -> int:
    return int(np.max(carries[0][0].step))


def _begin(job: Job, checkpoints: Checkpoints) -> tuple[list[Carry], list[int]]:
    """The newest checkpoint or the start, and the steps ever restored; the files then say nothing of later steps."""
    found = checkpoints.restore(abstract(job.recipe, job.plan, job.layout), job.layout.whole)
    if found is None:
        of_groups = parallel.groups(job.recipe, job.plan.seeds)
        carries = [parallel.start(job.recipe, job.layout, seeds, job.shared) for seeds in of_groups]
    else:
        carries = [parallel.spread(job.layout, carry) for carry in found[1]]
    step, path = _step_of(carries), job.home / workdir.RESTORED
    restored_steps = workdir.read_json(path, list) if path.exists() else []
    parallel.meet("restored steps are read")
    if found is not None:
        restored_steps.append(step)
    if parallel.leads():
        if found is not None:
            workdir.write_json(path, restored_steps)
        workdir.keep_lines(job.home / workdir.METRICS, step)
    return carries, restored_steps


def _save(job: Job, checkpoints: Checkpoints, step: int, carries: list[Carry]) -> None:
    checkpoints.save(step, [parallel.view(job.layout, carry) for carry in carries])


def _records_of(home: Path, step: int) -> list[dict[str, Any]]:
    return [record for record in workdir.read_lines(home / workdir.METRICS) if record["step"] == step]


def _record(job: Job, carries: list[Carry], trackers: Trackers) -> None:
    scores = {
        name: parallel.merge([parallel.score(job.shared, job.layout, carry, part) for carry in carries])
        for name, part in job.parts.items()
    }
    views = [parallel.view(job.layout, carry) for carry in carries]
    state, window = parallel.merge([(state._replace(params={}, opt_state={}), window) for state, window in views])
    if parallel.leads():
        lines = records.lines(job.recipe, job.plan.seeds, state, window, scores)
        workdir.append_lines(job.home / workdir.METRICS, lines)
        trackers.log(lines)


class _Driver:
    """Takes all groups from step to step in stretches of about `_CALL_SECONDS`, or until a signal."""

    def __init__(self, job: Job, bar: Bar):
        self._groups = parallel.groups(job.recipe, job.plan.seeds)
        several = len(self._groups[0]) > 1
        self._advance = parallel.make_advance(job.recipe, job.layout, job.train, several)
        self._job, self._bar, self.signal = job, bar, 0
        self._size = 1 if jax.process_count() == 1 else _SHARED_STRETCH
        self._timed: tuple[int, float] | None = None  # steps and seconds

    def __call__(self, carries: list[Carry], first: int, stop: int) -> tuple[list[Carry], int]:
        """(carries, the step reached): `stop`, or less if a signal came."""
        while first < stop:
            self.signal = signals.agreed(self._job.signals.received, first)
            if self.signal:
                return carries, first
            clock, last = time.perf_counter(), min(stop, first + self._size)
            pairs = zip(self._groups, carries, strict=True)
            carries = [self._advance(seeds, *carry, first, last) for seeds, carry in pairs]
            window = self._window(carries)  # waits for the result
            _check_finite(window, self._job.plan.seeds, first, last)
            self._bar.advance(last, window, self._pace(last - first, time.perf_counter() - clock))
            first = last
        return carries, first

    def _window(self, carries: list[Carry]) -> Window:
        """Figures of all seeds, on the host."""
        views = [jax.tree.map(np.asarray, parallel.view(self._job.layout, window)) for _, window in carries]
        return views[0] if len(views) == 1 else jax.tree.map(lambda *leaves: np.stack(leaves), *views)

    def _pace(self, steps: int, seconds: float) -> float | None:
        """Steps per second so far, without the first call, which compiles; sets the size of the next call."""
        if self._timed is None:
            self._timed = (0, 0.0)
            return None
        self._timed = (self._timed[0] + steps, self._timed[1] + seconds)
        if jax.process_count() == 1:
            self._size *= 2 if seconds < _CALL_SECONDS / 2 else 1
        return self._timed[0] / self._timed[1]


def _check_finite(window: Window, seeds: Seeds, first: int, last: int) -> None:
    finite = np.isfinite(np.atleast_1d(window.loss))
    if not finite.all():
        raise FloatingPointError(
            f"seed {seeds[int(np.argmin(finite))]}: the loss became NaN or infinite in steps {first + 1} to {last}; "
            "lower train.learning_rate or lpg.epsilon, or set train.clip_norm (earlier checkpoints are kept)"
        )
