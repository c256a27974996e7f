"""How compact classes are in the space of features, and maps of it (Figure 5 of the paper): features.csv and maps.csv.

Features of the test part are divided by their mean norm first ("unit mean norm"), so that distances of two networks
can be compared. [ours] The names of the numbers: `lpg_jax.report.figures.features`, which draws them.
"""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_samples
from threadpoolctl import threadpool_limits

from lpg_jax.report.evidence import FEATURES, MAPS
from lpg_jax.report.figures.features import MAP_COLUMNS, MAP_NAMES, NUMBER_COLUMNS, shown_classes

_EXAMPLES = 3000  # for the silhouette, whose time grows with their square
_SHOWN = 120  # examples of a class in a map


class Features(NamedTuple):
    """Test features of one run."""

    values: np.ndarray  # [n, D] of unit mean norm
    labels: np.ndarray  # [n] int


def write(home: Path, found: Mapping[str, Mapping[int, Features]], class_counts: np.ndarray) -> list[Path]:
    """Writes HOME/features.csv (of every seed) and HOME/maps.csv (of the first one that all labels have).

    Args:
      home: directory of a scenario.
      found: features by label and seed.
      class_counts: [C] training examples, which say what is rare.

    Returns:
      The two paths.
    """
    numbers = [
        (label, seed, name, f"{value:.9g}")
        for label, by_seed in found.items()
        for seed, features in by_seed.items()
        for name, value in measure(features, class_counts).items()
    ]
    seed = min(set.intersection(*(set(by_seed) for by_seed in found.values())))
    places = [
        (label, seed, name, c, f"{x:.5g}", f"{y:.5g}")
        for label, by_seed in found.items()
        for points in [sample(by_seed[seed], shown_classes(class_counts))]
        for name, place in zip(MAP_NAMES, (tsne, pca), strict=True)
        for c, (x, y) in zip(points.labels, place(points.values), strict=True)
    ]
    return [
        _write(home / FEATURES, NUMBER_COLUMNS, numbers),
        _write(home / MAPS, MAP_COLUMNS, places),
    ]


def _write(path: Path, columns: Iterable[str], rows: Iterable[tuple]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def features_of(values: np.ndarray, labels: np.ndarray) -> Features:
    """Features [n, D] over their mean norm; directions and relative distances stay.

    Raises:
      ValueError: they are not finite.

    >>> features_of(np.array([[3.0, 4.0], [0.0, 5.0]]), np.array([1, 0])).values
    array([[0.6, 0.8],
           [0. , 1. ]])
    """
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("features are not finite: the run diverged, and cannot be measured")
    norm = float(np.linalg.norm(values, axis=1).mean())
    return Features(values / norm if norm > 0 else values, np.asarray(labels).astype(int))


def measure(features: Features, class_counts: np.ndarray) -> dict[str, float]:
    """{name: value} for features [n, D]; class_counts [C] are those of training and say what is rare."""
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
