"""classes.png: what each class got, and what LPG did to it to get there.

From top to bottom, classes in the same columns: test accuracy of every method; one row per LPG method with the signed
epsilon at the end; margins over training, and effective gradient ratios where they were recorded. Drawn on
a bare `Figure`, so pyplot's global state is never touched.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import SymmetricalLogLocator

from lpg_jax.report import style
from lpg_jax.report.records import History, Method, Run
from lpg_jax.report.table import MAX_COLUMNS, describe

FEW = 12  # up to this many classes, curves carry their class's name; beyond, a colour bar tells the rank
_FACETS = 3  # panels of curves side by side
_NARROW = 4.0  # a gradient ratio above this needs a logarithmic axis
_SOME = 6  # names under the columns where there is no room for all
_HOLLOW = {"markerfacecolor": "white", "markeredgecolor": style.INK, "markeredgewidth": 0.9}


def save(run: Run, histories: dict[str, History], path: Path) -> None:
    """Draw the figure and write it to `path`, all in this package's style."""
    with style.context():
        draw(run, histories).savefig(path)


def draw(run: Run, histories: dict[str, History]) -> Figure:
    """Draw the figure; call it inside `style.context()`.

    Args:
      run: the run, see `records.read_run`.
      histories: what LPG did per class, for those methods that have it; may be empty.

    Returns:
      A matplotlib Figure that belongs to no window.
    """
    order = class_order(run.class_counts)
    columns = max(1, min(len(histories), _FACETS))
    rated = {name: history for name, history in histories.items() if np.isfinite(history.gradient_ratio).any()}
    kinds = [(_margins, histories), (_ratios, rated)]
    first_rows = np.cumsum([1 + len(histories), *(math.ceil(len(shown) / columns) for _, shown in kinds)])
    heights = [2.7, *[1.6] * len(histories), *[2.8] * int(first_rows[-1] - first_rows[0])]
    figure = Figure(figsize=(style.WIDTH, sum(heights) + 0.5), layout="constrained")
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    top = figure.add_subplot(grid[0, :])
    _accuracies(top, run, order)
    title = f"{describe(run)}; means over seeds"
    figure.legend(loc="outside upper left", ncols=6, title=title, alignment="left")
    for row, (name, history) in enumerate(histories.items(), 1):
        axes = figure.add_subplot(grid[row, :], sharex=top)
        _epsilons(axes, name, history, order)
        _name_classes(axes, run, order, shown=row == len(histories))
    facets = []
    for (plot, shown), first_row in zip(kinds, first_rows[:-1], strict=True):
        for index, (name, history) in enumerate(shown.items()):
            row, column = divmod(index, columns)
            facets.append(figure.add_subplot(grid[first_row + row, column]))
            plot(facets[-1], name, run, history, order)
    if facets and len(order) > FEW:
        _rank_bar(figure, facets, run, order)
    return figure


def class_order(class_counts: np.ndarray) -> np.ndarray:
    """Order of the classes from left to right: rare ones on the right where there are rare ones, else by index."""
    imbalanced = class_counts.max() > 2 * class_counts.min()
    return np.argsort(-class_counts, kind="stable") if imbalanced else np.arange(len(class_counts))


def spread(positions: np.ndarray, gap: float) -> np.ndarray:
    """Move label positions [K] apart until neighbours are at least `gap` apart, keeping order and centre of mass.

    >>> spread(np.array([0.0, 0.0, 5.0]), 1.0)
    array([-0.5,  0.5,  5. ])
    """
    order = np.argsort(positions, kind="stable")
    offsets = gap * np.arange(len(positions))
    # With y = x - k * gap the rule is "y may not decrease": pool adjacent violators, each pool at its mean.
    pools: list[tuple[float, int]] = []
    for value in positions[order] - offsets:
        total, size = float(value), 1
        while pools and pools[-1][0] * size > total * pools[-1][1]:
            previous = pools.pop()
            total, size = total + previous[0], size + previous[1]
        pools.append((total, size))
    moved = np.empty(len(positions))
    moved[order] = np.concatenate([np.full(size, total / size) for total, size in pools]) + offsets
    return moved


def _accuracies(axes: Axes, run: Run, order: np.ndarray) -> None:
    axes.set_title("Test accuracy of each class")
    width = 0.6 / max(len(run.methods), 1)
    crowded = len(order) > FEW
    for index, method in enumerate(run.methods):
        places = np.arange(len(order)) + (index - (len(run.methods) - 1) / 2) * width
        _points(axes, places, method, order, index, crowded)
    axes.set_ylabel("accuracy (%), 95 % interval")
    lowest = min(float(np.nanmin(m.per_class - np.nan_to_num(m.per_class_ci), initial=1.0)) for m in run.methods)
    axes.set_ylim(max(0.0, math.floor(lowest * 10 - 0.3) * 10), 102)
    axes.set_xlim(-0.6, len(order) - 0.4)
    _name_classes(axes, run, order)
    axes.set_xlabel("class and its training examples")


