"""`run`: a config and a work directory -> every method trained, every file written."""

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
from rich.console import Console
from rich.markup import escape

from lpg_jax import data, models
from lpg_jax.training import batches, loop, parallel, recipe, settings, summary, trackers
from lpg_jax.training import workdir as files
from lpg_jax.training.batches import Arrays, Part
from lpg_jax.training.parallel import Layout
from lpg_jax.training.progress import Bars
from lpg_jax.training.recipe import Facts, Recipe
from lpg_jax.training.settings import Config, ConfigError
from lpg_jax.training.signals import Signals
from lpg_jax.training.state import TrainState, predictor

States: TypeAlias = dict[str, TrainState]  # by method

# What one program trains at once; a population beyond is cut into several.
MEMBERS = 256  # runs times seeds
POPULATION_BYTES = 2**30  # of their states; training takes a few times that


def run(config: Config, workdir: str | Path, *, console: Console | None = None, command: str = "") -> States:
    """Trains every method of config.method, all seeds at once, and writes WORKDIR/summary.json.

    The data set is fixed by config.seed; initial parameters and data order belong to the seeds
    config.seed .. config.seed + num_seeds - 1 and are the same for every method, so that methods are paired.

    | work directory | what happens |
    |---|---|
    | absent or empty | training from the start |
    | an unfinished run with the same config | resumed from the newest checkpoint of each method; ends bit-identical |
    | a finished run with the same config | nothing is trained; its states are returned |
    | a run with another config, or other files | ConfigError, nothing is touched |

    Args:
      config: as made by configs/default.py; it is not changed.
      workdir: directory of the run, made if absent.
      console: where progress goes; None: nowhere.
      command: how the run was started, for summary.json.

    Returns:
      The final `TrainState` of every method, in order; with num_seeds > 1 every leaf has a leading axis [S].

    Raises:
      ConfigError (a ValueError): config or work directory cannot be run; raised before any training.
      FloatingPointError: a loss is not finite; earlier checkpoints are kept.
      Interrupted: SIGTERM or SIGINT; a checkpoint was saved, and the same call goes on from there.

    Example:
      >>> states = lpg_jax.training.run(config, "runs/mine")  # doctest: +SKIP
      >>> states["lpg"].logit_state.class_margin  # doctest: +SKIP
    """
    (outcome,) = run_many([(config, workdir)], console=console, command=command)
    if isinstance(outcome, FloatingPointError):
        raise outcome
    return outcome


def run_many(
    runs: Sequence[tuple[Config, str | Path]], *, console: Console | None = None, command: str = ""
) -> list[States | FloatingPointError]:
    """`run` for several runs at once, as a population: one program, whose states have a leading axis of runs.

    Every run writes into its own work directory what it would write alone, with the same figures to rounding; wall
    times are those of the population, whose number of runs stands in run.json. One that is cut short is resumed alone,
    and then ends as one that was never stopped to rounding (not to the bit).

    Args:
      runs: (config, work directory) of each. Two or more must be fresh, share a `recipe.program_of` and be of a model
        and on a device for which `parallel.takes_population` holds.
      console, command: as of `run`.

    Returns:
      What `run` returns for each; or, of a run whose loss became NaN or infinite, the FloatingPointError. The others
      go on.

    Raises:
      ConfigError, Interrupted: as `run`; after an interrupt every run has a checkpoint.

    Example:
      >>> states, others = run_many([(config, "runs/a"), (other, "runs/b")])  # doctest: +SKIP
    """
    began, console = time.perf_counter(), console or Console(quiet=True)
    config, homes = runs[0][0], [Path(home) for _, home in runs]
    try:
        status = _inspect([each for each, _ in runs], homes)
        layout = Layout.of(config)
        parallel.meet("the work directory is inspected")
        dataset = None if status == "finished" else data.load(config.data, config.seed)
        facts = files.read_facts(homes[0]) if dataset is None else Facts.of(dataset)
        names = settings.method_names(config)
        recipes = ({name: recipe.build(each, facts, name) for name in names} for each, _ in runs)
        tasks = [Task(each, home, of) for (each, _), home, of in zip(runs, homes, recipes, strict=True)]
        if dataset is None:
            console.print(f"{escape(str(homes[0]))}: this run is finished, nothing is trained", soft_wrap=True)
            return [{name: _restore(task, layout, name) for name in names} for task in tasks]
        _check_validation(tasks[0], dataset)
        if len(runs) > 1 and not parallel.takes_population(tasks[0].first, layout):
            raise ConfigError(
                f"model.name={config.model.name!r}: runs on this model and device cannot be one population"
            )
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    room = _room_of(tasks[0], layout) if len(tasks) > 1 else 1
    for start in range(0, len(tasks), room):
        _run_together(tasks[start : start + room], layout, dataset, status == "unfinished", console, command, began)
        began = time.perf_counter()
    return [task.error or task.states for task in tasks]


