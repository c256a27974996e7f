"""Many runs: a grid over fields of a config becomes runs, each in a directory of its own, and their figures one table.

    runs = expand(config, {"lpg.epsilon": [0.05, 0.1], "seed": [0, 1]}, "runs/sweep")
    check(runs)                     # before anything is trained
    outcomes = run_local(runs)      # or run_slurm(runs, {"partition": "gpu"}, logs)
    rows = collect(outcomes)        # from every run's summary.json

A run is an ordinary run: launch.py resumes it alone, and `load` reads it.
"""

import copy
import csv
import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
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
from lpg_jax.training import recipe, runner, settings, workdir
from lpg_jax.training.recipe import Facts
from lpg_jax.training.settings import Config, ConfigError

SHOWN = ("overall", "balanced", "tail", "nll")
_LONGEST_NAME = 150  # of a directory; file systems end at 255 bytes
_SHARED = {"name", "timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node"}


class Run(NamedTuple):
    """One point of a grid."""

    point: dict[str, Any]  # dotted field -> value, as the config holds it
    config: Config
    home: Path  # its work directory


class Outcome(NamedTuple):
    """What became of a run."""

    run: Run
    error: str  # "" if it is finished


def expand(config: Config, grid: Mapping[str, Iterable[Any]], home: str | Path) -> list[Run]:
    """The product of a grid, the last field changing fastest.

    Args:
      config: what the runs have in common; it is not changed.
      grid: dotted field -> its values; {} is a single run in HOME/all.
      home: directory of the sweep; a run lies in HOME/FIELD=VALUE,FIELD=VALUE.

    Returns:
      The runs.

    Raises:
      ConfigError: no such field, no values, a value twice, or one of another type; names field and value.

    | value | in the directory's name |
    |---|---|
    | 0.10 or 1e-1, a NumPy number | as the config holds it: 0.1 |
    | 1 in a field of floats | 1.0 |
    | (64, 32) | 64x32 |
    | with characters other than letters, digits and ._+=- | "_" for these, and a digest of the whole name at its end |
    | a name longer than 150 characters | cut, and likewise |

    Example:
      >>> from ml_collections import ConfigDict
      >>> config = ConfigDict({"seed": 0, "lpg": {"epsilon": 0.1}})
      >>> runs = expand(config, {"lpg.epsilon": [0, 0.3], "seed": [1]}, "here")
      >>> [str(run.home) for run in runs]
      ['here/lpg.epsilon=0.0,seed=1', 'here/lpg.epsilon=0.3,seed=1']
    """
    axes = {field: _axis(config, field, values) for field, values in grid.items()}
    runs = []
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        changed = copy.deepcopy(config)
        changed.update_from_flattened_dict(point)
        runs.append(Run(point, changed, Path(home) / directory_name(point)))
    return runs


def _axis(config: Config, field: str, values: Any) -> list[Any]:
    """The values of a field, as the config holds them."""
    if field not in settings.flat(config.to_dict()):
        close = settings.closest_field(field, config)
        kind = "a group of fields" if field in settings.field_names(config) else "no such field"
        hint = f"; did you mean {close}?" if close and close != field else ""
        raise ConfigError(f"sweep(): {field}: {kind}{hint}")
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigError(f"sweep(): {field}={values!r}: must be a list of values")
    held = []
    for value in values:
        value, scratch = value.item() if isinstance(value, np.generic) else value, copy.deepcopy(config)
        try:
            scratch.update_from_flattened_dict({field: value})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"sweep(): {field}={value!r}: {' '.join(str(error).split())}") from error
        value = settings.flat(scratch.to_dict())[field]
        if value in held:
            raise ConfigError(f"sweep(): {field}={value!r}: stands there twice")
        held.append(value)
    if not held:
        raise ConfigError(f"sweep(): {field}: has no values; give one or remove it")
    return held


def directory_name(point: Mapping[str, Any]) -> str:
    """A file name for a point of a grid; other points have other names, see `expand`."""
    whole = ",".join(f"{field}={_text(value)}" for field, value in point.items()) or "all"
    parts = (re.sub(r"[^A-Za-z0-9._+=-]", "_", f"{field}={_text(value)}") for field, value in point.items())
    safe = ",".join(parts) or "all"
    if safe == whole and len(safe) <= _LONGEST_NAME:
        return safe
    return f"{safe[:_LONGEST_NAME]}-{hashlib.sha256(whole.encode()).hexdigest()[:6]}"


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, (tuple, list)) and value else str(value)


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
                recipe.build(run.config, _stand_in(), name)
            workdir.inspect(run.home, settings.to_json(run.config))
        except (ValueError, OSError) as error:
            raise ConfigError(f"{run.home.name}: {error}") from error


def _stand_in() -> Facts:
    """Facts of a large, plain data set: whatever a recipe refuses about them, it refuses about the config."""
    classes = 10
    return Facts(
        input_shape=(1024, 1024, 3),
        input_dtype="uint8",
        train_size=10**6,
        num_classes=classes,
        class_names=tuple(map(str, range(classes))),
        class_counts=tuple(range(10**5, 10**5 - classes, -1)),
        noise_rate=0.0,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )


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


def run_local(runs: Sequence[Run], console: Console | None = None, **options: Any) -> list[Outcome]:
    """Trains the runs one after the other in this process, so that they share compiled programs.

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
    console, outcomes = console or Console(quiet=True), []
    for number, run in enumerate(runs, 1):
        finished = is_finished(run)
        state = ", finished before" if finished else ""
        console.rule(f"{number} of {len(runs)}: {escape(run.home.name)}{state}", align="left")
        outcomes.append(Outcome(run, "" if finished else train(run, console=console, **options)))
        if outcomes[-1].error:
            console.print(Text(f"failed: {outcomes[-1].error}"), soft_wrap=True)
    return outcomes


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
        made.add_row(*(Text(_text(row[name])) for name in fields), Text(row.get("method", "failed")), *figures)
    return made


def _cell(row: Mapping[str, Any], name: str, separator: str) -> str:
    factor, digits = (1, 3) if name == "nll" else (100, 1)
    mean, half = (math.nan if (v := row.get(key)) is None else v * factor for key in (name, f"ci95.{name}"))
    if math.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" + ("" if math.isnan(half) else f"{separator}{half:.{digits}f}")
