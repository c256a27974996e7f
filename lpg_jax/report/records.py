"""Read what a run left behind: summary.json and METHOD/metrics.jsonl, checked on the way in.

Every fault is a ValueError that names the file, the line or key, the value and what to do; nothing is guessed.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SCORES = ("overall", "balanced", "head", "tail", "nll")
_RERUN = "start launch.py on this work directory again: it resumes and writes the file anew"
_TOLERANCE = 1e-6  # a mean over float32 seeds may exceed 1 by rounding


class Method(NamedTuple):
    """One method of a run; accuracies are fractions in [0, 1], NaN stands for "not measured"."""

    name: str
    scores: dict[str, float]  # mean over seeds of SCORES
    scores_ci: dict[str, float]  # half-width of the 95 % interval over seeds
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
    logged: dict[int, dict[int, tuple[np.ndarray, np.ndarray]]] = {}  # seed -> step -> margin, epsilon
    for number, record in _lines(path):
        try:
            step, seed = (_whole(record, key) for key in ("step", "seed"))
            if "class_margin" in record:
                margin, epsilon = (_vector(record, key, num_classes) for key in ("class_margin", "class_epsilon"))
                logged.setdefault(seed, {})[step] = (margin, epsilon)
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


def _average(logged: dict[int, dict[int, tuple[np.ndarray, np.ndarray]]]) -> History:
    steps = sorted(set.intersection(*map(set, logged.values())))
    stacked = np.array([[of_seed[step] for step in steps] for of_seed in logged.values()])  # [seeds, T, 2, C]
    margin, epsilon = stacked[:, :, 0], stacked[:, :, 1]
    return History(np.array(steps), _mean(margin), _mean(np.sign(margin) * epsilon))


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
        ci95 = entry.get("ci95") or {}
        if not isinstance(ci95, dict):
            raise ValueError(f"ci95={ci95!r:.60}: must be an object or null")
        ci95 = {key: ci95.get(key) for key in (*SCORES, "per_class")}
        if ci95["per_class"] is None:
            ci95["per_class"] = [None] * num_classes
        return Method(
            name=name,
            scores={key: _number(entry, key, 0.0, math.inf if key == "nll" else 1.0) for key in SCORES},
            scores_ci={key: _number(ci95, key, 0.0) for key in SCORES},
            per_class=_vector(entry, "per_class", num_classes, 0.0, 1.0),
            per_class_ci=_vector(ci95, "per_class", num_classes, 0.0),
            num_seeds=len(seeds),
        )
    except ValueError as error:
        raise ValueError(f"methods.{name}: {error}") from error


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
