"""Figure 1 of the paper: what each method does to the gradient of each class, drawn from the results of the probe."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lpg_jax.analysis.measures import Measures, over_batches
from lpg_jax.analysis.probe import Result
from lpg_jax.checks import check_shape

# field of `Measures`: (title, value of no change, log scale); shares are of squared length
_PANELS: dict[str, tuple[str, float | None, bool]] = {
    "change": ("||g~ - g|| / ||g||", None, True),
    "norm_ratio": ("||g~|| / ||g||", 1.0, False),
    "cosine": ("cosine of g~ and g", 1.0, False),
    "along_mean": ("share of g~ - g along g", None, False),
    "common_mode": ("share of g~ - g in the common mode", None, False),
}
_LEVELS = {"logits": "logit gradient", "parameters": "parameter gradient"}  # means over the class
# Okabe and Ito (2008), which stay apart under the common forms of colour blindness
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
_STYLES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h")
_FEW = 20  # classes that can have markers, error bars and names of their own
_WIDE = 10.0  # norm ratios beyond are drawn on a logarithmic axis
_RC: dict = {
    "font.family": "DejaVu Sans", "font.size": 8.5, "axes.titlesize": 9, "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
    "grid.color": "#e2e2e2", "grid.linewidth": 0.7, "legend.frameon": False, "text.parse_math": False,
}  # fmt: skip


def draw(
    results: Mapping[str, Result],
    class_counts: Sequence[int] | np.ndarray,
    path: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    title: str = "",
) -> None:
    """Draws what methods do to each class: one panel per measure and level, one line per method.

    Classes stand on the x axis from the most to the least frequent; a point is the mean over the batches in which the
    class is present, its bar (its band, above 20 classes) one standard deviation over those batches. A method that
    changes nothing at a level is left out of the panels in which it has nothing to show.

    Args:
      results: by name, from `probe`; their order is that of the legend.
      class_counts: [C] training examples.
      path: the image to write, .png, .pdf or .svg; an existing one is replaced.
      class_names: [C] for the ticks; None: their numbers.
      title: of the whole figure.

    Raises:
      ValueError: no result, or class_counts or class_names of another length.
      OSError: it cannot be written.

    Example:
      >>> batch = lpg_jax.analysis.Batch(jnp.eye(4), jnp.array([0, 0, 1, 1]))
      >>> methods = {"clip": lpg_jax.analysis.at_gradient(optax.clip_by_global_norm(0.1))}
      >>> results = lpg_jax.analysis.probe(lambda w, x: x @ w, jnp.zeros((4, 2)), [batch], methods)
      >>> draw(results, [2, 2], "figure1.png")
    """
    if not results:
        raise ValueError("results: empty; nothing to draw")
    counts = np.asarray(class_counts)
    num_classes = next(iter(results.values())).count.shape[1]
    check_shape("class_counts", counts, (num_classes,), "the results")
    names = [str(c) for c in range(num_classes)] if class_names is None else list(class_names)
    if len(names) != num_classes:
        raise ValueError(f"class_names: {len(names)} of them, must be {num_classes}")
    order = np.argsort(-counts, kind="stable")
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(11, 2.5 * len(_PANELS)), layout="constrained")
        FigureCanvasAgg(figure)
        if title:
            figure.suptitle(title, fontsize=10, ha="left", x=0.01)
        axes = figure.subplots(len(_PANELS), len(_LEVELS), sharex=True, squeeze=False)
        for row, measure in enumerate(_PANELS):
            for column, level in enumerate(_LEVELS):
                if measure == "common_mode" and level == "parameters":  # it has none; its place takes the legend
                    _legend(axes[row, column], results)
                    axes[row - 1, column].tick_params(labelbottom=True)
                else:
                    _panel(axes[row, column], results, level, measure, order)
                    _name_classes(axes[row, column], names, counts, order)
        figure.savefig(path, dpi=150)


def _panel(axes: Axes, results: Mapping[str, Result], level: str, measure: str, order: np.ndarray) -> None:
    title, neutral, logarithmic = _PANELS[measure]
    axes.set_title(f"{_LEVELS[level]}: {title}")
    if neutral is not None:
        axes.axhline(neutral, color="#9a9a9a", linewidth=0.8)
    highest = 0.0
    for index, result in enumerate(results.values()):
        measured: Measures = getattr(result, level)
        if not np.nanmax(measured.change, initial=0.0) > 0:
            continue
        mean, std, _ = over_batches(getattr(measured, measure))
        if logarithmic:
            mean = np.where(mean > 0, mean, np.nan)  # a class left alone has no place on this axis
        highest = max(highest, float(np.nanmax(mean, initial=0.0)))
        _line(axes, mean[order], np.nan_to_num(std[order]), index, len(results))
    if logarithmic and highest > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    elif measure == "norm_ratio" and highest > _WIDE:
        axes.set_yscale("symlog", linthresh=1)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylim(bottom=0)
    elif measure in ("along_mean", "common_mode"):
        axes.set_ylim(-0.04, 1.04)


def _look(index: int) -> dict[str, Any]:
    number = len(_COLOURS)
    return {"color": _COLOURS[index % number], "linestyle": _STYLES[index // number % len(_STYLES)]}


def _line(axes: Axes, mean: np.ndarray, std: np.ndarray, index: int, number: int) -> None:
    places = np.arange(len(mean))
    if len(mean) > _FEW:
        axes.plot(places, mean, linewidth=1.1, **_look(index))
        axes.fill_between(places, mean - std, mean + std, color=_COLOURS[index % len(_COLOURS)], alpha=0.1, linewidth=0)
        return
    shifted = places + 0.6 * (index / max(number - 1, 1) - 0.5)  # side by side, so that error bars can be told apart
    size: dict[str, Any] = {"markersize": 4, "linewidth": 0.7, "elinewidth": 0.9, "capsize": 1.5}
    axes.errorbar(shifted, mean, std, marker=_MARKERS[index % len(_MARKERS)], **size, **_look(index))


def _legend(axes: Axes, results: Mapping[str, Result]) -> None:
    axes.axis("off")
    handles = []
    for index, (name, result) in enumerate(results.items()):
        acts = any(np.nanmax(level.change, initial=0.0) > 0 for level in (result.logits, result.parameters))
        marker = _MARKERS[index % len(_MARKERS)] if result.count.shape[1] <= _FEW else ""
        label = name if acts else f"{name} (no change)"
        handles.append(Line2D([], [], marker=marker, markersize=5, linewidth=1.4, label=label, **_look(index)))
    axes.legend(handles=handles, loc="center left", ncols=2, fontsize=9)


def _name_classes(axes: Axes, names: Sequence[str], counts: np.ndarray, order: np.ndarray) -> None:
    """Names and counts below every panel; some of them where there are many classes."""
    number = len(order)
    places = np.arange(number) if number <= _FEW else np.linspace(0, number - 1, 9).round().astype(int)
    labels = [f"{names[order[i]]}  {counts[order[i]]:g}" for i in places]
    axes.set_xticks(places, labels, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, number - 0.4)
    axes.grid(axis="x", visible=False)


def write_csv(results: Mapping[str, Result], class_counts: Sequence[int] | np.ndarray, path: str | Path) -> None:
    """Writes the figures behind `draw`: one row per method, level, measure and class.

    Columns: method, level, measure, class, training examples, mean and std over batches, batches in which it exists
    (0: the mean is nan). The measure "shared" belongs to all classes; its class is "all".

    Args:
      results: by name, from `probe`.
      class_counts: [C] training examples.
      path: the file to write; an existing one is replaced.
    """
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "level", "measure", "class", "count", "mean", "std", "batches"])
        for name, result in results.items():
            for level in _LEVELS:
                for measure, values in getattr(result, level)._asdict().items():
                    spread = over_batches(values.reshape(len(values), -1))
                    whole = measure == "shared"
                    for c, (mean, std, number) in enumerate(zip(*spread, strict=True)):
                        which = ("all", int(np.sum(class_counts))) if whole else (c, class_counts[c])
                        writer.writerow([name, level, measure, *which, f"{mean:.9g}", f"{std:.9g}", number])
