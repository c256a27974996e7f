"""Many runs: a grid over fields of a config becomes runs, each in a directory of its own, and their figures one table.

    runs = expand(config, {"lpg.epsilon": [0.05, 0.1], "seed": [0, 1]}, "runs/sweep")
    check(runs)                     # before anything is trained
    outcomes = run_local(runs)      # or run_slurm(runs, {"partition": "gpu"}, logs)
    rows = collect(outcomes)        # from every run's summary.json

A run is an ordinary run: launch.py resumes it alone, and `load` reads it. Here in one process, fresh runs that differ
in numbers such as lpg.epsilon or train.learning_rate only are trained at once, as one vmapped population.
"""

import csv
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from lpg_jax.data.options import read_options
from lpg_jax.training import parallel, recipe, runner, settings, workdir
from lpg_jax.training.grid import Run, directory_name, expand, text_of
from lpg_jax.training.recipe import Facts
from lpg_jax.training.settings import Config, ConfigError

__all__ = [
    "SHOWN",
    "Outcome",
    "Run",
    "check",
    "collect",
    "directory_name",
    "expand",
    "is_finished",
    "populations",
    "run_local",
    "run_slurm",
    "table",
    "train",
    "train_population",
    "write_csv",
]

SHOWN = ("overall", "balanced", "tail", "nll")
_SHARED = {"name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node"}


class Outcome(NamedTuple):
    """What became of a run."""

    run: Run
    error: str  # "" if it is finished


def check(runs: Sequence[Run]) -> None:
    """Checks every run as far as that is possible without its data set, so that no mistake shows up after hours.

    Raises:
      ConfigError: a run has a field out of range or without effect, or its directory belongs to another config.
    """
    for run in runs:
        _set_precision(run.config)
        try:
            settings.check(run.config)
            read_options(run.config.data)
            for name in settings.method_names(run.config):
                recipe.build(run.config, _stand_in(run.config), name)
            workdir.inspect(run.home, settings.to_json(run.config))
        except (ValueError, OSError) as error:
            raise ConfigError(f"{run.home.name}: {error}") from error


def _stand_in(config: Config) -> Facts:
    """Facts of a large, plain data set: whatever a recipe refuses about them, it refuses about the config."""
    classes = 1000
    rate = 0.0 if config.data.noise.kind == "none" else 0.2
    return Facts(
        input_shape=(1024, 1024, 3),
        input_dtype="uint8",
        train_size=10**6,
        num_classes=classes,
        class_names=tuple(map(str, range(classes))),
        class_counts=tuple(range(10**5, 10**5 - classes, -1)),
        noise_rate=rate,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        confusion=_pairs(classes, rate) if rate else (),
    )


@functools.cache
def _pairs(classes: int, rate: float) -> tuple[tuple[float, ...], ...]:
    """The confusion of noise that takes each class for the next."""
    matrix = (1 - rate) * np.eye(classes) + rate * np.roll(np.eye(classes), 1, axis=1)
    return tuple(map(tuple, matrix.tolist()))


def _set_precision(config: Config) -> None:
    jax.config.update("jax_enable_x64", config.train.dtype == "float64")


def is_finished(run: Run) -> bool:
    """Whether nothing is left to do.

    Raises:
      ConfigError: its directory belongs to another config.
    """
    return workdir.inspect(run.home, settings.to_json(run.config)) == "finished"


def train(run: Run, command: str = "", compilation_cache: str | None = None, console: Console | None = None) -> str:
    """Trains one run in this process, resuming it where it was cut short; this is what a job does.

    Returns:
      "", or the error that ended the run: that of a ConfigError or a FloatingPointError, and "TYPE: TEXT" of any other,
      whose traceback is printed.

    Raises:
      KeyboardInterrupt, and any exception with an `exit_code`: the whole sweep is to stop.
    """
    if compilation_cache:
        jax.config.update("jax_compilation_cache_dir", compilation_cache)
    _set_precision(run.config)
    try:
        runner.run(run.config, run.home, console=console, command=command)
        return ""
    except (ConfigError, FloatingPointError) as error:
        return str(error)
    except Exception as error:
        if hasattr(error, "exit_code"):
            raise
        (console or Console(stderr=True)).print_exception()
        return f"{type(error).__name__}: {error}"


