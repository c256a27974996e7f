"""From the products of a plain and a perturbed vector to what Figure 1 shows, and from batches to mean and spread."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ROUNDING = 1e-6  # relative to g: what float32 sums leave of a zero


class Products(NamedTuple):
    """Inner products of one class's plain vector g, its perturbation d and g~ = g + d."""

    gg: float
    gd: float
    dd: float
    gm: float  # g . g~, by itself: gg + gd loses all digits where d is close to -g
    mm: float  # g~ . g~, likewise


class Measures(NamedTuple):
    """What a method does to each class, at one level, float64. Rows are batches [T]; NaN: the class is absent there.

    | case | result |
    |---|---|
    | norm(d_c) < 1e-6 norm(g_c): rounding | change 0, norm_ratio 1, cosine 1; shares NaN: there is nothing to share |
    | norm(g~_c) < 1e-6 norm(g_c): rounding | cosine NaN |
    | g_c = 0 | all NaN: nothing to compare with |
    | class absent from the batch | all NaN |

    Shares are squared lengths of orthogonal projections of d_c over ||d_c||^2, in [0, 1]. zero_sum + common_mode = 1.
    along_mean lies across that pair; where g_c itself is zero-sum, as for cross-entropy, along_mean <= zero_sum.
    Neither has a counterpart in the space of parameters, where zero_sum and common_mode are NaN: the images J d of
    orthogonal d are not orthogonal. `shared` is of another kind: with d = mean_c d_c over the K classes present,
    sum_c ||d_c||^2 = K ||d||^2 + sum_c ||d_c - d||^2, and it is the first term's share. [ours]
    """

    change: np.ndarray  # [T, C] ||d_c|| / ||g_c||
    norm_ratio: np.ndarray  # [T, C] ||g~_c|| / ||g_c||
    cosine: np.ndarray  # [T, C] of g~_c and g_c
    along_mean: np.ndarray  # [T, C] share of ||d_c||^2 along g_c
    zero_sum: np.ndarray  # [T, C] share in the space of sum_j d_cj = 0 (logit level)
    common_mode: np.ndarray  # [T, C] share along the all-ones vector, which no shift of logits reaches (logit level)
    shared: np.ndarray  # [T] share of sum_c ||d_c||^2 in one vector common to all classes


class Spread(NamedTuple):
    """Over the batches in which a class is present."""

    mean: np.ndarray  # [C], NaN: in no batch
    std: np.ndarray  # [C] standard deviation (n - 1), NaN: in fewer than two
    number: np.ndarray  # [C] int, batches


def of_class(products: Products, row_change: np.ndarray | None) -> np.ndarray:
    """[6] the measures of one class, in the order of `Measures` without `shared`; row_change: d_c [C] of the logits."""
    gg, gd, dd, gm, mm = (np.float64(value) for value in products)
    if gg == 0:
        return np.full(6, np.nan)
    change, norm_ratio = np.sqrt(dd / gg), np.sqrt(mm / gg)
    if change < ROUNDING:
        return np.array([0, 1, 1, np.nan, np.nan, np.nan])
    cosine = np.clip(gm / np.sqrt(gg) / np.sqrt(mm), -1, 1) if norm_ratio >= ROUNDING else np.nan
    along, zero_sum, common_mode = np.minimum(gd / gg * (gd / dd), 1), np.nan, np.nan
    if row_change is not None:
        mean = row_change.mean()
        common_mode = row_change.size * mean**2 / dd
        zero_sum = np.sum((row_change - mean) ** 2) / dd
    return np.array([change, norm_ratio, cosine, along, zero_sum, common_mode])


def shared_share(total_gg: float, total_dd: float, number: int, square_of_sum: float) -> float:
    """K ||mean d||^2 / sum ||d_c||^2 over K classes, from sums over them; NaN where nothing changed."""
    return square_of_sum / (total_dd * number) if total_dd > ROUNDING**2 * total_gg else float("nan")


def stack(per_batch: Sequence[tuple[np.ndarray, float]]) -> Measures:
    """Measures of T batches from ([C, 6], shared) of each."""
    table = np.stack([values for values, _ in per_batch])
    return Measures(*np.moveaxis(table, -1, 0), shared=np.array([share for _, share in per_batch]))


def over_batches(values: np.ndarray) -> Spread:
    """Mean and spread over the batches in which a value exists.

    Args:
      values: [T, C], NaN where a class is absent: a field of `Measures`.

    Returns:
      A `Spread`.

    Example:
      >>> over_batches(np.array([[1.0, np.nan], [3.0, 5.0]]))
      Spread(mean=array([2., 5.]), std=array([1.41421356,        nan]), number=array([2, 1]))
    """
    there = np.isfinite(values)
    number = there.sum(axis=0)
    filled = np.where(there, values, 0)
    mean = np.where(number > 0, filled.sum(axis=0) / np.maximum(number, 1), np.nan)
    square = np.where(there, filled - np.nan_to_num(mean), 0) ** 2
    std = np.where(number > 1, np.sqrt(square.sum(axis=0) / np.maximum(number - 1, 1)), np.nan)
    return Spread(mean, std, number)