@dataclasses.dataclass
class Task:
    """One run, and what has come of it so far."""

    config: Config
    home: Path
    recipes: dict[str, Recipe]  # by method
    states: States = dataclasses.field(default_factory=dict)
    results: dict[str, Any] = dataclasses.field(default_factory=dict)  # by method, as of `loop.train`
    error: FloatingPointError | None = None  # what ended it

    @property
    def first(self) -> Recipe:
        """The recipe of its first method."""
        return next(iter(self.recipes.values()))


def _check_validation(task: Task, dataset: data.Dataset) -> None:
    """ValueError if a method learns from a validation part that lacks a class."""
    if dataset.validation is None:
        return
    absent = np.flatnonzero(np.bincount(dataset.validation.labels, minlength=dataset.num_classes) == 0)
    for name, of_method in task.recipes.items():
        if of_method.method.meta is not None and len(absent):
            fields = task.config.data
            what, fix = f"data.validation={fields.validation}", "lower data.imbalance"
            if fields.validation_per_class > 0:  # noise alone can take a class away
                what, fix = f"data.validation_per_class={fields.validation_per_class}", "set validation_labels='clean'"
            raise ValueError(
                f"{what}: leaves no example of class {absent[0]} ({dataset.class_names[absent[0]]}), "
                f"which {name} learns from; raise it, or {fix}"
            )


def _inspect(configs: Sequence[Config], homes: Sequence[Path]) -> str:
    """Checks configs and directories; "new", "unfinished" or "finished", for several always "new"."""
    for config in configs:
        settings.check(config)
        settings.method_names(config)
        trackers.check(config.log)
    found = [files.inspect(home, settings.to_json(config)) for config, home in zip(configs, homes, strict=True)]
    if len(configs) == 1:
        return found[0]
    for home, status in zip(homes, found, strict=True):
        if status != "new":
            raise ConfigError(f"workdir={str(home)!r}: is {status}; a population begins with new ones, so run it alone")
    if len(set(homes)) < len(homes) or len(set(map(recipe.program_of, configs))) > 1:
        raise ConfigError(f"runs of one population must differ in {', '.join(recipe.POPULATION)} only")
    return "new"


def _run_together(
    tasks: Sequence[Task],
    layout: Layout,
    dataset: data.Dataset,
    resumes: bool,
    console: Console,
    command: str,
    began: float,
) -> None:
    """Claims the directories, trains a run or a population, and writes the summaries."""
    facts = tasks[0].first.facts
    try:
        if parallel.leads():
            needed_bytes = len(tasks) * _needed_bytes(tasks[0], layout)
            number = {"population": len(tasks)} if len(tasks) > 1 else {}
            for task in tasks:
                files.check_room(task.home, needed_bytes)
                files.claim(task.home, settings.to_json(task.config), facts._asdict())
                files.write_run(task.home, summary.provenance(command) | number)
                _write_noise(task.home, dataset)
        parallel.meet("the work directory is claimed")
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    console = console if parallel.leads() else Console(quiet=True)
    _introduce(tasks, layout, resumes, console)
    _train(tasks, layout, dataset, console)
    for task in tasks:
        if parallel.leads() and task.error is None:
            seconds = time.perf_counter() - began
            content = summary.compose(task.config, facts, task.first.total_steps, task.results, command, seconds)
            files.write_json(task.home / files.SUMMARY, content)
    parallel.meet("the summary is written")


def _bytes_of(recipe: Recipe, config: Config, layout: Layout) -> int:
    """The size of the state of all seeds."""
    tree = loop.abstract(recipe, loop.Plan.of(config, recipe.steps_per_epoch), layout)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _write_noise(home: Path, dataset: data.Dataset) -> None:
    """The labels that are trained on, for other runs (data.noise.kind="file"), and who was mistaken for whom."""
    splits = [split for split in (dataset.train, dataset.validation) if split is not None]
    if dataset.noise_rate == 0:
        return
    fields = ("labels", "index", "clean_labels")
    labels, index, clean = (np.concatenate([getattr(split, name) for split in splits]) for name in fields)
    order = np.argsort(index)
    data.save_labels(home / files.LABELS, labels[order], index=index[order], clean_labels=clean[order])
    confusion = {"rate": dataset.noise_rate, "classes": dataset.class_names, "confusion": dataset.confusion.tolist()}
    files.write_json(home / files.NOISE, confusion)


def _needed_bytes(task: Task, layout: Layout) -> int:
    """Disk space for the checkpoints of all methods, one of them being written beside the kept ones."""
    sizes = [_bytes_of(of_method, task.config, layout) for of_method in task.recipes.values()]
    return sum(sizes) * task.config.checkpoint.keep + max(sizes)


