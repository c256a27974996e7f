"""Figure 1 of the paper: what each method does to the gradient of each class at a trained model's parameters."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from lpg_jax.report import style
from lpg_jax.report.evidence import Scenario

MEASURES = {"norm_ratio": "norm over that of cross-entropy", "cosine": "cosine with cross-entropy"}
# rows of probe.csv: those of the paper's figure, and what LPG is compared with most
CHOSEN = ("SAM 0.05", "clip 1", "noise 0.003", "lpg", "varied", "lpg_pgd head", "logit adjustment", "LPL")
_LEVEL = "parameters"
_NUMBERS = 12  # up to this many classes, cells carry their number
_COLUMNS = ("method", "level", "measure", "class", "count", "mean", "std", "batches")


class Effect(NamedTuple):
    """Of one method on each class, over batches; NaN: the class was in no batch."""

    mean: np.ndarray  # [C]
    half: np.ndarray  # [C] 95 % half-width by Student's t over batches; NaN below two
    batches: np.ndarray  # [C]


class Probe(NamedTuple):
    """probe.csv, of the gradients of parameters."""

    effects: dict[str, dict[str, Effect]]  # method -> measure -> effect
    counts: np.ndarray  # [C] training examples


def save(scenarios: Sequence[Scenario], out: Path) -> list[Path]:
    """OUT/probe-TIER-NAME.png (a few methods) and OUT/probe-all-TIER-NAME.png of the scenarios with a probe.csv."""
    made = []
    for scenario in scenarios:
        path, stem = scenario.home / "probe.csv", f"{scenario.tier}-{scenario.name}"
        probe = read(path) if path.is_file() else None
        if probe is None:
            continue
        figures = {f"probe-{stem}": draw(probe, scenario.title), f"probe-all-{stem}": draw_all(probe, scenario.title)}
        made += [style.save_png(figure, out / f"{name}.png") for name, figure in figures.items() if figure is not None]
    return made


def read(path: Path) -> Probe:
    """Read probe.csv, as `lpg_jax.analysis.write_csv` writes it.

    Raises:
      ValueError: a column is missing, a number is none, or there are no rows of parameters; names the file and the fix.
    """
    cells: dict[str, dict[str, dict[int, tuple[float, float, int]]]] = {}
    counts: dict[int, float] = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = set(_COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path}: no column {sorted(missing)[0]!r}; write it anew with probe.py")
        for number, line in enumerate(reader, 2):
            if line["level"] != _LEVEL or line["measure"] not in MEASURES:
                continue
            try:
                c, batches = int(line["class"]), int(line["batches"])
                counts[c] = float(line["count"])
                cell = float(line["mean"]), _half(float(line["std"]), batches), batches
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}; write it anew with probe.py") from error
            cells.setdefault(line["method"], {}).setdefault(line["measure"], {})[c] = cell
    if not cells:
        raise ValueError(f"{path}: no row of level {_LEVEL!r}; write it anew with probe.py")
    classes = sorted(counts)
    effects = {
        method: {name: Effect(*(np.array(column) for column in zip(*(of[c] for c in classes), strict=True)))
                 for name, of in measures.items()}
        for method, measures in cells.items()
    }  # fmt: skip
    return Probe(effects, np.array([counts[c] for c in classes]))


def _half(std: float, batches: int) -> float:
    return float(stats.t.ppf(0.975, batches - 1)) * std / math.sqrt(batches) if batches > 1 else math.nan


def draw(probe: Probe, title: str, chosen: Sequence[str] = CHOSEN) -> Figure | None:
    """A panel per measure, a curve per chosen method; None where none of them is there. In `style.context()`."""
    methods = [method for method in chosen if method in probe.effects]
    if not methods:
        return None
    order = np.argsort(-probe.counts, kind="stable")
    figure = Figure(figsize=(style.WIDTH, 6.0), layout="constrained")
    for axes, (name, text) in zip(figure.subplots(2, 1, sharex=True), MEASURES.items(), strict=True):
        axes.axhline(1, color=style.INK, linewidth=0.9)
        for index, method in enumerate(methods):
            effect = probe.effects[method][name]
            shift = 0.5 * (index / max(len(methods) - 1, 1) - 0.5)
            half = np.nan_to_num(effect.half[order])
            axes.errorbar(
                np.arange(len(order)) + shift, effect.mean[order], half, label=method, markersize=4, linewidth=0.8,
                elinewidth=0.9, capsize=1.5, **style.line_look(index + 1),
            )  # fmt: skip
        axes.set_ylabel(text)
        _name_classes(axes, probe.counts[order], order)
        axes.label_outer()
        axes.set_xlim(-0.6, len(order) - 0.4)
        _limit(axes, np.concatenate([probe.effects[method][name].mean for method in methods]))
    handles = [Line2D([], [], markersize=4, label=method, **style.line_look(i + 1)) for i, method in enumerate(methods)]
    style.frame(figure, f"{title}: what each method does to a class's gradient", _caption(probe, "bars"), handles)
    return figure


def _limit(axes: Axes, means: np.ndarray) -> None:
    """By the means: the interval of two batches can be wider than all that there is to see."""
    low, high = float(np.nanmin(means, initial=1.0)), float(np.nanmax(means, initial=1.0))
    margin = 0.1 * max(high - low, 0.1)
    axes.set_ylim(low - margin, high + margin)


def draw_all(probe: Probe, title: str) -> Figure | None:
    """Every method that changes something, as a row of two maps: norm ratio and cosine, a column per class."""
    methods = [method for method, effect in probe.effects.items() if _acts(effect)]
    if not methods:
        return None
    order = np.argsort(-probe.counts, kind="stable")
    figure = Figure(figsize=(style.WIDTH, 1.5 + 0.2 * len(methods)), layout="constrained")
    style.frame(figure, f"{title}: what every method does to a class's gradient", _caption(probe, ""))
    for axes, (name, text) in zip(figure.subplots(1, 2, sharey=True), MEASURES.items(), strict=True):
        values = np.array([probe.effects[method][name].mean[order] for method in methods])
        _map(figure, axes, name, values)
        axes.set_title(text)
        _name_classes(axes, probe.counts[order], order)
    axes.set_yticks(range(len(methods)), methods, fontsize=7.5)
    return figure


def _acts(effect: dict[str, Effect]) -> bool:
    return bool(np.nanmax(np.abs([effect[name].mean - 1 for name in MEASURES if name in effect]), initial=0.0) > 1e-6)


def _map(figure: Figure, axes: Axes, name: str, values: np.ndarray) -> None:
    """Cells with their numbers; norm ratios on a logarithmic scale around 1, at most 8 times up and down."""
    if name == "norm_ratio":
        shades, scale, colours = np.log2(np.clip(values, 1 / 8, 8)), Normalize(-3, 3), "PuOr_r"
    else:
        shades, scale, colours = values, Normalize(min(0.0, float(np.nanmin(values))), 1), "Greys_r"
    image = axes.imshow(
        shades, norm=scale, cmap=matplotlib.colormaps[colours].resampled(25), aspect="auto", interpolation="nearest"
    )
    axes.grid(visible=False)
    bar = figure.colorbar(image, ax=axes, aspect=40, pad=0.01)
    if name == "norm_ratio":
        bar.set_ticks([-3, -2, -1, 0, 1, 2, 3], labels=["≤1/8", "1/4", "1/2", "1", "2", "4", "≥8"])
    if values.shape[1] <= _NUMBERS:
        for (y, x), value in np.ndenumerate(values):
            colour = style.ink_on(image.cmap(image.norm(shades[y, x]))) if np.isfinite(value) else style.INK
            text = f"{value:.2g}" if np.isfinite(value) else "–"
            axes.text(x, y, text, ha="center", va="center", fontsize=6, color=colour)


def _name_classes(axes: Axes, counts: np.ndarray, order: np.ndarray) -> None:
    number = len(order)
    places = np.arange(number) if number <= 20 else np.linspace(0, number - 1, 8).round().astype(int)
    axes.set_xticks(places, [f"{order[i]}\n{counts[i]:,.0f}" for i in places], fontsize=6.5)
    axes.set_xlabel("class and its training examples")


def _caption(probe: Probe, bars: str) -> str:
    batches = max(int(effect.batches.max()) for of in probe.effects.values() for effect in of.values())
    interval = f"; {bars}: 95 % interval over batches (Student's t), cut off at the frame" if bars else ""
    return (
        f"Gradients of the parameters of one model trained with cross-entropy (1 seed), mean over up to {batches} "
        f"batches{interval}. Classes from frequent to rare. 1 is no change, – no example in any batch or no gradient "
        "left. Methods have fixed settings, those of `python probe.py`, not those of the tables."
    )
