"""cost.png: one panel per part that was measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from benchmarks.timing import Row
from lpg_jax.report import style

_HEIGHT = 3.2  # inches of a row of panels


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Medians, with the quartiles as whiskers.

    Args:
      rows: of any parts.
      title: machine and versions, under the panels.
      path: of the picture.
    """
    panels = [panel for panel in _PANELS if any(row.part == panel for row in rows)]
    with style.context():
        lines = max(1, -(-len(panels) // 2))
        figure, axes = plt.subplots(
            lines, 2, figsize=(style.WIDTH, _HEIGHT * lines), squeeze=False, layout="constrained"
        )
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        for axis, part in zip(axes.flat, panels, strict=False):
            _PANELS[part](axis, [row for row in rows if row.part == part])
        figure.supxlabel(title, x=0.01, ha="left", fontsize=6, color=style.GUIDE)
        figure.savefig(path, bbox_inches="tight")
        plt.close(figure)


def _over_classes(axis: Any, rows: Sequence[Row], of: str) -> None:
    """A line per transformation, over the number of classes."""
    lines: dict[str, list[Row]] = {}
    for row in rows:
        name, _, base = row.what.partition(" / ")
        if base == of and row.unit == "x" and "C=" in row.case and "->" not in row.case and "rows" not in row.case:
            lines.setdefault(name, []).append(row)
    names = sorted(lines, key=lambda name: name == "plain")  # last, so that a name looks the same in every panel
    seen: set[int] = set()
    for number, name in enumerate(names):
        classes = [int(row.case.split("C=")[1].split()[0]) for row in lines[name]]
        seen |= set(classes)
        look = style.method_look(number)
        axis.errorbar(classes, *_whiskers(lines[name]), label=name, capsize=2, ms=4, lw=1, **look)
    axis.set(xscale="log", yscale="log", xlabel="classes")
    axis.set_xticks(sorted(seen), [f"{number:,}" for number in sorted(seen)], rotation=30)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axis.xaxis.minorticks_off()
    axis.tick_params(axis="both", which="both", labelsize=6.5)
    axis.margins(y=0.25)
    axis.legend(fontsize=6, ncols=2)


def _bars(axis: Any, rows: Sequence[Row], drop: str) -> None:
    """A horizontal bar per row, labelled by case and name, less the part that the title says."""
    rows = rows[::-1]
    values, spread = _whiskers(rows)
    colour = style.method_look(3)["color"]
    axis.barh(range(len(rows)), values, xerr=spread, color=colour, ecolor=style.INK, capsize=2, height=0.65)
    axis.set_yticks(
        range(len(rows)), [f"{row.case.split()[0]}  {row.what.replace(drop, '')}" for row in rows], fontsize=6.5
    )
    axis.grid(axis="x")
    axis.grid(visible=False, axis="y")
    axis.axvline(1, color=style.INK, lw=0.8, ls=":")


def _whiskers(rows: Sequence[Row]) -> tuple[list[float], list[list[float]]]:
    values = [row.value for row in rows]
    return values, [[row.value - row.low for row in rows], [row.high - row.value for row in rows]]


def _head(axis: Any, rows: Sequence[Row]) -> None:
    _over_classes(axis, rows, "plain")
    axis.set(title="Loss, logit gradient, statistics", ylabel="time over plain cross-entropy")


def _memory(axis: Any, rows: Sequence[Row]) -> None:
    _over_classes(axis, rows, "[B, C] array")
    axis.set(title="Temporary memory of the head", ylabel="arrays [B, C]")


def _ratios(title: str, over: str, drop: bool = True) -> Any:
    def draw_part(axis: Any, rows: Sequence[Row]) -> None:
        _bars(axis, [row for row in rows if over in row.what and row.unit == "x"], drop=over.strip(" ") if drop else "")
        axis.set_title(title)

    return draw_part


_PANELS = {
    "head": _head,
    "memory": _memory,
    "step": _ratios("Training step: time over the plain one", "/ plain"),
    "loops": _ratios("Speed over a hand-written Flax loop", "flax / "),
    "population": _ratios("A population's speed over single runs", " / ", drop=False),
    "devices": _ratios("Virtual devices, same cores: time over one", "/ 1 device"),
}
