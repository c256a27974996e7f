"""What LPG costs: the whole training step over the plain one, beside the figures of the paper."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lpg_jax.report import style
from lpg_jax.report.figures import marks

# method of benchmarks/step.py: (title, percent in section 4.6.4, measured by the paper for ResNet-110 on CIFAR-100)
METHODS = {
    "lpg": ("LPG, closed form", 3.0),
    "lpg_pgd": ("LPG-PGD, T = 5", 8.0),
    "sam": ("SAM", 15.0),
}
_COLUMNS = ("part", "case", "what", "value", "unit", "low", "high", "n")


class Cost(NamedTuple):
    """Extra time of a step in percent of the plain one: median and quartiles over rounds."""

    case: str
    median: float
    low: float
    high: float
    n: int  # rounds


def save(path: Path, out: Path) -> list[Path]:
    """OUT/overhead.png from cost.csv of `python -m benchmarks`; nothing where it is missing or has no such rows."""
    figure = draw(read(path)) if path.is_file() else None
    return [] if figure is None else [style.save_png(figure, out / "overhead.png")]


def read(path: Path) -> dict[str, list[Cost]]:
    """Method -> costs by model, from the rows "METHOD / plain" of the part "step".

    Raises:
      ValueError: a column is missing or a number is none; names the file and the fix.
    """
    found: dict[str, list[Cost]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = set(_COLUMNS) - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path}: no column {sorted(missing)[0]!r}; write it anew with `python -m benchmarks`")
        for line in reader:
            method, _, base = line["what"].partition(" / ")
            if line["part"] == "step" and base == "plain" and method in METHODS:
                found.setdefault(method, []).append(_cost(path, line))
    return found


def _cost(path: Path, line: dict[str, str]) -> Cost:
    try:
        median, low, high = (100 * (float(line[name]) - 1) for name in ("value", "low", "high"))
        return Cost(line["case"], median, low, high, int(line["n"]))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; write it anew with `python -m benchmarks`") from error


def draw(costs: dict[str, list[Cost]]) -> Figure | None:
    """One panel per method, one row per model; None where nothing was measured. Call it inside `style.context()`."""
    shown = {name: costs[name] for name in METHODS if costs.get(name)}
    if not shown:
        return None
    cases = list(dict.fromkeys(cost.case for of_method in shown.values() for cost in of_method))
    figure = Figure(figsize=(style.WIDTH, 1.75 + 0.32 * len(cases)), layout="constrained")
    rounds = sorted({cost.n for of_method in shown.values() for cost in of_method})
    caption = (
        f"Median and quartiles of {rounds[0]} to {rounds[-1]} rounds on one machine (machine.json), all methods taking "
        "turns within a round; no seeds are involved. B: batch size. Dashed: the paper's figure, for ResNet-110 on "
        "CIFAR-100 and hardware that it does not name."
    )
    style.frame(figure, "Overhead: time of a whole training step over plain training", caption)
    for axes, (method, of_method) in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown.items(),
                                         strict=True):  # fmt: skip
        _panel(axes, method, of_method, cases)
    marks.name_rows(figure.axes[0], cases, size=8)
    return figure


def _panel(axes: Axes, method: str, of_method: list[Cost], cases: list[str]) -> None:
    title, paper = METHODS[method]
    axes.set_title(title)
    axes.axvline(0, color=style.INK, linewidth=0.9)
    axes.axvline(paper, color=style.GUIDE, linewidth=1.4, linestyle="--")
    look = style.role_look("lpg" if method.startswith("lpg") else "baseline")
    for cost in of_method:
        spread = [[cost.median - cost.low], [cost.high - cost.median]]
        axes.errorbar([cost.median], [cases.index(cost.case)], xerr=spread, **marks.DOTS | look)
    axes.text(
        paper, 1, f" paper: {paper:g} %", transform=axes.get_xaxis_transform(), fontsize=7, va="bottom", ha="center"
    )
    axes.set_title(title, pad=15)
    axes.set_xlabel("extra time (%)")
    marks.name_rows(axes, cases, size=8)