def _room_of(task: Task, layout: Layout) -> int:
    """How many runs like this one are trained at once."""
    size = max(_bytes_of(of_method, task.config, layout) for of_method in task.recipes.values())
    return max(1, min(MEMBERS // task.config.num_seeds, POPULATION_BYTES // size))


def _restore(task: Task, layout: Layout, name: str) -> TrainState:
    plan = loop.Plan.of(task.config, task.recipes[name].steps_per_epoch)
    return loop.restore(task.recipes[name], plan, layout, task.home / name)


def _introduce(tasks: Sequence[Task], layout: Layout, resumes: bool, console: Console) -> None:
    """Says what is about to be trained."""
    config, one = tasks[0].config, tasks[0].first
    facts, size = one.facts, config.train.batch_size
    start = parallel.abstract_start(one, layout, (config.seed,))[0]
    params = jax.eval_shape(functools.partial(predictor, one), start).params
    noise = f", {100 * facts.noise_rate:.1f} % of the labels wrong" if facts.noise_rate else ""
    low, high = min(facts.class_counts), max(facts.class_counts)
    last = config.seed + config.num_seeds - 1
    together = ", all at once" if len(parallel.groups(one, (0, 1))) == 1 else ", side by side"
    processes = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
    links = zip(*(task.first.descent.description for task in tasks), strict=True)
    homes = ", ".join(str(task.home) for task in tasks)
    lines = {
        "data": f"{config.data.name}, {facts.train_size} training examples, {low} to {high} per class{noise}",
        "model": f"{config.model.name}, {models.count_parameters(params):,} parameters, {config.train.dtype}",
        "training": f"{config.train.epochs} epochs of {one.steps_per_epoch} batches of {size}",
        "method": "; ".join(" + ".join(each.method.description) for each in tasks[0].recipes.values()),
        "optimizer": " -> ".join(" or ".join(dict.fromkeys(texts)) for texts in links),
        "directory": f"{homes}{', where an unfinished run is resumed' if resumes else ''}",
        "seeds": f"{config.seed} to {last}{together}" if config.num_seeds > 1 else str(config.seed),
        "devices": f"{layout.shards} {jax.devices()[0].platform}, by {layout.route}{processes}",
    }
    if len(tasks) > 1:
        fields = ", ".join(recipe.values_of([task.config for task in tasks]))
        lines["runs"] = f"{len(tasks)} runs as one population, which differ in {fields}"
    for name, text in lines.items():
        console.print(f"[bold]{name:<10}[/]{escape(text)}", highlight=False, soft_wrap=True)


def _train(tasks: Sequence[Task], layout: Layout, dataset: data.Dataset, console: Console) -> None:
    """Trains the methods one after the other; one that is done already is only read."""
    train = parallel.on_devices(layout, batches.arrays_of(dataset.train))
    parts, one = _parts(dataset, train, layout), tasks[0].first
    plan, shared = loop.Plan.of(tasks[0].config, one.steps_per_epoch), parallel.make_shared(one, layout)
    with Bars(console) as bars, Signals() as signals:
        for name in tasks[0].recipes:
            todo = [task for task in tasks if not _is_over(task, layout, name)]
            if not todo:
                continue
            job = loop.Job(
                recipes=tuple(task.recipes[name] for task in todo),
                homes=tuple(task.home / name for task in todo),
                values=recipe.values_of([task.config for task in todo]),
                plan=plan,
                layout=layout,
                train=train,
                validation=None if dataset.validation is None else batches.arrays_of(dataset.validation),
                parts=parts,
                shared=shared,
                signals=signals,
            )
            log = functools.partial(_open_trackers, todo, name, plan.seeds)
            outcomes = loop.train(job, bars.add(name, one.total_steps), log)
            for task, outcome in zip(todo, outcomes, strict=True):
                if isinstance(outcome, FloatingPointError):
                    task.error = outcome
                else:
                    task.states[name], task.results[name] = outcome
            parallel.meet(f"{name} is trained")


def _is_over(task: Task, layout: Layout, name: str) -> bool:
    """Whether there is nothing to train: the run failed in a method before, or was resumed after this one."""
    done = task.home / name / files.RESULT
    if task.error is None and done.exists() and (task.home / name / files.METRICS).exists():
        task.states[name], task.results[name] = _restore(task, layout, name), files.read_json(done, dict)
    return task.error is not None or name in task.states


def _open_trackers(tasks: Sequence[Task], name: str, seeds: tuple[int, ...], number: int) -> trackers.Trackers:
    if not parallel.leads():
        return trackers.Trackers()
    config, home = tasks[number].config, tasks[number].home
    return trackers.open_trackers(config.log, home / name, f"{home.name}/{name}", settings.to_json(config), seeds)


def _parts(dataset: data.Dataset, train: Arrays, layout: Layout) -> dict[str, Part]:
    """What is scored at every evaluation; on noisy sets the training examples, too."""
    held_out = {"test": dataset.test, "validation": dataset.validation}
    parts = {
        name: Part(parallel.on_devices(layout, batches.arrays_of(split)), np.arange(len(split.labels)))
        for name, split in held_out.items()
        if split is not None
    }
    wrong = dataset.train.labels != dataset.train.clean_labels
    if not wrong.any():
        return parts
    (clean,), (mislabelled,) = np.nonzero(~wrong), np.nonzero(wrong)
    true = parallel.on_devices(layout, Arrays(np.zeros(0), np.asarray(dataset.train.clean_labels, np.int32)))
    return parts | {
        "clean": Part(train, clean),
        "mislabelled": Part(train, mislabelled),
        "mislabelled_true": Part(train._replace(labels=true.labels), mislabelled),
    }
