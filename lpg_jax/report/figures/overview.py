"""One forest plot per scenario: what every entry gains over cross-entropy, the best on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lpg_jax.report import style
from lpg_jax.report.evidence import Scenario
from lpg_jax.report.figures import marks
from lpg_jax.report.figures.marks import Row
from lpg_jax.report.intervals import metric_of

_ROW = 0.205  # inches
ARROW = "An arrow points to a value beyond the axis."
_SCORES = {"overall": "accuracy", "balanced": "balanced accuracy"}


def save(scenarios: Sequence[Scenario], out: Path) -> list[Path]:
    """OUT/overview-TIER-NAME.png of every scenario with cross-entropy and something to compare with it."""
    made = []
    for scenario in scenarios:
        figure = draw(scenario)
        if figure is not None:
            made.append(style.save_png(figure, out / f"overview-{scenario.tier}-{scenario.name}.png"))
    return made


def draw(scenario: Scenario) -> Figure | None:
    """The figure, or None where there is nothing to compare; call it inside `style.context()`."""
    metric = metric_of(scenario)
    rows = sorted(marks.rows(scenario, metric, base="ce"), key=lambda row: (-row.value.mean, row.label))
    if not rows:
        return None
    figure = Figure(figsize=(style.WIDTH, 1.35 + _ROW * (len(rows) + 1)), layout="constrained")
    plain = marks.estimate(scenario.results["ce"], metric)
    half = f" ± {100 * plain.half:.1f}" if np.isfinite(plain.half) else ""
    caption = (
        f"{scenario.scale}. {_SCORES[metric].capitalize()} of cross-entropy: {100 * plain.mean:.1f}{half} %. "
        f"{marks.seeds_text(row.value for row in rows).capitalize()}; {marks.PAIRED}, in numbers on the right. "
        f"{ARROW}{_lost(scenario, rows)}"
    )
    title = f"{scenario.title} ({scenario.tier}): gain of every method over cross-entropy"
    style.frame(figure, title, caption, marks.role_handles(rows))
    axes = figure.subplots()
    forest(axes, rows)
    axes.set_xlabel(f"{_SCORES[metric]}, percentage points above cross-entropy")
    return figure


def _lost(scenario: Scenario, rows: Sequence[Row]) -> str:
    """Names the entries with results that have no finite mean, for the caption."""
    drawn = {"ce", *(row.label for row in rows)}
    lost = [label for label in scenario.entries if scenario.results.get(label) and label not in drawn]
    return f" Not drawn, because a run diverged or shares no seed: {', '.join(lost)}." if lost else ""


def forest(axes: Axes, rows: Sequence[Row]) -> None:
    """Rows from top to bottom with a line at zero; losses beyond `marks.floor` are arrows there."""
    values = [marks.percent(row.value) for row in rows]
    low, high = marks.floor(values, reference=0.0), max(mean + half for mean, half in values)
    axes.axvline(0, color=style.INK, linewidth=0.9)
    for y, row in enumerate(rows):
        mean, _ = marks.percent(row.value)
        look = style.role_look(row.role)
        if mean < low:
            axes.plot([low], [y], linestyle="none", **dict(look, marker="<"))
        else:
            marks.dot(axes, mean, y, row.value, **look)
        axes.annotate(marks.signed(row.value), (1.005, y), xycoords=("axes fraction", "data"), va="center", fontsize=7)
    marks.name_rows(axes, [f"{row.title}  [{row.label}]" for row in rows])
    margin = 0.03 * max(high - min(low, 0.0), 0.1)
    axes.set_xlim(min(low, 0.0) - margin, max(high, 0.0) + margin)
