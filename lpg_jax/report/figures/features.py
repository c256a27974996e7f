"""Figure 5 of the paper, with numbers: how compact and how far apart classes lie in the space of features.

Features of the test part are divided by their mean norm first ("unit mean norm"), so that distances of two networks
can be compared. [ours]

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
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_samples
from threadpoolctl import threadpool_limits

from lpg_jax.report import style
from lpg_jax.report.classes import class_order
from lpg_jax.report.evidence import Estimate, Result, Scenario, interval
from lpg_jax.report.figures import marks

LABELS = ("ce", "lpl", "lpg", "lpg-decay")  # of the maps; numbers are taken of every label with features
NAMES = tuple(f"{name}{part}" for part in ("", "_tail") for name in ("silhouette", "intra", "inter", "ratio"))
_TOLD = ("silhouette", "intra", "inter")  # above a map
_EXAMPLES = 3000  # for the silhouette, whose time grows with their square
_SHOWN = 120  # examples of a class in a map
_FEW = 10  # classes in a map: with more, the most and the least frequent ones
_SHAPES = ("o", "s", "^", "D", "v")


class Features(NamedTuple):
    """Test features of one run."""

    values: np.ndarray  # [n, D] of unit mean norm
    labels: np.ndarray  # [n] int


def feature_figures(scenario: Scenario) -> dict[str, dict[str, Estimate]]:
    """Numbers on the features of every entry that has stored them.

    Args:
      scenario: read by `evidence.read`.

    Returns:
      {label: {name of `NAMES`: mean and 95 % interval over seeds}}; empty where no run has a features.npz.

    Raises:
      ValueError: a features.npz is damaged; names the file and the fix.

    Example:
      >>> feature_figures(scenario)["lpg"]["silhouette"].mean  # doctest: +SKIP
    """
    return {
        label: {name: interval([of_seed[name] for of_seed in by_seed.values()]) for name in NAMES}
        for label, by_seed in feature_values(scenario).items()
    }


def feature_values(scenario: Scenario) -> dict[str, dict[int, dict[str, float]]]:
    """{label: {seed: {name: value}}} of every run with features: the values behind `feature_figures`, for pairing."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for label, entry in scenario.entries.items():
        for seed, result in sorted(scenario.results.get(label, {}).items()):
            path = _path(result, entry.method)
            if path.is_file():
                found.setdefault(label, {})[seed] = measure(read(path), result.class_counts)
    return found


def _path(result: Result, method: str) -> Path:
    return result.home / method / "features.npz"


