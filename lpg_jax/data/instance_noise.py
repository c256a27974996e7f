"""Instance-dependent label noise, always from the clean labels."""

from statistics import NormalDist

import numpy as np

from lpg_jax.data.checks import check_labels
from lpg_jax.data.moments import moments, standardise
from lpg_jax.data.noise import draw


def corrupt_by_instance(inputs: np.ndarray, labels: np.ndarray, rate: float, num_classes: int, seed) -> np.ndarray:
    """Instance-dependent noise by random projections of the pixels, after Xia et al. 2020 (part-dependent noise).

    Example i of class y flips with its own probability q_i, to class j != y with softmax_j(x_i . W_y), where x_i is
    standardised per channel and flattened and W_y [D, C] is standard normal. q_i is normal around `rate` with
    deviation 0.1, truncated to [rate - w, rate + w] with w = min(rate, 1 - rate): the window is symmetric [ours; the
    original truncates to [0, 1]], because the mean is then `rate` itself.

    Args:
      inputs: uint8 or float [N, ...].
      labels: clean labels, int [N], in [0, C).
      rate: mean of q_i, in [0, 1].
      num_classes: C >= 2.
      seed: anything `np.random.default_rng` takes.

    Returns:
      int32 [N].

    Raises:
      ValueError: rate outside [0, 1], labels out of range, fewer than 2 classes.

    Example:
      >>> images = np.random.default_rng(0).random((4, 2, 2, 1))
      >>> corrupt_by_instance(images, np.array([0, 1, 0, 1]), 1.0, 2, seed=0).tolist()
      [1, 0, 1, 0]
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate={rate}: must be in [0, 1]")
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: label noise needs at least 2 classes")
    labels = check_labels(labels, num_classes, "labels")
    rng = np.random.default_rng(seed)
    flip_rates = _truncated_normal(rng.random(len(labels)), rate)
    uniform = rng.random(len(labels))
    mean, std = moments(inputs)
    noisy = labels.copy()
    for c in range(num_classes):
        projection = rng.standard_normal((inputs[0].size, num_classes), dtype=np.float32)
        members = np.flatnonzero(labels == c)
        if len(members) > 0:
            features = standardise(inputs[members], mean, std).reshape(len(members), -1)
            targets = _softmax_without(features @ projection, c)
            targets *= flip_rates[members, None]
            targets[:, c] = 1 - flip_rates[members]
            noisy[members] = draw(targets, uniform[members])
    return noisy


def _truncated_normal(uniform: np.ndarray, mean: float, deviation: float = 0.1) -> np.ndarray:
    width = min(mean, 1 - mean)
    if width == 0:
        return np.full(len(uniform), float(mean))
    normal = NormalDist(mean, deviation)
    low, high = normal.cdf(mean - width), normal.cdf(mean + width)
    quantiles = np.array([normal.inv_cdf(low + (high - low) * u) for u in uniform.tolist()])
    return np.clip(quantiles, mean - width, mean + width)


def _softmax_without(scores: np.ndarray, excluded: int) -> np.ndarray:
    scores = scores.astype(np.float64)
    scores[:, excluded] = -np.inf
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)