def train_population(
    runs: Sequence[Run], command: str = "", compilation_cache: str | None = None, console: Console | None = None
) -> list[str]:
    """`train` for the runs of a population, all at once; if that fails as a whole, one after the other.

    Returns:
      Of each run "", or the error that ended it.

    Raises:
      KeyboardInterrupt, and any exception with an `exit_code`: the whole sweep is to stop.
    """
    console = console or Console(quiet=True)
    if compilation_cache:
        jax.config.update("jax_compilation_cache_dir", compilation_cache)
    _set_precision(runs[0].config)
    try:
        pairs = [(run.config, run.home) for run in runs]
        outcomes = runner.run_many(pairs, console=console, command=command)
        return [str(outcome) if isinstance(outcome, FloatingPointError) else "" for outcome in outcomes]
    except Exception as error:  # too little memory for all of them, or something that one of them alone will tell
        if hasattr(error, "exit_code"):
            raise
        text = f"no population: {type(error).__name__}: {error}; now one after the other"
        console.print(Text(text), soft_wrap=True)
    return ["" if is_finished(run) else train(run, command, compilation_cache, console) for run in runs]


def populations(runs: Sequence[Run]) -> list[list[Run]]:
    """Which runs are trained at once, by `runner.run_many`; nothing is trained or written.

    | run | goes with |
    |---|---|
    | finished or unfinished, or its directory belongs to another config | nobody |
    | of a model with convolutions, by pmap, on several devices, or fed from the host | nobody |
    | with log.wandb, of which many at a time are slow to start | nobody |
    | any other | those of which it differs in numbers of `recipe.POPULATION` only |

    Args:
      runs: as of `expand`.

    Returns:
      Every run once, in groups of one or more, which are in the order of their first runs.

    Example:
      >>> [len(group) for group in populations(expand(config, {"lpg.epsilon": [0, 1]}, "here"))]  # doctest: +SKIP
      [2]
    """
    groups: dict[Any, list[Run]] = {}
    for number, run in enumerate(runs):
        groups.setdefault(recipe.program_of(run.config) if _joins(run) else number, []).append(run)
    return list(groups.values())


def _joins(run: Run) -> bool:
    """Whether a run could be one of a population."""
    _set_precision(run.config)
    try:
        if run.config.log.wandb or workdir.inspect(run.home, settings.to_json(run.config)) != "new":
            return False
        one = recipe.build(run.config, _stand_in(run.config), settings.method_names(run.config)[0])
        return parallel.takes_population(one, parallel.Layout.of(run.config))
    except (ValueError, OSError):  # trained alone, it says so
        return False


def run_local(runs: Sequence[Run], console: Console | None = None, **options: Any) -> list[Outcome]:
    """Trains the runs in this process: `populations` at once, one after the other, so that they share programs.

    Finished runs are skipped; one that fails does not stop the others.

    Args:
      runs: as of `expand`.
      console: where progress goes; None: nowhere.
      options: command and compilation_cache, as of `train`.

    Returns:
      What became of each run, in order.

    Raises:
      KeyboardInterrupt, and any exception with an `exit_code`: the sweep stopped there.

    Example:
      >>> outcomes = run_local(expand(config, {"seed": [0, 1]}, "runs/seeds"))  # doctest: +SKIP
    """
    console = console or Console(quiet=True)
    number_of = {run.home: number for number, run in enumerate(runs, 1)}
    found: dict[Path, str] = {}
    for group in populations(runs):
        alone, several = group[0], len(group) > 1
        finished = not several and is_finished(alone)
        what = f"{len(group)} runs as one population" if several else escape(alone.home.name)
        numbers = ", ".join(str(number_of[run.home]) for run in group)
        console.rule(f"{numbers} of {len(runs)}: {what}{', finished before' if finished else ''}", align="left")
        errors = [""]
        if several:
            errors = train_population(group, console=console, **options)
        elif not finished:
            errors = [train(alone, console=console, **options)]
        for run, error in zip(group, errors, strict=True):
            found[run.home] = error
            if error:
                console.print(Text(f"failed: {run.home.name + ': ' if several else ''}{error}"), soft_wrap=True)
    return [Outcome(run, found[run.home]) for run in runs]


def run_slurm(
    runs: Sequence[Run], parameters: Mapping[str, Any], logs: Path, console: Console | None = None, **options: Any
) -> list[Outcome]:
    """Trains the runs as jobs, through submitit, and waits for all of them.

    Finished runs are not submitted. An interrupt cancels the jobs that are left; the same call later resumes them.

    Args:
      runs: as of `expand`.
      parameters: of the jobs, by their names in submitit: timeout_min (default 1440), gpus_per_node, cpus_per_task,
        mem_gb, ... and those of its SlurmExecutor (partition, account, array_parallelism, ...). "cluster" set to
        "local" or "debug" makes processes of this machine, or this process, take the place of SLURM.
      logs: directory of the jobs' own files.
      console, options: as of `run_local`.

    Returns:
      What became of each run, in order.

    Raises:
      ConfigError: no submitit, no SLURM, or a parameter that submitit refuses.
    """
    console = console or Console(quiet=True)
    waiting = [run for run in runs if not is_finished(run)]
    executor = _executor(parameters, logs)
    try:
        jobs = executor.map_array(_Training(options), waiting) if waiting else []
    except Exception as error:  # whatever sbatch says
        raise ConfigError(f"no job could be submitted: {' '.join(str(error).split())}") from error
    found = {}
    try:
        for run, job in zip(waiting, jobs, strict=True):
            console.print(f"job {job.job_id}: {escape(run.home.name)}", highlight=False, soft_wrap=True)
        for run, job in zip(waiting, jobs, strict=True):
            found[run.home] = _result(job)
    except BaseException:
        for job in jobs:
            job.cancel(check=False)
        raise
    return [Outcome(run, found.get(run.home, "")) for run in runs]