def _points(axes: Axes, places: np.ndarray, method: Method, order: np.ndarray, index: int, crowded: bool) -> None:
    look = style.method_look(index)
    size = {"markersize": 3, "elinewidth": 0.6} if crowded else {"markersize": 5, "capsize": 2, "elinewidth": 1.1}
    accuracy, half = 100 * method.per_class[order], 100 * method.per_class_ci[order]
    axes.errorbar(places, accuracy, np.nan_to_num(half), linestyle="none", label=method.name, **size, **look)


def _epsilons(axes: Axes, name: str, history: History, order: np.ndarray) -> None:
    epsilon, margin = history.signed_epsilon[-1][order], history.margin[-1][order]
    places = np.arange(len(order))
    colours = [style.AMPLIFIED if value > 0 else style.DAMPENED for value in epsilon]
    axes.bar(places, epsilon, width=0.62, color=colours)
    axes.axhline(0, color=style.INK, linewidth=0.8)
    crowded = len(order) > FEW
    axes.plot(places, margin, linestyle="none", marker="D", markersize=2.5 if crowded else 4.5, **_HOLLOW)
    axes.set_title(f"{name}: signed ε of each class at step {history.steps[-1]:,}")
    axes.set_ylabel("signed ε")
    bound = 1.15 * max(float(np.nanmax(np.abs([epsilon, margin]), initial=0.0)), 1e-3)
    axes.set_ylim(-bound, bound)
    handles = [
        Patch(color=style.AMPLIFIED, label="amplified"),
        Patch(color=style.DAMPENED, label="dampened"),
        Line2D([], [], linestyle="none", marker="D", markersize=4.5, label="margin", **_HOLLOW),
    ]
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0)


def _margins(axes: Axes, name: str, run: Run, history: History, order: np.ndarray) -> None:
    axes.set_title(f"{name}: margin over training")
    axes.set_ylabel("margin (> 0: amplified)")
    axes.axhline(0, color=style.INK, linewidth=0.8)
    _curves(axes, run, history.steps, history.margin, order)


def _ratios(axes: Axes, name: str, run: Run, history: History, order: np.ndarray) -> None:
    axes.set_title(f"{name}: effective gradient ratio")
    axes.set_ylabel("edited / plain norm")
    axes.axhline(1, color=style.INK, linewidth=0.8)
    wide = np.nanmax(history.gradient_ratio) > _NARROW
    if wide:
        axes.set_yscale("symlog", linthresh=1)  # a class dampened to nothing is at 0, which has no logarithm
        axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    _curves(axes, run, history.steps, history.gradient_ratio, order, low=0.0 if wide else None)


def _curves(
    axes: Axes, run: Run, steps: np.ndarray, values: np.ndarray, order: np.ndarray, low: float | None = None
) -> None:
    """One curve per class of values [T, C], named at its end unless there are many; `low` is where the axis begins."""
    marker = "o" if len(steps) == 1 else None
    crowded = len(order) > FEW
    for colour, index in zip(style.class_colours(len(order)), order, strict=True):
        axes.plot(steps, values[:, index], color=colour, marker=marker, linewidth=0.7 if crowded else 1.5)
    axes.set_xlabel("step")
    axes.set_ylim(bottom=low)
    if not crowded:
        _name_curves(axes, run, float(steps[-1]), values[-1][order], order)


def _name_curves(axes: Axes, run: Run, step: float, last: np.ndarray, order: np.ndarray) -> None:
    """Write each class's name where its curve ends; names that would overlap are moved apart and joined by a line."""
    shown = np.flatnonzero(np.isfinite(last))
    to_fraction = axes.transData - axes.transAxes
    heights = to_fraction.transform(np.column_stack([np.full(len(shown), step), last[shown]]))[:, 1]
    colours = style.class_colours(len(order))
    for place, fraction in zip(shown, spread(heights, 0.075), strict=True):
        axes.annotate(
            run.class_names[order[place]],
            xy=(step, float(last[place])),
            xytext=(1.04, float(fraction)),
            textcoords="axes fraction",
            va="center",
            color=style.INK,
            arrowprops={"arrowstyle": "-", "color": colours[place], "linewidth": 0.8, "shrinkA": 1, "shrinkB": 0},
        )


def _rank_bar(figure: Figure, axes: list[Axes], run: Run, order: np.ndarray) -> None:
    bar = figure.colorbar(ScalarMappable(Normalize(0, len(order) - 1), style.class_map()), ax=axes, aspect=25, pad=0.01)
    ends = (0, len(order) - 1)
    bar.set_ticks(list(ends), labels=[f"{run.class_names[order[i]]}\nn {run.class_counts[order[i]]:g}" for i in ends])
    bar.ax.invert_yaxis()


def _name_classes(axes: Axes, run: Run, order: np.ndarray, shown: bool = True) -> None:
    """Names and training counts under the columns; only some of them where there are many classes."""
    places = np.arange(len(order))
    if len(order) > MAX_COLUMNS:
        places = np.linspace(0, len(order) - 1, _SOME).round().astype(int)
    names = [run.class_names[order[i]] for i in places]
    counts = [f"{run.class_counts[order[i]]:g}" for i in places]
    level = max(map(len, names)) <= style.CHARACTERS / len(places) - 1
    labels = [f"{name}{chr(10) if level else '  '}{count}" for name, count in zip(names, counts, strict=True)]
    turned = {} if level else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(places, labels, **turned)
    axes.tick_params(axis="x", labelbottom=shown)
