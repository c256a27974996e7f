"""What the figures share: rows of estimates, dots with intervals, and what a caption says about them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lpg_jax.report import style
from lpg_jax.report.evidence import Scenario
from lpg_jax.report.intervals import Estimate, difference, estimate

ROLE_NAMES = {"baseline": "baseline", "lpg": "LPG", "control": "control", "combination": "method + LPG"}
_FAR = 3.0  # times the best gain: how far below the reference an axis goes
INTERVAL = "bars: 95 % interval over seeds (Student's t)"
PAIRED = "bars: 95 % interval of the difference, paired over seeds (Student's t)"
DOTS: dict[str, Any] = {"linestyle": "none", "markersize": 4.5, "elinewidth": 1.0, "capsize": 1.8}


class Row(NamedTuple):
    """An entry of a scenario with one estimate."""

    label: str
    title: str
    role: str
    value: Estimate


def rows(scenario: Scenario, metric: str, base: str | None = None) -> list[Row]:
    """Every entry with results, in the order of the scenario: its score, or its paired difference to `base`."""
    made = []
    for label, entry in scenario.entries.items():
        results = scenario.results.get(label)
        if not results or label == base:
            continue
        value = estimate(results, metric) if base is None else _paired(scenario, label, base, metric)
        if value is not None and np.isfinite(value.mean):
            made.append(Row(label, title_of(scenario, label), entry.role, value))
    return made


def _paired(scenario: Scenario, label: str, base: str, metric: str) -> Estimate | None:
    first, second = scenario.results.get(label), scenario.results.get(base)
    return difference(first, second, metric) if first and second and first.keys() & second.keys() else None


def paired(scenario: Scenario, label: str, base: str, metric: str) -> Estimate | None:
    """`label` minus `base` over the seeds that both have; None where there is none."""
    value = _paired(scenario, label, base, metric)
    return value if value is not None and np.isfinite(value.mean) else None


def title_of(scenario: Scenario, label: str) -> str:
    """The title of an entry, and what it knows beyond the training set."""
    entry = scenario.entries[label]
    return f"{entry.title} (knows {entry.knows})" if entry.knows else entry.title


def percent(value: Estimate) -> tuple[float, float]:
    """Mean and half-width in percent; one seed has no width, which is drawn as none."""
    return 100 * value.mean, 100 * float(np.nan_to_num(value.half))


def signed(value: Estimate) -> str:
    """A difference in words of numbers: percentage points with sign and interval.

    >>> signed(Estimate(0.0123, 0.004, 10))
    '+1.2 ± 0.4'
    """
    mean, half = 100 * value.mean, 100 * value.half
    number = "0.0" if abs(mean) < 0.05 else f"{mean:+.1f}".replace("-", "−")
    return number + (f" ± {half:.1f}" if np.isfinite(half) else "")


def dot(axes: Axes, x: float, y: float, value: Estimate, **look: Any) -> None:
    """One dot with a horizontal interval at height y; `x` is the mean as drawn."""
    axes.errorbar([x], [y], xerr=[percent(value)[1]], **DOTS | look)


def seeds_text(values: Iterable[Estimate]) -> str:
    """How many seeds the estimates rest on.

    >>> seeds_text([Estimate(0.5, 0.1, 3), Estimate(0.5, 0.1, 10)])
    '3 to 10 seeds'
    """
    counts = sorted({value.n for value in values})
    if not counts:
        return "no seed"
    return f"{counts[0]} seed{'s' * (counts != [1])}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def role_handles(rows: Iterable[Row]) -> list[Line2D]:
    """For a legend: the marks of the roles that occur."""
    there = {row.role for row in rows}
    return [
        Line2D([], [], linestyle="none", markersize=5.5, label=ROLE_NAMES[role], **style.role_look(role))
        for role in style.ROLES
        if role in there
    ]


def floor(values: Sequence[tuple[float, float]], reference: float) -> float:
    """Where an axis ends below, for (mean, half) in percent: a failure far off must not squeeze the others together.

    It is the lowest end of an interval, of those whose mean is at most `_FAR` times as far below the reference (such as
    cross-entropy) as the best is above it, or as one point.

    >>> floor([(62.0, 0.5), (60.0, 0.5), (10.0, 0.5)], reference=61.0)
    59.5
    """
    edge = reference - _FAR * max(max(mean for mean, _ in values) - reference, 1.0)
    return min((mean - half for mean, half in values if mean >= edge), default=edge)


def natural(name: str) -> list[tuple[bool, int, str]]:
    """A key for sorting names with numbers in them: cifar10 before cifar100.

    >>> sorted(["cifar100", "cifar10_symmetric80", "cifar10"], key=natural)
    ['cifar10', 'cifar10_symmetric80', 'cifar100']
    """
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.findall(r"\d+|\D+", name)]


def name_rows(axes: Axes, names: Sequence[str], size: float = 7.5) -> None:
    """Names at heights 0, 1, ... from the top, with faint lines across."""
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.grid(axis="x", visible=True)
    axes.grid(axis="y", visible=True, color="#f0f0f0")
