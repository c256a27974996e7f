"""`run`: a config and a work directory -> every method trained, every file written."""

import functools
import time
from pathlib import Path
from typing import Any

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
from lpg_jax.training.state import TrainState


def run(
    config: Config, workdir: str | Path, *, console: Console | None = None, command: str = ""
) -> dict[str, TrainState]:
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
    began, home, console = time.perf_counter(), Path(workdir), console or Console(quiet=True)
    try:
        settings.check(config)
        trackers.check(config.log)
        names, layout = settings.method_names(config), Layout.of(config)
        status = files.inspect(home, settings.to_json(config))
        parallel.meet("the work directory is inspected")
        dataset = None if status == "finished" else data.load(config.data, config.seed)
        facts = files.read_facts(home) if dataset is None else Facts.of(dataset)
        recipes = {name: recipe.build(config, facts, name) for name in names}
        if dataset is None:
            console.print(f"{escape(str(home))}: this run is finished, nothing is trained", soft_wrap=True)
            return {name: _restore(config, of, layout, home / name) for name, of in recipes.items()}
        if parallel.leads():
            files.check_room(home, _needed_bytes(config, recipes, layout))
            files.claim(home, settings.to_json(config), facts._asdict())
            files.write_run(home, summary.provenance(command))
        parallel.meet("the work directory is claimed")
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    console = console if parallel.leads() else Console(quiet=True)
    _introduce(config, recipes, layout, home, status == "unfinished", console)
    states, results = _train(config, recipes, layout, dataset, home, console)
    if parallel.leads():
        steps = next(iter(recipes.values())).total_steps
        content = summary.compose(config, facts, steps, results, command, time.perf_counter() - began)
        files.write_json(home / files.SUMMARY, content)
    parallel.meet("the summary is written")
    return states


def _needed_bytes(config: Config, recipes: dict[str, Recipe], layout: Layout) -> int:
    """Disk space for the checkpoints of all methods, one of them being written beside the kept ones."""
    sizes = []
    for of_method in recipes.values():
        tree = loop.abstract(of_method, loop.Plan.of(config, of_method.steps_per_epoch), layout)
        sizes.append(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)))
    return sum(sizes) * config.checkpoint.keep + max(sizes)


def _restore(config: Config, of_method: Recipe, layout: Layout, home: Path) -> TrainState:
    return loop.restore(of_method, loop.Plan.of(config, of_method.steps_per_epoch), layout, home)


def _introduce(
    config: Config, recipes: dict[str, Recipe], layout: Layout, home: Path, resumes: bool, console: Console
) -> None:
    """Says what is about to be trained."""
    one = next(iter(recipes.values()))
    facts, size = one.facts, config.train.batch_size
    params = parallel.abstract_start(one, layout, (config.seed,))[0].params
    noise = f", {100 * facts.noise_rate:.1f} % of the labels wrong" if facts.noise_rate else ""
    low, high = min(facts.class_counts), max(facts.class_counts)
    last = config.seed + config.num_seeds - 1
    together = ", all at once" if len(parallel.groups(one, (0, 1))) == 1 else ", side by side"
    processes = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
    lines = {
        "data": f"{config.data.name}, {facts.train_size} training examples, {low} to {high} per class{noise}",
        "model": f"{config.model.name}, {models.count_parameters(params):,} parameters, {config.train.dtype}",
        "training": f"{config.train.epochs} epochs of {one.steps_per_epoch} batches of {size}",
        "optimizer": " -> ".join(one.descent.description),
        "directory": f"{home}{', where an unfinished run is resumed' if resumes else ''}",
        "seeds": f"{config.seed} to {last}{together}" if config.num_seeds > 1 else str(config.seed),
        "devices": f"{layout.shards} {jax.devices()[0].platform}, by {layout.route}{processes}",
    }
    for name, text in lines.items():
        console.print(f"[bold]{name:<10}[/]{escape(text)}", highlight=False, soft_wrap=True)


def _train(
    config: Config, recipes: dict[str, Recipe], layout: Layout, dataset: data.Dataset, home: Path, console: Console
) -> tuple[dict[str, TrainState], dict[str, Any]]:
    """Trains the methods one after the other; one that is done already is only read."""
    train = parallel.on_devices(layout, batches.arrays_of(dataset.train))
    parts = _parts(dataset, train, layout)
    one = next(iter(recipes.values()))
    plan, shared = loop.Plan.of(config, one.steps_per_epoch), parallel.make_shared(one, layout)
    states, results = {}, {}
    with Bars(console) as bars, Signals() as signals:
        for name, of_method in recipes.items():
            done = home / name / files.RESULT
            if done.exists() and (home / name / files.METRICS).exists():
                states[name] = _restore(config, of_method, layout, home / name)
                results[name] = files.read_json(done, dict)
                continue
            job = loop.Job(of_method, plan, layout, train, parts, shared, home / name, signals)
            log = functools.partial(_open_trackers, config, home, name, plan.seeds)
            states[name], results[name] = loop.train(job, bars.add(name, of_method.total_steps), log)
            parallel.meet(f"{name} is trained")
    return states, results


def _open_trackers(config: Config, home: Path, name: str, seeds: tuple[int, ...]) -> trackers.Trackers:
    if not parallel.leads():
        return trackers.Trackers()
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