def read(path: Path) -> Features:
    """Features [n, D] and labels [n] of a features.npz, brought to unit mean norm.

    Raises:
      ValueError: an array is missing, of a wrong shape or not finite; names the file and the fix.
    """
    with np.load(path) as file:
        missing = {"features", "labels"} - set(file.files)
        if missing:
            raise ValueError(f"{path}: no array {sorted(missing)[0]!r}; remove the file and predict again")
        values, labels = np.asarray(file["features"], np.float64), np.asarray(file["labels"])
    if values.ndim != 2 or labels.shape != values.shape[:1]:
        raise ValueError(
            f"{path}: features {list(values.shape)}, labels {list(labels.shape)}: must be [n, D] and [n]; predict again"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{path}: features are not finite: the run diverged; remove the file")
    return Features(standardise(values), labels.astype(int))


def standardise(values: np.ndarray) -> np.ndarray:
    """Features [n, D] over their mean norm; directions and relative distances stay.

    >>> standardise(np.array([[3.0, 4.0], [0.0, 5.0]]))
    array([[0.6, 0.8],
           [0. , 1. ]])
    """
    norm = float(np.linalg.norm(values, axis=1).mean())
    return values / norm if norm > 0 else values


def measure(features: Features, class_counts: np.ndarray) -> dict[str, float]:
    """{name of `NAMES`: value} for features [n, D]; class_counts [C] are those of training and say what is rare."""
    present = np.unique(features.labels)
    means = np.array([features.values[features.labels == c].mean(axis=0) for c in present])
    spread = np.array(
        [np.linalg.norm(features.values[features.labels == c] - mean, axis=1).mean()
         for c, mean in zip(present, means, strict=True)]
    )  # fmt: skip
    distances = np.linalg.norm(means[:, None] - means[None], axis=-1).sum(axis=1) / max(len(present) - 1, 1)
    chosen = np.linspace(0, len(features.labels) - 1, min(_EXAMPLES, len(features.labels))).astype(int)
    silhouettes = np.asarray(silhouette_samples(features.values[chosen], features.labels[chosen]))
    tail = _tail(class_counts)
    found = {}
    for part, classes in (("", np.isin(present, present)), ("_tail", np.isin(present, tail))):
        members = np.isin(features.labels[chosen], present[classes])
        intra, inter = float(spread[classes].mean()), float(distances[classes].mean())
        found |= {
            f"silhouette{part}": float(silhouettes[members].mean()), f"intra{part}": intra, f"inter{part}": inter,
            f"ratio{part}": inter / intra,
        }  # fmt: skip
    return found


def _tail(class_counts: np.ndarray) -> np.ndarray:
    """The rarer half of the classes; ties go by index and a middle class to the frequent ones, as in summary.json."""
    order = np.argsort(-class_counts, kind="stable")
    return order[-(len(order) // 2) :]


def save(scenarios: Sequence[Scenario], out: Path) -> list[Path]:
    """OUT/features-TIER-NAME.png and OUT/../tables/features.csv of the scenarios whose runs have stored features."""
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
    """t-SNE above, PCA below, a column per entry of `LABELS`; None without any. Call it in `style.context()`."""
    labels = [label for label in LABELS if label in figures]
    if not labels:
        return None
    seeds = {label: [seed for seed, result in sorted(scenario.results[label].items())
                     if _path(result, scenario.entries[label].method).is_file()] for label in labels}  # fmt: skip
    common = sorted(set.intersection(*map(set, seeds.values()))) or seeds[labels[0]]
    figure = Figure(figsize=(style.WIDTH, 7.4), layout="constrained")
    number = marks.seeds_text(value for label in labels for value in figures[label].values())
    caption = (
        f"{scenario.scale}. Maps: test features of seed {common[0]}, up to {_SHOWN} examples of a class; axes have no "
        f"unit. Numbers: mean and 95 % interval over {number}, of all classes and of the rarer half, from the features "
        "themselves (unit mean norm), not from the maps. intra: mean distance to the class mean; inter: mean distance "
        "between class means."
    )
    counts = scenario.results[labels[0]][seeds[labels[0]][0]].class_counts
    title = f"{scenario.title} ({scenario.tier}): test features"
    style.frame(figure, title, caption, _handles(shown_classes(counts), counts), columns=5)
    every = figure.subplots(2, len(labels), squeeze=False)
    for column, label in zip(every.T, labels, strict=True):
        seed = common[0] if common[0] in seeds[label] else seeds[label][0]
        result = scenario.results[label][seed]
        shown = shown_classes(result.class_counts)
        points = sample(read(_path(result, scenario.entries[label].method)), shown)
        title = "\n".join(textwrap.wrap(marks.title_of(scenario, label), 34))
        column[0].set_title(title, fontsize=8.5, pad=38)
        column[0].text(0, 1.01, _words(figures[label]), transform=column[0].transAxes, va="bottom", fontsize=7.5)
        for axes, maps, name in zip(column, (tsne, pca), ("t-SNE", "PCA"), strict=True):
            _scatter(axes, maps(points.values), points.labels, shown)
            axes.set_xlabel(f"{name} 1")
            axes.set_ylabel(f"{name} 2")
    return figure


def _words(found: dict[str, Estimate]) -> str:
    return "\n".join(f"{key}: {_pm(found[key])}, rare {_pm(found[f'{key}_tail'])}" for key in _TOLD)


def _pm(value: Estimate) -> str:
    return f"{value.mean:.3f}".replace("-", "−") + (f" ± {value.half:.3f}" if np.isfinite(value.half) else "")


def shown_classes(class_counts: np.ndarray) -> np.ndarray:
    """Classes of a map from frequent to rare: all, or the five most and the five least frequent ones."""
    order = class_order(class_counts)
    return order if len(order) <= _FEW else np.concatenate([order[: _FEW // 2], order[-(_FEW // 2) :]])


def sample(features: Features, shown: np.ndarray) -> Features:
    """The first `_SHOWN` examples of every shown class, in the order of the test part."""
    index = np.sort(np.concatenate([np.flatnonzero(features.labels == c)[:_SHOWN] for c in shown]))
    return Features(features.values[index], features.labels[index])


def tsne(values: np.ndarray) -> np.ndarray:
    """[n, 2] of features [n, D]; the same picture for the same features."""
    reduced = PCA(min(50, *values.shape), svd_solver="full").fit_transform(values)
    perplexity = min(30.0, (len(values) - 1) / 3)
    with threadpool_limits(1):  # its threads wait for each other longer than they work
        return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(reduced)


def pca(values: np.ndarray) -> np.ndarray:
    """[n, 2] of features [n, D]."""
    return PCA(2, svd_solver="full").fit_transform(values)


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
