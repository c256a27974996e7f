"""Figure 5 of the paper, with numbers: how compact and how far apart classes lie in the space of features.

Read from features.csv and maps.csv of a scenario, which `python -m evidence measure` writes.

| name | meaning |
|---|---|
| silhouette | mean silhouette coefficient (Euclidean) of examples, in [-1, 1]; higher: classes stand apart |
| intra | distance of an example to the mean of its class; mean over examples, then over classes |
| inter | distance between the means of two classes; mean over pairs |
| ratio | inter / intra |
| silhouette_tail, intra_tail, inter_tail, ratio_tail | the same of the rarer half of the classes, each against all |
"""

from __future__ import annotations

import csv
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lpg_jax.report import style
from lpg_jax.report.classes import class_order
from lpg_jax.report.evidence import FEATURES, MAPS, Scenario
from lpg_jax.report.figures import marks
from lpg_jax.report.intervals import Estimate, interval

NAMES = tuple(f"{name}{part}" for part in ("", "_tail") for name in ("silhouette", "intra", "inter", "ratio"))
NUMBER_COLUMNS = ("label", "seed", "name", "value")
MAP_COLUMNS = ("label", "seed", "map", "class", "x", "y")
MAP_NAMES = ("t-SNE", "PCA")
_TOLD = ("silhouette", "intra", "inter", "ratio")  # above a map
_FEW = 10  # classes in a map: with more, the most and the least frequent ones
_WIDE = 3  # columns in which a line of words has room
_SHAPES = ("o", "s", "^", "D", "v")
_Kind = TypeVar("_Kind", int, float)
_MEASURE = "start `python -m evidence measure` for this scenario again"


class Map(NamedTuple):
    """Examples of one run in the plane."""

    seed: int
    places: np.ndarray  # [n, 2]
    labels: np.ndarray  # [n] int


def feature_figures(scenario: Scenario) -> dict[str, dict[str, Estimate]]:
    """Numbers on the features of every entry that was measured.

    Args:
      scenario: read by `evidence.read`.

    Returns:
      {label: {name of `NAMES`: mean and 95 % interval over seeds}}; empty where there is no features.csv.

    Raises:
      ValueError: features.csv is damaged; names the file and the fix.

    Example:
      >>> feature_figures(scenario)["lpg"]["silhouette"].mean  # doctest: +SKIP
    """
    return {
        label: {name: interval([of_seed[name] for of_seed in by_seed.values()]) for name in NAMES}
        for label, by_seed in feature_values(scenario).items()
    }


def feature_values(scenario: Scenario) -> dict[str, dict[int, dict[str, float]]]:
    """{label: {seed: {name: value}}}: the values behind `feature_figures`, for pairing."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    path = scenario.home / FEATURES
    for label, seed, name, value in _rows(path, NUMBER_COLUMNS):
        found.setdefault(label, {}).setdefault(_number(path, seed, int), {})[name] = _number(path, value, float)
    for label, by_seed in found.items():
        for seed, values in by_seed.items():
            if missing := [name for name in NAMES if not math.isfinite(values.get(name, math.nan))]:
                raise ValueError(f"{path}: no {missing[0]} of {label}, seed {seed}; {_MEASURE}")
    return {label: by_seed for label, by_seed in found.items() if scenario.results.get(label)}


def feature_maps(scenario: Scenario) -> dict[str, dict[str, Map]]:
    """{label: {"t-SNE" or "PCA": map}}; empty where there is no maps.csv.

    Raises:
      ValueError: maps.csv is damaged; names the file and the fix.
    """
    path, lists = scenario.home / MAPS, {}
    for label, *row in _rows(path, MAP_COLUMNS):
        lists.setdefault(label, {}).setdefault(row[1], []).append(row)
    for label, by_name in lists.items():
        if missing := set(MAP_NAMES) - by_name.keys():
            raise ValueError(f"{path}: {label} has no map {min(missing)}; {_MEASURE}")
    return {label: {name: _map(path, rows) for name, rows in by_name.items()} for label, by_name in lists.items()}


def _map(path: Path, rows: Sequence[Sequence[str]]) -> Map:
    seed = _number(path, rows[0][0], int)
    places = np.array([[_number(path, x, float) for x in row[3:]] for row in rows])
    return Map(seed, places, np.array([_number(path, row[2], int) for row in rows]))


def _rows(path: Path, columns: Sequence[str]) -> list[list[str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = [*csv.reader(file)] or [[]]
    if tuple(header) != tuple(columns) or any(len(row) != len(columns) for row in rows):
        raise ValueError(f"{path}: must have columns {', '.join(columns)} in every line; {_MEASURE}")
    return rows


def _number(path: Path, text: str, kind: Callable[[str], _Kind]) -> _Kind:
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; {_MEASURE}") from error


def save(scenarios: Sequence[Scenario], out: Path) -> list[Path]:
    """OUT/features-TIER-NAME.png and OUT/../tables/features.csv of the scenarios whose features were measured."""
    made, table = [], {}
    for scenario in scenarios:
        figures = feature_figures(scenario)
        if not figures:
            continue
        table[scenario.tier, scenario.name] = figures
        figure = draw(scenario, figures)
        if figure is not None:
            made.append(style.save_png(figure, out / f"features-{scenario.tier}-{scenario.name}.png"))
    return made + ([write_csv(table, out.parent / "tables" / "features.csv")] if table else [])


def write_csv(table: dict[tuple[str, str], dict[str, dict[str, Estimate]]], path: Path) -> Path:
    """One row per tier, scenario, label and name: mean, 95 % half-width (empty with one seed) and seeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["tier", "scenario", "label", "name", "mean", "ci95", "n"])
        for (tier, scenario), figures in table.items():
            for label, found in figures.items():
                for name, value in found.items():
                    half = f"{value.half:.6g}" if np.isfinite(value.half) else ""
                    writer.writerow([tier, scenario, label, name, f"{value.mean:.6g}", half, value.n])
    return path


