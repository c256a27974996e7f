"""Category splits: class statistics -> signed margin per class (Eq. 18-20).

A split returns margin_c = tau - s_c, where s_c is its statistic and tau its threshold: > 0 amplify the class,
< 0 dampen it, 0 leave it alone; |margin| feeds the bound (Eq. 21). Any function with this signature is a split.

| case | margin |
|---|---|
| the class's statistic does not exist yet (never seen) | 0, and the class does not count in a mean or median tau |
| tie: abs(s_c - tau) <= 1e-5 max(abs(tau), abs(s_c)) | exactly 0: equal statistics everywhere change nothing [ours] |
| `by_gradient_variance`: abs(Var_c - tau) <= 1e-6 of the largest E norm(h)^2, the rounding error of Var | likewise |
| `by_frequency`, all counts equal | 0 for every class, whatever scale and threshold [ours] |
| one class only | 0 with threshold "mean" or "median" |
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from lpg_jax.checks import check_choice, check_counts, check_number
from lpg_jax.statistics import ClassStats, safe_divide

Split: TypeAlias = Callable[[ClassStats], jax.Array]

TIE = 1e-5
ROUNDING = 1e-6  # relative error of a float32 sum, with some to spare


def opposite(split: Split) -> Split:
    """The classes that another split amplifies dampened, and the reverse: the control for the sign of Eq. 18-20 [ours].

    Args:
      split: `ClassStats` -> margin [C].

    Returns:
      A split: `ClassStats` -> -margin [C], with the same magnitudes; classes left alone stay so.

    Raises:
      TypeError: split is no function.

    Example:
      >>> tx = lpg_jax.lpg(opposite(by_accuracy()), lpg_jax.fixed(0.1))
    """
    if not callable(split):
        raise TypeError(f"split={split!r}: must be a split, such as lpg_jax.by_accuracy()")
    return lambda stats: -split(stats)


def by_accuracy(threshold: str | ArrayLike = "mean") -> Split:
    """Amplifies the classes whose running training accuracy is below the threshold (Eq. 18) [paper].

    Args:
      threshold: tau: a number in [0, 1], or "mean" (the paper's "mean" variants) or "median" of the accuracy over
        the classes seen.

    Returns:
      A split: `ClassStats` -> margin [C] = tau - q_c. See the module's table for the edges.

    Raises:
      ValueError: a concrete threshold is outside [0, 1], or NaN, or another word.

    Example:
      >>> split = by_accuracy(0.5)
    """
    _check_threshold(threshold, high=1)

    def split(stats: ClassStats) -> jax.Array:
        return _margin(stats.class_accuracy, stats.class_seen, threshold)

    return split


def by_gradient_variance(threshold: str | ArrayLike = "mean") -> Split:
    """Dampens the classes whose logit gradients scatter most, taken to be the noisy ones (Eq. 20) [paper].

    Symmetric noise makes every class equally noisy: there this split carries no signal about the labels
    (method.md, reading 13), so compare with an equal-norm control.

    Args:
      threshold: tau_v: "mean" [ours] or "median" of Var_c over the classes seen, or a number >= 0.

    Returns:
      A split: `ClassStats` -> margin [C] = tau_v - Var_c.

    Raises:
      ValueError: a concrete threshold is negative, or NaN, or another word.

    Example:
      >>> split = by_gradient_variance("median")
    """
    _check_threshold(threshold)

    def split(stats: ClassStats) -> jax.Array:
        # Var is a small difference of E||h||^2 and ||m||^2: its rounding error is a share of these, not of itself
        square = stats.class_grad_variance + jnp.square(stats.class_grad_norm)
        rounding = ROUNDING * jnp.max(jnp.where(stats.class_variance_seen, square, 0))
        return _margin(stats.class_grad_variance, stats.class_variance_seen, threshold, rounding)

    return split


def by_frequency(
    class_counts: Sequence[float] | ArrayLike, threshold: str | ArrayLike = 0.5, scale: str = "log"
) -> Split:
    """Amplifies the rare classes and dampens the frequent ones (Eq. 19) [paper]; acts from the first step.

    Args:
      class_counts: [C] number of training examples N_c of each class, all > 0.
      threshold: tau in [0, 1] on the chosen scale, or "median" or "mean" of the scaled counts.
      scale: s_c is "log": (log N_c - log N_min) / (log N_max - log N_min), "max": N_c / N_max or
        "share": N_c / N [ours: raw counts would make Eq. 21 meaningless].

    Returns:
      A split: `ClassStats` -> margin [C] = tau - s_c; it needs no statistics.

    Raises:
      ValueError: a count is zero, negative or not finite; a concrete threshold is outside [0, 1]; another scale.
        At `init`: the number of counts is not the number of classes.

    Example:
      >>> split = by_frequency([500, 50, 5])  # margins -0.5, 0, 0.5
    """
    check_choice("scale", scale, ("log", "max", "share"))
    _check_threshold(threshold, high=1)
    counts = check_counts(class_counts, "split")
    statistic = _scaled_counts(counts, scale)

    def split(stats: ClassStats) -> jax.Array:
        accuracy = stats.class_accuracy
        if accuracy.shape != counts.shape:
            raise ValueError(f"class_counts.shape={counts.shape}: must be {accuracy.shape}, one count per class")
        if statistic is None:
            return jnp.zeros_like(accuracy)
        return _margin(jnp.asarray(statistic, accuracy.dtype), jnp.ones(counts.shape, bool), threshold)

    return split


def _scaled_counts(counts: np.ndarray, scale: str) -> np.ndarray | None:
    """s_c on the scale; None if all counts are equal."""
    low, high = counts.min(), counts.max()
    if low == high:
        return None
    if scale == "log":
        return (np.log(counts) - np.log(low)) / (np.log(high) - np.log(low))
    return counts / (high if scale == "max" else counts.sum())


def _check_threshold(threshold: str | ArrayLike, high: float = np.inf) -> None:
    if isinstance(threshold, str):
        if threshold not in ("mean", "median"):
            raise ValueError(f"threshold={threshold!r}: must be 'mean', 'median' or a number")
    else:
        check_number("threshold", threshold, low=0, high=high)
        if np.ndim(threshold):
            raise ValueError(f"threshold.shape={np.shape(threshold)}: must be a single number")


def _margin(
    statistic: jax.Array, exists: jax.Array, threshold: str | ArrayLike, rounding: ArrayLike = 0.0
) -> jax.Array:
    """tau - s_c [C], with ties and classes without a statistic at exactly 0; rounding: absolute error of s_c."""
    if isinstance(threshold, str):
        tau = _masked_mean(statistic, exists) if threshold == "mean" else _masked_median(statistic, exists)
    else:
        tau = jnp.asarray(threshold, statistic.dtype)
    tie = jnp.abs(statistic - tau) <= TIE * jnp.maximum(jnp.abs(tau), jnp.abs(statistic)) + rounding
    return jnp.where(exists & ~tie, tau - statistic, 0)


def _masked_mean(values: jax.Array, exists: jax.Array) -> jax.Array:
    total = jnp.sum(jnp.where(exists, values, 0))
    return safe_divide(total, jnp.sum(exists, dtype=values.dtype))


def _masked_median(values: jax.Array, exists: jax.Array) -> jax.Array:
    """Median over the entries that exist (the mean of the middle two); 0 if there are none."""
    ordered = jnp.sort(jnp.where(exists, values, jnp.inf))
    number = jnp.sum(exists)
    upper = ordered[jnp.minimum(number // 2, values.size - 1)]
    lower = ordered[jnp.maximum((number - 1) // 2, 0)]
    return jnp.where(number > 0, (lower + upper) / 2, 0)
