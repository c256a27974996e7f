"""Figure 2 of the paper: what every method reaches on frequent, on rare and on all classes of a long tail."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lpg_jax.report import style
from lpg_jax.report.evidence import Scenario
from lpg_jax.report.figures import marks
from lpg_jax.report.figures.marks import Row

PANELS = {
    "head": "Frequent half",
    "tail": "Rare half",
    "balanced": "All classes",
}
_ROW = 0.2  # inches


def save(scenarios: Sequence[Scenario], out: Path) -> list[Path]:
    """OUT/longtail-TIER-NAME.png of every scenario with a long tail and results."""
    made = []
    for scenario in scenarios:
        figure = draw(scenario) if scenario.kind == "longtail" else None
        if figure is not None:
            made.append(style.save_png(figure, out / f"longtail-{scenario.tier}-{scenario.name}.png"))
    return made


def draw(scenario: Scenario) -> Figure | None:
    """The figure, or None where there are no results; call it inside `style.context()`."""
    scores = {name: {row.label: row for row in marks.rows(scenario, name)} for name in PANELS}
    order = _order(scores["balanced"])
    if not order:
        return None
    figure = Figure(figsize=(style.WIDTH, 1.5 + _ROW * (len(order) + 1)), layout="constrained")
    seeds = marks.seeds_text(row.value for row in scores["balanced"].values())
    caption = (
        f"{scenario.scale}. {seeds.capitalize()}; {marks.INTERVAL}. Within a role by accuracy on all classes. "
        "Grey: mean and interval of cross-entropy. An arrow points to a value beyond the axis."
    )
    title = f"{scenario.title} ({scenario.tier}): frequent and rare classes"
    style.frame(figure, title, caption, marks.role_handles(scores["balanced"].values()))
    kept = _kept(scores["balanced"])
    for index, (axes, name) in enumerate(zip(figure.subplots(1, len(PANELS), sharey=True), PANELS, strict=True)):
        _panel(axes, name, [scores[name].get(label) for label in order], kept)
        if index == 0:
            marks.name_rows(axes, [scores["balanced"][label].title for label in order], size=7)
    return figure


def _order(found: dict[str, Row]) -> list[str]:
    """Labels by role, and within a role the best first."""
    return sorted(found, key=lambda label: (style.ROLES.index(found[label].role), -found[label].value.mean, label))


def _kept(found: dict[str, Row]) -> set[str]:
    """Labels that every axis must reach: a method may pay with frequent classes for rare ones, and that is to be seen;
    only one that fails on the whole may point beyond the axis."""
    values = {label: marks.percent(row.value) for label, row in found.items()}
    low = marks.floor(list(values.values()), values.get("ce", max(values.values()))[0])
    return {label for label, (mean, _) in values.items() if mean >= low}


def _panel(axes: Axes, name: str, rows: Sequence[Row | None], kept: set[str]) -> None:
    axes.set_title(PANELS[name], fontsize=8.5)
    axes.set_xlabel("test accuracy (%)")
    axes.grid(axis="x", visible=True)
    axes.tick_params(axis="x", labelsize=7.5)
    means = {row.label: marks.percent(row.value)[0] for row in rows if row is not None}
    if not means:
        return
    values = [marks.percent(row.value) for row in rows if row is not None]
    low = min(mean - half for mean, half in (marks.percent(row.value) for row in rows if row and row.label in kept))
    previous = None
    for y, row in enumerate(rows):
        if row is None:
            continue
        look = style.role_look(row.role)
        if means[row.label] < low:
            axes.plot([low], [y], linestyle="none", **dict(look, marker="<"))
        else:
            marks.dot(axes, means[row.label], y, row.value, **look)
        if row.label == "ce":
            mean, half = marks.percent(row.value)
            axes.axvspan(mean - half, mean + half, color=style.GUIDE, alpha=0.25, linewidth=0)
            axes.axvline(mean, color=style.GUIDE, linewidth=0.8)
        if previous not in (None, row.role):
            axes.axhline(y - 0.5, color=style.GUIDE, linewidth=0.6)
        previous = row.role
    axes.set_ylim(len(rows) - 0.4, -0.6)
    high = max(mean + half for mean, half in values)
    margin = 0.04 * max(high - low, 0.5)
    axes.set_xlim(low - margin, high + margin)
