"""`run`: a config and a work directory -> every method trained, every file written."""

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from lpg_jax import data, models
from lpg_jax.training import batches, loop, parallel, recipe, settings, summary
from lpg_jax.training import workdir as files
from lpg_jax.training.progress import Bars
from lpg_jax.training.recipe import Facts, Recipe
from lpg_jax.training.settings import Config, ConfigError
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

    Example:
      >>> states = lpg_jax.training.run(config, "runs/mine")  # doctest: +SKIP
      >>> states["lpg"].logit_state.class_margin  # doctest: +SKIP
    """
    began, home, console = time.perf_counter(), Path(workdir), console or Console(quiet=True)
    try:
        settings.check(config)
        names = settings.method_names(config)
        status = files.inspect(home, settings.to_json(config))
        dataset = None if status == "finished" else data.load(config.data, config.seed)
        facts = files.read_facts(home) if dataset is None else Facts.of(dataset)
        recipes = {name: recipe.build(config, facts, name) for name in names}
        if dataset is None:
            console.print(f"{escape(str(home))}: this run is finished, nothing is trained", soft_wrap=True)
            return {name: _restore(config, recipes[name], home / name) for name in names}
        files.claim(home, settings.to_json(config), facts._asdict())
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    _introduce(config, recipes, home, status == "unfinished", console)
    states, results = _train(config, recipes, dataset, home, console)
    steps = next(iter(recipes.values())).total_steps
    content = summary.compose(config, facts, steps, results, command, time.perf_counter() - began)
    files.write_json(home / files.SUMMARY, content)
    return states


def _restore(config: Config, of_method: Recipe, home: Path) -> TrainState:
    return loop.restore(of_method, loop.Plan.of(config, of_method.steps_per_epoch), home)


def _introduce(config: Config, recipes: dict[str, Recipe], home: Path, resumes: bool, console: Console) -> None:
    """Says what is about to be trained."""
    one = next(iter(recipes.values()))
    facts, size = one.facts, config.train.batch_size
    params = parallel.abstract_start(one, (config.seed,))[0].params
    noise = f", {100 * facts.noise_rate:.1f} % of the labels wrong" if facts.noise_rate else ""
    low, high = min(facts.class_counts), max(facts.class_counts)
    last = config.seed + config.num_seeds - 1
    lines = {
        "data": f"{config.data.name}, {facts.train_size} training examples, {low} to {high} per class{noise}",
        "model": f"{config.model.name}, {models.count_parameters(params):,} parameters, {config.train.dtype}",
        "training": f"{config.train.epochs} epochs of {one.steps_per_epoch} batches of {size}",
        "optimizer": " -> ".join(one.descent.description),
        "directory": f"{home}{', where an unfinished run is resumed' if resumes else ''}",
        "seeds": f"{config.seed} to {last}, all at once" if config.num_seeds > 1 else str(config.seed),
    }
    for name, text in lines.items():
        console.print(f"[bold]{name:<10}[/]{escape(text)}", highlight=False, soft_wrap=True)


def _train(
    config: Config, recipes: dict[str, Recipe], dataset: data.Dataset, home: Path, console: Console
) -> tuple[dict[str, TrainState], dict[str, Any]]:
    """Trains the methods one after the other; one that is done already is only read."""
    train = batches.to_device(dataset.train)
    held_out = {"test": batches.to_device(dataset.test)}
    if dataset.validation is not None:
        held_out["validation"] = batches.to_device(dataset.validation)
    one = next(iter(recipes.values()))
    plan = loop.Plan.of(config, one.steps_per_epoch)
    shared = parallel.make_shared(one, plan.seeds)
    states, results = {}, {}
    with Bars(console) as bars:
        for name, of_method in recipes.items():
            done = home / name / files.RESULT
            if done.exists() and (home / name / files.METRICS).exists():
                states[name], results[name] = _restore(config, of_method, home / name), files.read_json(done, dict)
                continue
            job = loop.Job(of_method, plan, train, held_out, shared, home / name)
            states[name], results[name] = loop.train(job, bars.add(name, of_method.total_steps))
    return states, results
