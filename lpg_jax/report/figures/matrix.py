"""Everything of a tier on one page: the paired gain of every entry over cross-entropy in every scenario."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from lpg_jax.report import style
from lpg_jax.report.evidence import Scenario
from lpg_jax.report.figures import marks
from lpg_jax.report.intervals import Estimate, metric_of

_KINDS = ("balanced", "longtail", "noisy")
_STRONG = 4.0  # percentage points at which colours end
_ROW, _COLUMN = 0.19, 0.5  # inches


def save(scenarios: Sequence[Scenario], out: Path) -> list[Path]:
    """OUT/overview-TIER.png of every tier with at least two scenarios to compare in."""
    made = []
    for tier in sorted({scenario.tier for scenario in scenarios}):
        figure = draw([scenario for scenario in scenarios if scenario.tier == tier])
        if figure is not None:
            made.append(style.save_png(figure, out / f"overview-{tier}.png"))
    return made


def gains(scenario: Scenario) -> dict[str, Estimate]:
    """Label -> gain over cross-entropy by the score of the scenario."""
    return {row.label: row.value for row in marks.rows(scenario, metric_of(scenario), base="ce")}


def draw(scenarios: Sequence[Scenario]) -> Figure | None:
    """Rows are entries by role, columns scenarios by kind; None below two scenarios. Call it in `style.context()`."""
    found = {scenario.name: gains(scenario) for scenario in scenarios}
    shown = [scenario for scenario in scenarios if found[scenario.name]]
    if len(shown) < 2:
        return None
    shown.sort(key=lambda scenario: (_KINDS.index(scenario.kind), marks.natural(scenario.name)))
    labels = _labels(shown, found)
    width = min(style.WIDTH, 2.2 + _COLUMN * len(shown))
    figure = Figure(figsize=(max(width, 5.0), 2.3 + _ROW * len(labels)), layout="constrained")
    seeds = marks.seeds_text(value for of_scenario in found.values() for value in of_scenario.values())
    caption = (
        f"Percentage points of accuracy, under long tails of balanced accuracy; means over {seeds}, paired. Bold: the "
        "95 % interval (Student's t) leaves out zero; else it does not. Colours end at "
        f"{_STRONG:g} points either way. Empty: not part of that scenario. *: is told more than the others (its table "
        "says what). Intervals: overview-TIER-SCENARIO.png."
    )
    style.frame(figure, f"{shown[0].tier}: gain of every method over cross-entropy", caption)
    axes = figure.subplots()
    _cells(axes, [[found[scenario.name].get(label) for scenario in shown] for label in labels])
    told = {label for s in shown for label, entry in s.entries.items() if entry.knows}
    axes.set_yticks(range(len(labels)), [f"{label} *" if label in told else label for label in labels], fontsize=7)
    axes.set_xticks(range(len(shown)), [scenario.name.replace("_", "\n", 1) for scenario in shown], fontsize=6.5)
    axes.tick_params(axis="x", rotation=90, top=True, labeltop=True, bottom=False, labelbottom=False)
    _rules(axes, shown, labels)
    return figure


def _labels(shown: Sequence[Scenario], found: dict[str, dict[str, Estimate]]) -> list[str]:
    """All labels by role, those of two methods together last; else in the order in which scenarios name them."""
    roles = {label: s.entries[label].role for s in shown for label in s.entries if label in found[s.name]}
    return sorted(roles, key=lambda label: (style.ROLES.index(roles[label]), "+" in label))


def _cells(axes: Axes, table: Sequence[Sequence[Estimate | None]]) -> None:
    means = np.array([[np.nan if value is None else 100 * value.mean for value in row] for row in table])
    colours = matplotlib.colormaps["PuOr_r"].resampled(25)
    scale = Normalize(-_STRONG, _STRONG)
    axes.imshow(means, norm=scale, cmap=colours, aspect="auto", interpolation="nearest")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for (y, x), mean in np.ndenumerate(means):
        value = table[y][x]
        if value is not None:
            clear = abs(value.mean) > value.half  # never so with one seed, whose half is NaN
            colour, text = style.ink_on(colours(scale(mean))), marks.signed(value._replace(half=np.nan))
            axes.text(
                x, y, text, ha="center", va="center", fontsize=6, color=colour, weight="bold" if clear else "normal"
            )


def _rules(axes: Axes, shown: Sequence[Scenario], labels: Sequence[str]) -> None:
    """Lines between kinds and between roles."""
    roles = [next(s.entries[label].role for s in shown if label in s.entries) for label in labels]
    for y in range(1, len(roles)):
        if roles[y] != roles[y - 1]:
            axes.axhline(y - 0.5, color=style.INK, linewidth=0.8)
    for x in range(1, len(shown)):
        if shown[x].kind != shown[x - 1].kind:
            axes.axvline(x - 0.5, color=style.INK, linewidth=0.8)
