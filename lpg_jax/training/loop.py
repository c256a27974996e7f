"""Trains one method: all seeds (of all runs of a population), from wherever its checkpoints stand to the end."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from lpg_jax.training import parallel, records, signals, workdir
from lpg_jax.training.batches import Arrays, Part
from lpg_jax.training.checkpoint import Checkpoints
from lpg_jax.training.parallel import Carry, Layout, Seeds
from lpg_jax.training.progress import Bar
from lpg_jax.training.recipe import Recipe, Values
from lpg_jax.training.settings import Config, ConfigError
from lpg_jax.training.signals import Interrupted, Signals
from lpg_jax.training.state import TrainState, predictor
from lpg_jax.training.step import Window
from lpg_jax.training.trackers import Trackers

_CALL_SECONDS = 0.5  # about how long a stretch of steps may take, so that bar and signals keep up
_SHARED_STRETCH = 10  # its length where several processes must stop at the same step


class Plan(NamedTuple):
    """For whom, and when to stop on the way."""

    seeds: Seeds
    steps_per_epoch: int
    evaluate_every: int  # steps
    checkpoint_every: int  # steps; 0: only at the end
    keep: int  # newest checkpoints that stay
    last_five: bool = True  # whether to evaluate after each of the last five epochs, for the mean over them

    @classmethod
    def of(cls, config: Config, steps_per_epoch: int) -> "Plan":
        """The plan of a config."""
        return cls(
            seeds=tuple(range(config.seed, config.seed + config.num_seeds)),
            steps_per_epoch=steps_per_epoch,
            evaluate_every=config.evaluate.every_epochs * steps_per_epoch,
            checkpoint_every=config.checkpoint.every_steps,
            keep=config.checkpoint.keep,
            last_five=config.evaluate.get("last_five", True),  # runs from before it was a field did
        )


class Job(NamedTuple):
    """One method to train, in a run alone or in a population of runs, which differ in `values` only."""

    recipes: tuple[Recipe, ...]  # of each run; they share the first one's program
    homes: tuple[Path, ...]  # WORKDIR/METHOD of each run
    values: Values  # {} for a run alone
    plan: Plan
    layout: Layout
    train: Arrays
    validation: Arrays | None  # on the host; what a method may learn from besides
    parts: dict[str, Part]  # what is scored: "test", perhaps "validation", "clean", ...
    shared: parallel.Shared
    signals: Signals


Outcome: TypeAlias = tuple[TrainState, dict[str, Any]] | FloatingPointError


def train(job: Job, bar: Bar, open_trackers: Callable[[int], Trackers]) -> list[Outcome]:
    """Trains a method to the end and writes the metrics and the result of every run.

    A run alone is resumed from its newest checkpoint; the runs of a population begin together, at the start.

    Args:
      job: what to train.
      bar: told about every stretch of steps.
      open_trackers: number of a run -> the context manager that gets its records.

    Returns:
      Of each run the final state, and (in the process that writes files) the method's entry of summary.json plus
      "seconds" (of all runs of a population together); or the error that ended it: a FloatingPointError that names
      seed and steps where a loss is not finite. Its checkpoints are from before, and the other runs went on.

    Raises:
      Interrupted: by a signal; a checkpoint of the step reached is saved.
    """
    began, plan, total = time.perf_counter(), job.plan, job.recipes[0].total_steps
    drive = _Driver(job, bar)
    with ExitStack() as stack:
        books = [stack.enter_context(Book(job, number, open_trackers)) for number in range(len(job.homes))]
        carries = _begin(job, books)
        step = _step_of(carries)
        bar.begin(step)
        for stop, evaluates, saves in stops(plan, step, total):
            carries, reached = drive(carries, step, stop, books)
            if not _going(books):
                break
            if reached < stop:
                _save(job, books, reached, carries)
                for book in _going(books):
                    book.checkpoints.wait()
                raise Interrupted(drive.signal, reached)
            step = stop
            if step == total:
                carries = [parallel.finish(job.recipes[0], job.layout, carry, job.train) for carry in carries]
            if evaluates:
                _record(job, _going(books), carries)
                carries = [(state, jax.tree.map(jnp.zeros_like, window)) for state, window in carries]
            if saves:
                _save(job, books, step, carries)
        if parallel.leads():
            behind = [book for book in _going(books) if len(book.records_of(total)) != len(plan.seeds)]
            if behind:  # lines were lost after the checkpoint
                _record(job, behind, carries)
    return [book.error or _finish(job, book, carries, began) for book in books]


class Book:
    """What one run of a job writes; a context manager.

    Attributes:
      number: of the run.
      recipe, home: of the run.
      checkpoints, trackers: open until the run ends or fails.
      restored_steps: the steps from which it was ever resumed.
      error: what ended it before the others, if anything.
    """

    def __init__(self, job: Job, number: int, open_trackers: Callable[[int], Trackers]):
        self.number, self.recipe, self.home = number, job.recipes[number], job.homes[number]
        self.restored_steps: list[int] = []
        self.error: FloatingPointError | None = None
        self.home.mkdir(exist_ok=True)
        with ExitStack() as stack:
            self.checkpoints = stack.enter_context(Checkpoints(self.home / workdir.CHECKPOINTS, job.plan.keep))
            self.trackers = stack.enter_context(open_trackers(number))
            self._stack = stack.pop_all()

    def __enter__(self) -> "Book":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def fail(self, error: FloatingPointError) -> None:
        """Closes everything; nothing is written from now on."""
        self.error = error
        self._stack.__exit__(type(error), error, error.__traceback__)

    def begin(self, step: int, restored: bool) -> None:
        """Makes the files say nothing of steps after the one at which the run begins."""
        path = self.home / workdir.RESTORED
        self.restored_steps = workdir.read_json(path, list) if path.exists() else []
        parallel.meet("restored steps are read")
        if restored:
            self.restored_steps.append(step)
        if parallel.leads():
            if restored:
                workdir.write_json(path, self.restored_steps)
            workdir.keep_lines(self.home / workdir.METRICS, step)

    def records_of(self, step: int) -> list[dict[str, Any]]:
        """The records of a step, one per seed."""
        return [record for record in workdir.read_lines(self.home / workdir.METRICS) if record["step"] == step]


def _going(books: list[Book]) -> list[Book]:
    return [book for book in books if book.error is None]


def _finish(job: Job, book: Book, carries: list[Carry], began: float) -> Outcome:
    state = parallel.merge([parallel.view(job.layout, state) for state, _ in _of(job, book, carries)])
    if not parallel.leads():
        return state, {}
    lines = workdir.read_lines(book.home / workdir.METRICS)
    plan, steps = job.plan, book.recipe.total_steps
    result = records.result(lines, state, plan.seeds, book.restored_steps, steps, plan.last_five)
    result["seconds"] = time.perf_counter() - began
    workdir.write_json(book.home / workdir.RESULT, result)
    return state, result


def _of(job: Job, book: Book, tree: Any) -> Any:
    """What is of this run, in the form of a run alone."""
    return parallel.of_run(tree, book.number) if job.values else tree


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
    last = {total - plan.steps_per_epoch * number for number in range(records.LAST if plan.last_five else 1)}
    evaluations = {*range(plan.evaluate_every, total, plan.evaluate_every), *last}
    saves = {*(range(plan.checkpoint_every, total, plan.checkpoint_every) if plan.checkpoint_every else ()), total}
    return [(stop, stop in evaluations, stop in saves) for stop in sorted(evaluations | saves) if stop > step]


def _step_of(carries: list[Carry]) -> int:
    return int(np.max(carries[0][0].step))


def _begin(job: Job, books: list[Book]) -> list[Carry]:
    """The newest checkpoint of a run alone, or the start."""
    recipe, seeds_of = job.recipes[0], parallel.groups(job.recipes[0], job.plan.seeds)
    found = None
    if not job.values:
        found = books[0].checkpoints.restore(abstract(recipe, job.plan, job.layout), job.layout.whole)
    if found is None:
        carries = [parallel.start(recipe, job.layout, seeds, job.shared, job.values) for seeds in seeds_of]
    else:
        carries = [parallel.spread(job.layout, carry) for carry in found[1]]
    for book in books:
        book.begin(_step_of(carries), found is not None)
    return carries


def _save(job: Job, books: list[Book], step: int, carries: list[Carry]) -> None:
    for book in _going(books):
        book.checkpoints.save(step, [parallel.view(job.layout, carry) for carry in _of(job, book, carries)])


def _record(job: Job, books: list[Book], carries: list[Carry]) -> None:
    recipe = job.recipes[0]  # the runs of a population differ in no number that predicts
    scores = {
        name: parallel.merge([parallel.score(recipe, job.shared, job.layout, carry, part) for carry in carries])
        for name, part in job.parts.items()
    }
    views = [parallel.view(job.layout, carry) for carry in carries]
    rest = [(predictor(recipe, state._replace(params={}, opt_state={})), window) for state, window in views]
    state, window = parallel.merge(rest)
    for book in books if parallel.leads() else ():
        lines = records.lines(book.recipe, job.plan.seeds, *_of(job, book, (state, window, scores)))
        workdir.append_lines(book.home / workdir.METRICS, lines)
        book.trackers.log(lines)


class _Driver:
    """Takes all groups from step to step in stretches of about `_CALL_SECONDS`, or until a signal."""

    def __init__(self, job: Job, bar: Bar):
        self._groups = parallel.groups(job.recipes[0], job.plan.seeds)
        several = len(self._groups[0]) > 1
        self._advance = parallel.make_advance(
            job.recipes[0], job.layout, job.train, several, job.values, job.validation
        )
        self._job, self._bar, self.signal = job, bar, 0
        self._size = 1 if jax.process_count() == 1 else _SHARED_STRETCH
        self._timed: tuple[int, float] | None = None  # steps and seconds

    def __call__(self, carries: list[Carry], first: int, stop: int, books: list[Book]) -> tuple[list[Carry], int]:
        """(carries, the step reached): `stop`, or less if a signal came or every run failed."""
        while first < stop and _going(books):
            self.signal = signals.agreed(self._job.signals.received, first)
            if self.signal:
                return carries, first
            clock, last = time.perf_counter(), min(stop, first + self._size)
            pairs = zip(self._groups, carries, strict=True)
            carries = [self._advance(seeds, *carry, first, last) for seeds, carry in pairs]
            window = self._window(carries)  # waits for the result
            for book in _going(books):
                _check_finite(book, self._of_runs([book], window).loss, self._job.plan.seeds, first, last)
            if going := _going(books):
                pace = self._pace(last - first, time.perf_counter() - clock)
                self._bar.advance(last, self._of_runs(going, window), pace)
            first = last
        return carries, first

    def _window(self, carries: list[Carry]) -> Window:
        """Figures of all runs and seeds, on the host."""
        views = [jax.tree.map(np.asarray, parallel.view(self._job.layout, window)) for _, window in carries]
        return views[0] if len(views) == 1 else jax.tree.map(lambda *leaves: np.stack(leaves), *views)

    def _of_runs(self, books: list[Book], window: Window) -> Window:
        numbers = [book.number for book in books]
        return jax.tree.map(lambda leaf: leaf[numbers], window) if self._job.values else window

    def _pace(self, steps: int, seconds: float) -> float | None:
        """Steps per second so far, without the first call, which compiles; sets the size of the next call."""
        if self._timed is None:
            self._timed = (0, 0.0)
            return None
        self._timed = (self._timed[0] + steps, self._timed[1] + seconds)
        if jax.process_count() == 1:
            self._size *= 2 if seconds < _CALL_SECONDS / 2 else 1
        return self._timed[0] / self._timed[1]


def _check_finite(book: Book, loss: np.ndarray | jax.Array, seeds: Seeds, first: int, last: int) -> None:
    finite = np.isfinite(loss).reshape(-1)
    if not finite.all():
        text = (
            f"seed {seeds[int(np.argmin(finite))]}: the loss became NaN or infinite in steps {first + 1} to {last}; "
            "lower train.learning_rate or lpg.epsilon, or set train.clip_norm (earlier checkpoints are kept)"
        )
        book.fail(FloatingPointError(text))
