"""Figure 4 of the paper: does LPG add something to another method, and do the two gains add up?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lpg_jax.report import style
from lpg_jax.report.evidence import Scenario
from lpg_jax.report.figures import marks
from lpg_jax.report.intervals import Estimate, metric_of

KINDS = {"longtail": "Long tails", "noisy": "Wrong labels", "balanced": "Balanced"}
BASES = ("la", "lpl", "sam", "gce", "mixup", "la (LPG varied)")  # one look each


class Pair(NamedTuple):
    """X + LPG against its parts, in one scenario."""

    base: str  # label of X, and of LPG's bound if it is not fixed
    over_base: Estimate  # (X + LPG) - X
    over_lpg: Estimate | None  # (X + LPG) - LPG with the same bound


def save(scenarios: Sequence[Scenario], out: Path) -> list[Path]:
    """OUT/combinations-TIER.png of every tier with combinations."""
    made = []
    for tier in sorted({scenario.tier for scenario in scenarios}):
        figure = draw([scenario for scenario in scenarios if scenario.tier == tier])
        if figure is not None:
            made.append(style.save_png(figure, out / f"combinations-{tier}.png"))
    return made


def pairs(scenario: Scenario) -> list[Pair]:
    """Every combination of the scenario with results for it and for its first part."""
    made, metric = [], metric_of(scenario)
    for label, entry in scenario.entries.items():
        base, _, beside = label.partition("+")
        if entry.role != "combination" or not beside:
            continue
        gain = marks.paired(scenario, label, base, metric)
        if gain is not None:
            name = f"{base} (LPG varied)" if beside.endswith("-varied") else base
            made.append(Pair(name, gain, marks.paired(scenario, label, beside, metric)))
    return made


def draw(scenarios: Sequence[Scenario]) -> Figure | None:
    """One row of panels per kind, or None where there are no combinations; call it inside `style.context()`."""
    found = {scenario.name: pairs(scenario) for scenario in scenarios}
    ordered = sorted(scenarios, key=lambda scenario: marks.natural(scenario.name))
    kinds = {kind: [s for s in ordered if s.kind == kind and found[s.name]] for kind in KINDS}
    kinds = {kind: group for kind, group in kinds.items() if group}
    if not kinds:
        return None
    heights = [0.55 * len(group) + 0.75 for group in kinds.values()]
    figure = Figure(figsize=(style.WIDTH, sum(heights) + 1.1), layout="constrained")
    seeds = marks.seeds_text(pair.over_base for of_scenario in found.values() for pair in of_scenario)
    caption = (
        f"{seeds.capitalize()}; {marks.PAIRED}. Accuracy, under long tails balanced accuracy. Left of zero LPG harms X "
        "(left panels), or LPG, with the same bound, is better without X (right panels)."
    )
    bases = {pair.base for of_scenario in found.values() for pair in of_scenario}
    style.frame(figure, f"{scenarios[0].tier}: what LPG adds to another method", caption, _handles(bases))
    every = figure.subplots(len(kinds), 2, squeeze=False, height_ratios=heights)
    for row, (kind, group) in zip(every, kinds.items(), strict=True):
        for axes, field, text in zip(
            row, ("over_base", "over_lpg"), ("X + LPG over X", "X + LPG over LPG"), strict=True
        ):
            _panel(axes, group, found, field)
            axes.set_title(f"{KINDS[kind]}: {text}")
        row[1].tick_params(labelleft=False)
        row[0].set_xlabel("percentage points")
        row[1].set_xlabel("percentage points")
    return figure


def _panel(axes: Axes, group: Sequence[Scenario], found: dict[str, list[Pair]], field: str) -> None:
    axes.axvline(0, color=style.INK, linewidth=0.9)
    for y, scenario in enumerate(group):
        of_scenario = found[scenario.name]
        if y % 2:
            axes.axhspan(y - 0.5, y + 0.5, color="#f2f2f2", linewidth=0, zorder=0)
        for index, pair in enumerate(of_scenario):
            value = getattr(pair, field)
            if value is not None:
                height = y + 0.52 * (index / max(len(of_scenario) - 1, 1) - 0.5) * (len(of_scenario) > 1)
                marks.dot(axes, marks.percent(value)[0], height, value, **_look(pair.base))
    marks.name_rows(axes, [scenario.title for scenario in group])
    axes.grid(axis="y", visible=False)
    axes.set_ylim(len(group) - 0.5, -0.5)


def _look(base: str) -> dict:
    return style.method_look(BASES.index(base) if base in BASES else len(BASES))


def _handles(bases: set[str]) -> list[Line2D]:
    order = [*(base for base in BASES if base in bases), *sorted(bases - set(BASES))]
    return [Line2D([], [], linestyle="none", markersize=5.5, label=f"X = {base}", **_look(base)) for base in order]
