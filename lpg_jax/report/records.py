"""Read what a run left behind: summary.json and METHOD/metrics.jsonl, checked on the way in.

Every fault is a ValueError that names the file, the line or key, the value and what to do; nothing is guessed.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

SCORES = ("overall", "balanced", "head", "tail", "many", "medium", "few", "nll", "ece")
TRAINING = ("train_clean", "train_memorised", "train_recovered")
SELECTIONS = ("mean_last_five", "best_by_validation", "validation")
_OPTIONAL = ("many", "medium", "few", "ece", *TRAINING)  # what runs of version 0.1 have not measured
_RERUN = "start launch.py on this work directory again: it resumes and writes the file anew"
_TOLERANCE = 1e-6  # a mean over float32 seeds may exceed 1 by rounding


class Scores(NamedTuple):
    """Means and 95 % half-widths over seeds by name; all but nll are fractions in [0, 1], NaN is "not measured"."""

    mean: dict[str, float]
    half: dict[str, float]


class Method(NamedTuple):
    """One method of a run; accuracies are fractions in [0, 1], NaN stands for "not measured"."""

    name: str
    last: Scores  # SCORES on the test part after the last step, and TRAINING
    selections: dict[str, Scores]  # those of SELECTIONS that the run has, SCORES each
    per_class: np.ndarray  # [C] test accuracy, mean over seeds
    per_class_ci: np.ndarray  # [C]
    num_seeds: int


class Run(NamedTuple):
    """One work directory."""

    methods: tuple[Method, ...]
    class_counts: np.ndarray  # [C] training examples
    class_names: tuple[str, ...]  # [C]
    noise_rate: float
    steps: int
    dataset: str


class History(NamedTuple):
    """What LPG did to each class, averaged over seeds, at the T steps that every seed has logged."""

    steps: np.ndarray  # [T]
    margin: np.ndarray  # [T, C] signed: > 0 amplified, < 0 dampened
    signed_epsilon: np.ndarray  # [T, C] sign(margin) * epsilon
    gradient_ratio: np.ndarray  # [T, C] norms of edited logit gradients over plain ones, between this step and the last


Logged: TypeAlias = dict[int, dict[int, np.ndarray]]  # seed -> step -> [3, C]


def read_run(workdir: str | Path) -> Run:
    """Read WORKDIR/summary.json.

    Args:
      workdir: directory of a finished run.

    Returns:
      A `Run`.

    Raises:
      ValueError: the file is missing, is no JSON, lacks a key, or holds a value out of range or of the wrong length.
    """
    path = Path(workdir) / "summary.json"
    if not path.is_file():
        raise ValueError(f"{path}: not found, so the run has not ended; {_RERUN}")
    try:
        return _parse_run(json.loads(path.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: not JSON ({error.msg}); {_RERUN}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {_RERUN}") from error


def read_history(workdir: str | Path, method: str, num_classes: int) -> History | None:
    """Read WORKDIR/METHOD/metrics.jsonl.

    Args:
      workdir: directory of a run.
      method: name of the method, which is also the name of its directory.
      num_classes: C, to check the lengths against.

    Returns:
      A `History`, or None where the method logs no `class_margin` (it is no LPG).

    | case | result |
    |---|---|
    | last line cut off, as a kill leaves it | skipped with a warning |
    | the same seed and step twice (logged again after a resume) | the later line counts |
    | a seed stopped earlier than the others | steps that not every seed has are left out |
    | a null in a vector (class never seen) | NaN; left out of the mean over seeds |

    Raises:
      ValueError: the file is missing or empty, or a line is no record; names file and line.
    """
    path = Path(workdir) / method / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{path}: not found; {_RERUN}")
    logged: Logged = {}
    for number, record in _lines(path):
        try:
            step, seed = (_whole(record, key) for key in ("step", "seed"))
            if "class_margin" in record:
                logged.setdefault(seed, {})[step] = _of_classes(record, num_classes)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}; remove that line to report on the rest") from error
    if logged and not set.intersection(*map(set, logged.values())):
        raise ValueError(f"{path}: seeds {sorted(logged)} have no step in common; {_RERUN}")
    return _average(logged) if logged else None


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = [(number, line) for number, line in enumerate(path.read_bytes().splitlines(), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{path}: empty; {_RERUN}")
    for number, line in lines:
        try:
            record = json.loads(line)
        except ValueError as error:  # UnicodeDecodeError, too
            if number != lines[-1][0]:
                raise ValueError(
                    f"{path}, line {number}: not JSON ({error}); remove that line to report on the rest"
                ) from error
            warnings.warn(f"{path}, line {number}: cut off, skipped (was the run killed?)", stacklevel=3)
            return
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: {record!r}: must be a JSON object; remove that line")
        yield number, record


def _of_classes(record: dict[str, Any], num_classes: int) -> np.ndarray:
    """margin, epsilon and gradient ratio, [3, C]."""
    margin, epsilon = (_vector(record, key, num_classes) for key in ("class_margin", "class_epsilon"))
    missing = {"gradient_ratio": [None] * num_classes}
    return np.array([margin, epsilon, _vector(missing | record, "gradient_ratio", num_classes, 0.0)])


def _average(logged: Logged) -> History:
    steps = sorted(set.intersection(*map(set, logged.values())))
    stacked = np.array([[of_seed[step] for step in steps] for of_seed in logged.values()])  # [seeds, T, 3, C]
    margin, epsilon, ratio = np.moveaxis(stacked, 2, 0)
    return History(np.array(steps), _mean(margin), _mean(np.sign(margin) * epsilon), _mean(ratio))


def _mean(values: np.ndarray) -> np.ndarray:
    return np.ma.masked_invalid(values).mean(axis=0).filled(np.nan)  # nanmean warns where a class has no value at all


def _parse_run(summary: Any) -> Run:
    if not isinstance(summary, dict):
        raise ValueError(f"{summary!r:.60}: must be a JSON object")
    methods = _get(summary, "methods")
    if not isinstance(methods, dict) or not methods:
        raise ValueError(f"methods={methods!r:.60}: must be an object with at least one method")
    counts = _get(summary, "class_counts")
    if not isinstance(counts, list) or not counts:
        raise ValueError(f"class_counts={counts!r:.60}: must be a list with one number per class")
    class_counts = _vector(summary, "class_counts", len(counts), 0.0)
    names = tuple(str(name) for name in summary.get("class_names") or range(len(counts)))
    if len(names) != len(counts):
        raise ValueError(f"class_names has {len(names)} entries: must have {len(counts)}, as class_counts")
    return Run(
        methods=tuple(_parse_method(name, entry, len(counts), summary) for name, entry in methods.items()),
        class_counts=class_counts,
        class_names=names,
        noise_rate=_number(summary, "noise_rate", 0.0, 1.0),
        steps=_whole(summary, "steps"),
        dataset=str(summary.get("dataset") or ""),
    )


def _parse_method(name: str, entry: Any, num_classes: int, summary: dict[str, Any]) -> Method:
    if not isinstance(entry, dict):
        raise ValueError(f"methods.{name}={entry!r:.60}: must be an object")
    seeds = entry.get("params_sha256") or summary.get("seeds")
    try:
        if not isinstance(seeds, (dict, list)):
            raise ValueError("params_sha256 is missing: must map each seed to a digest")
        return Method(
            name=name,
            last=_scores(entry, (*SCORES, *TRAINING)),
            selections={key: _selection(entry, key) for key in SELECTIONS if entry.get(key) is not None},
            per_class=_vector(entry, "per_class", num_classes, 0.0, 1.0),
            per_class_ci=_vector({"per_class": [None] * num_classes} | _ci95(entry), "per_class", num_classes, 0.0),
            num_seeds=len(seeds),
        )
    except ValueError as error:
        raise ValueError(f"methods.{name}: {error}") from error


def _selection(entry: dict[str, Any], key: str) -> Scores:
    if not isinstance(entry[key], dict):
        raise ValueError(f"{key}={entry[key]!r:.60}: must be an object or null")
    try:
        return _scores(entry[key], SCORES)
    except ValueError as error:
        raise ValueError(f"{key}.{error}") from error


def _scores(entry: dict[str, Any], names: tuple[str, ...]) -> Scores:
    means, halves = dict.fromkeys(_OPTIONAL) | entry, dict.fromkeys(names) | _ci95(entry)
    return Scores(
        {name: _number(means, name, 0.0, math.inf if name == "nll" else 1.0) for name in names},
        {name: _number(halves, name, 0.0) for name in names},
    )


def _ci95(entry: dict[str, Any]) -> dict[str, Any]:
    """The half-widths that there are; one seed has none."""
    ci95 = entry.get("ci95") or {}
    if not isinstance(ci95, dict):
        raise ValueError(f"ci95={ci95!r:.60}: must be an object or null")
    return {key: value for key, value in ci95.items() if value is not None}


def _get(record: dict[str, Any], key: str) -> Any:
    if key not in record:
        raise ValueError(f"{key} is missing")
    return record[key]


def _check(value: Any, name: str, low: float = -math.inf, high: float = math.inf) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name}={value!r:.60}: must be a number or null")
    if not math.isnan(value) and not low - _TOLERANCE <= value <= high + _TOLERANCE:
        raise ValueError(f"{name}={value}: must lie in [{low:g}, {high:g}]")
    return float(value)


def _number(record: dict[str, Any], key: str, low: float = -math.inf, high: float = math.inf) -> float:
    return _check(_get(record, key), key, low, high)


def _whole(record: dict[str, Any], key: str) -> int:
    value = _get(record, key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{key}={value!r:.60}: must be a whole number")
    return value


def _vector(record: dict[str, Any], key: str, size: int, low: float = -math.inf, high: float = math.inf) -> np.ndarray:
    values = _get(record, key)
    if not isinstance(values, list) or len(values) != size:
        found = f"{len(values)} entries" if isinstance(values, list) else repr(values)[:60]
        raise ValueError(f"{key} has {found}: must be a list of {size}, one per class")
    return np.array([_check(value, f"{key}[{index}]", low, high) for index, value in enumerate(values)])
