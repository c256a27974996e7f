"""The runs behind `results/`, as records: scenarios, their entries, one result per seed.

    RUNS/TIER/SCENARIO/scenario.json                       the plan: entries, trials and choices, studies, origin
    RUNS/TIER/SCENARIO/final/LABEL/seed=K/                 work directory of one run
    RUNS/TIER/SCENARIO/study/NAME/FIELD=VALUE,seed=K/      the same, one field varied
    RUNS/TIER/SCENARIO/measures.json, *.csv                what was measured on the trained models

scenario.json is the plan: a directory that it does not name is not read, and a run without summary.json has not ended
and is left out (n tells). What is there and damaged is a ValueError that names the file and the fix.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from lpg_jax.report import records

PLAN, MEASURES, RUN = "scenario.json", "measures.json", "run.json"
FEATURES, MAPS = "features.csv", "maps.csv"  # see `figures.features`
ROLES = ("baseline", "lpg", "control", "combination")
KINDS = ("balanced", "longtail", "noisy")
_REWRITE = "start `python -m evidence` for this scenario again: it writes the file anew"
_MEASURE = "remove it and start `python -m evidence measure` for this scenario again"
_RERUN = "remove this directory and start `python -m evidence` for this scenario again"


class _PlanError(ValueError):
    """A fault in scenario.json, whose name is still to be added."""


class Trial(NamedTuple):
    """A setting, and its balanced accuracy on the part of the training set that was held out."""

    fields: dict[str, Any]
    mean: float  # fraction in [0, 1]
    half: float  # 95 % half-width over seeds; NaN: unknown
    n: int  # seeds
    chosen: bool


class Entry(NamedTuple):
    """A row of a table."""

    label: str
    title: str
    role: str  # one of ROLES
    method: str  # config.method
    fields: dict[str, Any]  # over config and base; the command of a run follows from them
    trials: tuple[Trial, ...]  # may be empty: nothing was to be chosen
    knows: str  # what it is told beyond the training set; "": nothing
    inherits: tuple[str, ...]  # labels whose chosen fields it keeps
    errors: tuple[str, ...] = ()  # runs that did not end, and why
    seeded: tuple[str, ...] = ()  # fields that hold the number of the seed
    tried: int = 0  # trials that there were; `trials` may hold the chosen one alone
    began: bool | None = None  # whether the chosen one is of those with which tuning began; None: not known, or "ce"

    @property
    def selection(self) -> float:
        """Balanced accuracy of the chosen trial on what was held out; NaN where there were no trials."""
        return next((trial.mean for trial in self.trials if trial.chosen), math.nan)


class Result(NamedTuple):
    """One run: figures on the test part after its last step."""

    seed: int
    scores: dict[str, float]  # of `records.SCORES` and `records.TRAINING`; fractions, nll in nats; NaN: not measured
    per_class: np.ndarray  # [C] test accuracy
    class_counts: np.ndarray  # [C] training examples
    margin: np.ndarray | None  # [C] class_margin at the end: > 0 amplified, < 0 dampened; None: it is no LPG
    seconds: float  # wall time; NaN: not recorded
    revision: str  # of the program; "": not recorded
    home: Path


Results: TypeAlias = Mapping[int, Result]  # by seed


class Study(NamedTuple):
    """One field of one entry, varied."""

    name: str
    label: str
    field: str
    title: str
    values: tuple[Any, ...]
    results: dict[Any, dict[int, Result]]  # value -> seed -> result; every value is there, perhaps empty


class Measured(NamedTuple):
    """A number measured on trained models."""

    values: dict[int, float]  # by seed
    command: str


class Scenario(NamedTuple):
    """A problem on which all methods of its kind are compared."""

    tier: str
    name: str
    kind: str  # one of KINDS
    title: str
    scale: str  # which data, model, epochs
    data: str
    config: str  # what --config takes
    base: dict[str, Any]  # fields over config that all entries share
    entries: dict[str, Entry]
    results: dict[str, dict[int, Result]]  # label -> seed -> result; every label is there, perhaps empty
    studies: dict[str, Study]
    measures: dict[str, Measured]  # by name; empty where nothing was measured
    versions: dict[str, Any]
    revision: str
    machine: str
    command: str  # that made the runs
    seeds: tuple[int, ...]  # planned
    home: Path


def read(runs: str | Path) -> tuple[Scenario, ...]:
    """Read all scenarios, in the order of tier and name.

    Args:
      runs: the directory with TIER/SCENARIO/scenario.json.

    Returns:
      The scenarios, complete or not: `results` has the seeds that have ended.

    Raises:
      ValueError: there is no scenario.json at all, or a file is damaged or of another run; names file and fix.

    Example:
      >>> scenarios = read("runs/evidence")  # doctest: +SKIP
    """
    plans = sorted(Path(runs).glob(f"*/*/{PLAN}"))
    if not plans:
        raise ValueError(
            f"{Path(runs)}: no TIER/SCENARIO/{PLAN} in it; give the directory that `python -m evidence` wrote"
        )
    scenarios = tuple(_scenario(path) for path in plans)
    for one, other in itertools.pairwise(sorted(scenarios, key=lambda each: (each.tier, each.name))):
        if (one.tier, one.name) == (other.tier, other.name):
            raise ValueError(f"{other.home / PLAN}: is {one.tier}/{one.name}, as is {one.home}; move one of them away")
    return scenarios


def _scenario(path: Path) -> Scenario:
    plan = _json(path, _REWRITE)
    try:
        return _parse(plan, path.parent)
    except _PlanError as error:
        raise ValueError(f"{path}: {error}; {_REWRITE}") from error


def _parse(plan: dict[str, Any], home: Path) -> Scenario:
    texts = {name: _get(plan, name, str) for name in ("tier", "kind", "title", "scale", "data", "config")}
    if texts["kind"] not in KINDS:
        raise _PlanError(f"kind={texts['kind']!r}: must be one of {', '.join(KINDS)}")
    entries = {label: _entry(label, entry) for label, entry in _get(plan, "entries", dict).items()}
    seeds, studies = tuple(_get(plan, "seeds", list)), plan.get("studies") or {}
    return Scenario(
        **texts,
        name=_get(plan, "scenario", str),
        base=_get(plan, "base", dict),
        entries=entries,
        results={label: _results(home / "final" / label, entry.method, seeds) for label, entry in entries.items()},
        studies={name: _study(home, name, studies[name], entries, seeds) for name in sorted(studies)},
        measures=_measures(home / MEASURES),
        versions=plan.get("versions") or {},
        revision=str(plan.get("git_revision") or ""),
        machine=_machine(plan),
        command=str(plan.get("command") or ""),
        seeds=seeds,
        home=home,
    )


def _machine(plan: dict[str, Any]) -> str:
    """In words; of older plans the devices alone."""
    if plan.get("machine"):
        return str(plan["machine"])
    device = plan.get("device") or {}
    return f"{device['count']} x {device['kind']}" if {"count", "kind"} <= device.keys() else ""


def _entry(label: str, entry: Any) -> Entry:
    try:
        role = _get(entry, "role", str)
        if role not in ROLES:
            raise _PlanError(f"role={role!r}: must be one of {', '.join(ROLES)}")
        trials = tuple(_trial(trial) for trial in entry.get("trials") or ())
        if trials and sum(trial.chosen for trial in trials) != 1:
            raise _PlanError("trials: exactly one must be chosen")
        if not isinstance(entry.get("began"), bool | None):
            raise _PlanError(f"began={entry['began']!r}: must be true, false or null")
        title, method, fields = _get(entry, "title", str), _get(entry, "method", str), _get(entry, "fields", dict)
    except _PlanError as error:
        raise _PlanError(f"entries.{label}: {error}") from error
    errors = tuple(f"seed {seed}: {error}" for seed, error in sorted((entry.get("errors") or {}).items()))
    knows, inherits = entry.get("knows") or "", tuple(entry.get("inherits") or ())
    seeded = tuple(entry.get("seeded") or ())
    tried, began = int(entry.get("tried") or len(trials)), entry.get("began")
    return Entry(label, title, role, method, fields, trials, knows, inherits, errors, seeded, tried, began)


def _trial(trial: Any) -> Trial:
    fields, mean, chosen = (
        _get(trial, key, kind) for key, kind in (("fields", dict), ("mean", float), ("chosen", bool))
    )
    half = trial.get("ci95")
    return Trial(fields, mean, math.nan if half is None else float(half), trial.get("n", 0), chosen)


def _study(home: Path, name: str, study: Any, entries: dict[str, Entry], seeds: tuple[int, ...]) -> Study:
    label, field, values = (_get(study, key, kind) for key, kind in (("label", str), ("field", str), ("values", list)))
    if label not in entries:
        raise _PlanError(f"studies.{name}: label={label!r}: must be one of the entries")
    method, at = entries[label].method, home / "study" / name
    found = {value: _results(at, method, seeds, f"{field}={value},") for value in values}
    return Study(name, label, field, str(study.get("title") or name), tuple(values), found)


def _measures(path: Path) -> dict[str, Measured]:
    try:
        found = _json(path, _MEASURE) if path.is_file() else {}
        return {name: _measured(name, measure) for name, measure in found.items()}
    except _PlanError as error:
        raise ValueError(f"{path}: {error}; {_MEASURE}") from error


def _measured(name: str, measure: Any) -> Measured:
    try:
        seeds, values, command = (_get(measure, *of) for of in (("seeds", list), ("values", list), ("command", str)))
        if len(seeds) != len(values) or not all(isinstance(value, float | int) for value in values):
            raise _PlanError(f"values={values!r:.60}: must be a number for each of the {len(seeds)} seeds")
    except _PlanError as error:
        raise _PlanError(f"{name}: {error}") from error
    return Measured({seed: float(value) for seed, value in zip(seeds, values, strict=True)}, command)


def _results(home: Path, method: str, seeds: Sequence[int], prefix: str = "") -> dict[int, Result]:
    homes = {seed: home / f"{prefix}seed={seed}" for seed in seeds}
    return {seed: _result(at, method, seed) for seed, at in homes.items() if (at / "summary.json").is_file()}


def _result(home: Path, method: str, seed: int) -> Result:
    run = records.read_run(home)
    summary = _json(home / "summary.json", _RERUN)
    names, seeds = [found.name for found in run.methods], summary.get("seeds")
    if names != [method] or (seeds is not None and seeds != [seed]):
        raise ValueError(
            f"{home / 'summary.json'}: has method {', '.join(names)} and seeds {seeds}: must have {method} and "
            f"[{seed}] alone, as {PLAN} says; {_RERUN}"
        )
    seconds = (summary.get("wall_time") or {}).get(method)
    return Result(
        seed=seed,
        scores=run.methods[0].last.mean,
        per_class=run.methods[0].per_class,
        class_counts=run.class_counts,
        margin=_margin(home / method / "metrics.jsonl", len(run.class_counts)),
        seconds=math.nan if seconds is None else float(seconds),
        revision=str(_json(home / RUN, _RERUN).get("git_revision") or "")[:12] if (home / RUN).is_file() else "",
        home=home,
    )


def _margin(path: Path, num_classes: int) -> np.ndarray | None:
    """class_margin of the last line [C]; None where it is not logged."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    last = next((line for line in reversed(lines) if line.strip()), None)
    if last is None:
        raise ValueError(f"{path}: missing or empty; {_RERUN}")
    try:
        margin = json.loads(last).get("class_margin")
        values = None if margin is None else np.array(margin, float)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}, last line: damaged ({error}); {_RERUN}") from error
    if values is not None and values.shape != (num_classes,):
        raise ValueError(f"{path}, last line: class_margin of shape {values.shape}: must be ({num_classes},); {_RERUN}")
    return values


def _json(path: Path, fix: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); {fix}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: {content!r:.60}: must be an object; {fix}")
    return content


def _get(record: Any, key: str, kind: type) -> Any:
    if not isinstance(record, dict) or key not in record:
        raise _PlanError(f"{key} is missing")
    value = float(record[key]) if kind is float and type(record[key]) is int else record[key]
    if not isinstance(value, kind):
        raise _PlanError(f"{key}={value!r:.60}: must be of type {kind.__name__}")
    return value