class _Training:
    """`train` with its options, as an object that can be sent to a job."""

    def __init__(self, options: dict[str, Any]):
        self.options = options

    def __call__(self, run: Run) -> str:
        try:
            return train(run, console=Console(), **self.options)
        except Exception as error:  # a signal ended the job
            return str(error)


def _executor(parameters: Mapping[str, Any], logs: Path) -> Any:
    try:
        import submitit
    except ImportError:
        raise ConfigError('--sweep=slurm: needs submitit; python -m pip install "lpg_jax[slurm]"') from None
    given = {"name": "lpg_jax", "timeout_min": 24 * 60, **parameters}
    cluster = given.pop("cluster", "slurm")
    try:
        executor = submitit.AutoExecutor(logs, cluster=cluster)
        executor.update_parameters(**{k if k in _SHARED else f"slurm_{k}": v for k, v in given.items()})
        return executor
    except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"--sweep=slurm: {' '.join(str(error).split())}") from error


def _result(job: Any) -> str:
    try:
        return next(filter(None, job.results()), "")
    except Exception as error:  # the job was killed, ran out of time or memory, or could not begin
        lines = str(error).strip().splitlines() or [""]
        return f"job {job.job_id}: {type(error).__name__}: {lines[0]} (see {job.paths.stderr})"


def collect(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The figures of all runs, from their summary.json.

    Returns:
      One flat dict per run and method: the fields of the grid, "run" (name of its directory), "method", and everything
      summary.json says of the method, by dotted name ("overall", "ci95.overall", "per_class.0", ...); accuracies in
      [0, 1], nll in nats. A run that failed has a single one, with "error" and no method.
    """
    rows = []
    for run, error in outcomes:
        head = {**run.point, "run": run.home.name}
        try:
            methods = {} if error else workdir.read_json(run.home / workdir.SUMMARY, dict)["methods"]
        except (ConfigError, KeyError) as problem:
            methods, error = {}, str(problem)
        rows.extend({**head, "method": name, **_flat(entry)} for name, entry in methods.items())
        if error:
            rows.append({**head, "error": error})
    return rows


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested dicts and lists by dotted name."""
    if not isinstance(value, (dict, list)):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for key, each in items for k, v in _flat(each, f"{name}.{key}" if name else str(key)).items()}


def write_csv(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes the rows of `collect`; a cell without value is empty, numbers keep all their digits."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


def table(rows: Sequence[Mapping[str, Any]], fields: Sequence[str], console: Console) -> Table:
    """The rows of `collect` for people: accuracies in %, NLL in nats, mean and 95 % half-width over seeds."""
    made = _table(rows, fields, " ± ")
    if Measurement.get(console, console.options.update(max_width=10_000), made).maximum > console.width:
        made = _table(rows, fields, "\n±")
    return made


def _table(rows: Sequence[Mapping[str, Any]], fields: Sequence[str], separator: str) -> Table:
    made = Table(title="Test accuracy in %, mean ± 95 % interval over seeds", title_justify="left")
    for name in fields:
        made.add_column(name, overflow="fold")
    made.add_column("method", no_wrap=True)
    for name in SHOWN:
        made.add_column("NLL" if name == "nll" else name, justify="right", no_wrap=True)
    for row in rows:
        figures = (_cell(row, name, separator) for name in SHOWN) if "method" in row else ("–",) * len(SHOWN)
        made.add_row(*(Text(text_of(row[name])) for name in fields), Text(row.get("method", "failed")), *figures)
    return made


def _cell(row: Mapping[str, Any], name: str, separator: str) -> str:
    factor, digits = (1, 3) if name == "nll" else (100, 1)
    mean, half = (math.nan if (v := row.get(key)) is None else v * factor for key in (name, f"ci95.{name}"))
    if math.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" + ("" if math.isnan(half) else f"{separator}{half:.{digits}f}")