def draw(scenario: Scenario, figures: dict[str, dict[str, Estimate]]) -> Figure | None:
    """t-SNE above, PCA below, a column per entry with maps; None without any. Call it in `style.context()`."""
    maps = feature_maps(scenario)
    labels = [label for label in maps if label in figures]
    if not labels:
        return None
    seed = maps[labels[0]]["t-SNE"].seed
    each = np.bincount(maps[labels[0]]["t-SNE"].labels).max()
    figure = Figure(figsize=(style.WIDTH, 7.4), layout="constrained")
    number = marks.seeds_text(value for label in labels for value in figures[label].values())
    caption = (
        f"{scenario.scale}. Maps: test features of seed {seed}, up to {each} examples of a class; axes have no "
        f"unit. Numbers: mean and 95 % interval over {number}, of all classes and of the rarer half, from the features "
        "themselves (unit mean norm), not from the maps. intra: mean distance to the class mean; inter: mean distance "
        "between class means; ratio: inter over intra."
    )
    counts = next(iter(scenario.results[labels[0]].values())).class_counts
    shown = shown_classes(counts)
    title = f"{scenario.title} ({scenario.tier}): test features"
    style.frame(figure, title, caption, _handles(shown, counts), columns=5)
    every = figure.subplots(2, len(labels), squeeze=False)
    rare = ", rare " if len(labels) <= _WIDE else "\n    rare "
    for column, label in zip(every.T, labels, strict=True):
        title = "\n".join(textwrap.wrap(marks.title_of(scenario, label), 102 // len(labels)))
        words = "\n".join(
            f"{key}: {_pm(figures[label][key])}{rare}{_pm(figures[label][f'{key}_tail'])}" for key in _TOLD
        )
        column[0].set_title(title, fontsize=8.5, pad=8 + 10 * len(words.splitlines()))
        column[0].text(0, 1.01, words, transform=column[0].transAxes, va="bottom", fontsize=7.5)
        for axes, name in zip(column, MAP_NAMES, strict=True):
            _scatter(axes, maps[label][name].places, maps[label][name].labels, shown)
            axes.set_xlabel(f"{name} 1")
            axes.set_ylabel(f"{name} 2")
    return figure


def _pm(value: Estimate) -> str:
    return f"{value.mean:.3f}".replace("-", "−") + (f" ± {value.half:.3f}" if np.isfinite(value.half) else "")


def shown_classes(class_counts: np.ndarray) -> np.ndarray:
    """Classes of a map from frequent to rare: all, or the five most and the five least frequent ones."""
    order = class_order(class_counts)
    return order if len(order) <= _FEW else np.concatenate([order[: _FEW // 2], order[-(_FEW // 2) :]])


def _look(rank: int, number: int) -> dict:
    """Frequent classes dark, rare ones light; neighbours differ by shape."""
    return {"color": style.class_colours(number)[rank], "marker": _SHAPES[rank % len(_SHAPES)]}


def _scatter(axes: Axes, places: np.ndarray, labels: np.ndarray, shown: np.ndarray) -> None:
    for rank, c in enumerate(shown):
        its = places[labels == c]
        axes.plot(
            its[:, 0], its[:, 1], linestyle="none", markersize=2.6, markeredgewidth=0, alpha=0.75, label=str(c),
            **_look(rank, len(shown)),
        )  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)


def _handles(shown: np.ndarray, counts: np.ndarray) -> list[Line2D]:
    return [
        Line2D(
            [], [], linestyle="none", markersize=5, label=f"class {c} (n {counts[c]:,.0f})", **_look(rank, len(shown))
        )
        for rank, c in enumerate(shown)
    ]
