"""Figure 6 of the paper: accuracy of one entry while one of its fields is varied."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lpg_jax.report import style
from lpg_jax.report.evidence import Scenario, Study
from lpg_jax.report.figures import margins, marks
from lpg_jax.report.intervals import Estimate, estimate, metric_of

CLOSED = "lpg-mean"  # moves the examples of a class along their mean, as PGD does
_COLUMNS = 3
_WIDE = 20.0  # largest over smallest value, from which the axis is logarithmic
_SCORES = {"overall": "test accuracy (%)", "balanced": "balanced test accuracy (%)"}


def save(scenarios: Sequence[Scenario], out: Path) -> list[Path]:
    """OUT/sensitivity-TIER-NAME.png of every scenario with studies that have results."""
    made = []
    for scenario in scenarios:
        figure = draw(scenario)
        if figure is not None:
            made.append(style.save_png(figure, out / f"sensitivity-{scenario.tier}-{scenario.name}.png"))
    return made


def points(scenario: Scenario, study: Study) -> dict[Any, Estimate]:
    """Value -> score, for the values with results, in the order of the study."""
    found = {value: estimate(study.results[value], metric_of(scenario)) for value in study.values}
    return {value: measured for value, measured in found.items() if np.isfinite(measured.mean)}


def draw(scenario: Scenario) -> Figure | None:
    """One panel per study, or None where none has results; call it inside `style.context()`."""
    found = {name: points(scenario, study) for name, study in scenario.studies.items() if study.field != margins.FIELD}
    found = {name: measured for name, measured in found.items() if measured}
    if not found:
        return None
    columns = min(len(found), _COLUMNS)
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(style.WIDTH * max(columns, 2) / _COLUMNS, 2.6 * lines + 0.9), layout="constrained")
    seeds = marks.seeds_text(value for measured in found.values() for value in measured.values())
    studies = [scenario.studies[name] for name in found]
    parts = [
        f"{scenario.scale}. {seeds.capitalize()}; bands and bars: 95 % interval over seeds (Student's t).",
        "Dashed, grey: cross-entropy, with the weight decay chosen for it; the curve has that of LPG.",
        "Dash-dotted: the closed form along the class mean, with its own bound." * any(map(_beside_closed, studies)),
        "Dotted: the value of the main table, by held-out data.",
        "tau and T are not tuned." * any(study.field != "lpg.epsilon" for study in studies),
    ]
    caption = " ".join(filter(None, parts))
    style.frame(figure, f"{scenario.title} ({scenario.tier}): sensitivity", caption)
    every = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, (name, measured) in zip(every.flat, found.items(), strict=False):
        _panel(axes, scenario, scenario.studies[name], measured)
    for axes in every.flat[len(found) :]:
        axes.set_axis_off()
    for axes in every[:, 0]:
        axes.set_ylabel(_SCORES[metric_of(scenario)])
    return figure


def _panel(axes: Axes, scenario: Scenario, study: Study, measured: dict[Any, Estimate]) -> None:
    places = _places(axes, list(measured))
    _reference(axes, scenario, study)
    values = [marks.percent(value) for value in measured.values()]
    mean, half = np.array(values).T
    look = {**style.role_look(scenario.entries[study.label].role), "linewidth": 1.2, "markersize": 4.5, "capsize": 2}
    axes.fill_between(places, mean - half, mean + half, color=look["color"], alpha=0.15, linewidth=0)
    axes.errorbar(places, mean, half, **look)
    chosen = scenario.entries[study.label].fields.get(study.field)
    if chosen in measured:
        axes.axvline(places[list(measured).index(chosen)], color=style.INK, linewidth=0.9, linestyle=":")
    axes.set_title(study.title)
    axes.set_xlabel(f"{study.field} of {study.label}")


def _places(axes: Axes, values: Sequence[Any]) -> list[float]:
    """Numbers at their place, logarithmic where they are far apart (0 apart from that); else one after another."""
    if not all(isinstance(value, Real) and not isinstance(value, bool) for value in values):
        axes.set_xticks(range(len(values)), [str(value) for value in values])
        return [float(i) for i in range(len(values))]
    numbers = [float(value) for value in values]
    positive = [number for number in numbers if number > 0]
    if positive and min(numbers) >= 0 and max(positive) / min(positive) >= _WIDE:
        step = math.log10(max(positive) / min(positive)) / max(len(positive) - 1, 1)
        places = [math.log10(x) if x > 0 else math.log10(min(positive)) - 1.2 * step for x in numbers]
    else:
        places = numbers
    axes.set_xticks(places, [f"{x:g}" for x in numbers], rotation=45 if len(numbers) > 6 else 0)
    return places


def _beside_closed(study: Study) -> bool:
    return study.label == "lpg-pgd"


def _reference(axes: Axes, scenario: Scenario, study: Study) -> None:
    """Cross-entropy with its interval; and beside PGD the closed form of what it solves (`CLOSED`)."""
    metric = metric_of(scenario)
    if scenario.results.get("ce"):
        mean, half = marks.percent(estimate(scenario.results["ce"], metric))
        axes.axhspan(mean - half, mean + half, color=style.GUIDE, alpha=0.2, linewidth=0)
        axes.axhline(mean, color=style.GUIDE, linewidth=1.2, linestyle="--", label="cross-entropy")
    if scenario.results.get(CLOSED) and _beside_closed(study):
        mean, _ = marks.percent(estimate(scenario.results[CLOSED], metric))
        axes.axhline(mean, color=style.role_look("lpg")["color"], linewidth=1.2, linestyle="-.", label=CLOSED)
