"""Long-tailed subsets of a balanced training set (methods of Cao et al. 2019, the CIFAR-LT protocol)."""

import math

import numpy as np


def longtail_counts(max_count: int, num_classes: int, imbalance: float, kind: str = "exponential") -> np.ndarray:
    """Class counts of the CIFAR-LT protocol [paper, section 6 of its protocol; LDAM-DRW].

    exponential: n_c = int(n_max mu^(c / (C - 1))); step: n_max for the first half of the classes (the larger
    half if C is odd), int(n_max mu) for the rest; mu = 1 / imbalance. Class 0 is the head.

    Args:
      max_count: n_max, examples of the head class, > 0.
      num_classes: C, > 0.
      imbalance: n_max / n_min, >= 1.
      kind: "exponential" or "step".

    Returns:
      int64 [C], non-increasing, every entry >= 1.

    Raises:
      ValueError: an argument out of range, or an imbalance that leaves a class without an example.

    Edge cases:
      | case                  | result                                                            |
      |-----------------------|-------------------------------------------------------------------|
      | imbalance = 1         | n_max everywhere                                                  |
      | num_classes = 1       | [n_max]                                                           |
      | n_max / imbalance < 1 | ValueError naming the class and the largest possible imbalance    |

    Example:
      >>> longtail_counts(5000, 10, 100.0).tolist()
      [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    if max_count < 1 or num_classes < 1:
        raise ValueError(f"max_count={max_count}, num_classes={num_classes}: both must be >= 1")
    if not (imbalance >= 1 and math.isfinite(imbalance)):
        raise ValueError(f"imbalance={imbalance}: must be >= 1 and finite")
    position = np.arange(num_classes) / max(num_classes - 1, 1)
    if kind == "step":
        position = (np.arange(num_classes) >= num_classes / 2).astype(float)
    elif kind != "exponential":
        raise ValueError(f"imbalance_kind={kind!r}: must be 'exponential' or 'step'")
    # The published integers are those of exact arithmetic: 49 * (1 / 49) must not become int(0.999...) = 0.
    counts = np.floor(max_count * imbalance**-position + 1e-6).astype(np.int64)
    if counts[-1] < 1:
        empty = int(np.argmin(counts >= 1))
        raise ValueError(
            f"imbalance={imbalance}: class {empty} would have no example; must be <= {max_count}, the count of class 0"
        )
    return counts


def proportional_counts(counts: np.ndarray, total: int) -> np.ndarray:
    """Class counts that sum to `total`, in proportion to others: the method of largest remainders.

    Args:
      counts: int [C], >= 0.
      total: in [0, counts.sum()].

    Returns:
      int64 [C], none above its count.

    Example:
      >>> proportional_counts([50, 30, 21], 10).tolist()
      [5, 3, 2]
    """
    shares = np.asarray(counts, np.int64) * total / np.sum(counts)
    whole = np.floor(shares).astype(np.int64)
    largest = np.argsort(whole - shares, kind="stable")[: total - whole.sum()]
    whole[largest] += 1
    return whole


def longtail_subset(labels: np.ndarray, counts: np.ndarray, seed) -> np.ndarray:
    """Picks `counts[c]` examples of every class c at random.

    A class's examples are shuffled once and the first `counts[c]` taken, so that for one seed a more imbalanced
    subset lies within a less imbalanced one.

    Args:
      labels: int [N], in [0, C).
      counts: int [C], how many examples to keep of each class.
      seed: anything `np.random.default_rng` takes.

    Returns:
      int64 [sum(counts)], increasing positions in `labels`.

    Raises:
      ValueError: a class with fewer examples than asked for.

    Example:
      >>> longtail_subset(np.array([0, 0, 0, 1, 1]), np.array([3, 2]), seed=0).tolist()
      [0, 1, 2, 3, 4]
    """
    rng = np.random.default_rng(seed)
    picked = []
    for c, count in enumerate(counts):
        members = rng.permutation(np.flatnonzero(labels == c))
        if len(members) < count:
            raise ValueError(f"counts[{c}]={count}: class {c} has only {len(members)} examples")
        picked.append(members[:count])
    return np.sort(np.concatenate(picked))


def stratified_split(labels: np.ndarray, fraction: float, seed) -> tuple[np.ndarray, np.ndarray]:
    """Holds out the same fraction of every class, rounded to the nearest count but never a whole class.

    The counts depend on `labels` only through the class counts and on `seed` not at all (scikit-learn's stratified
    split breaks ties at random), so that several seeds give arrays of one shape.

    Args:
      labels: int [N], in [0, C).
      fraction: in [0, 1).
      seed: anything `np.random.default_rng` takes.

    Returns:
      (rest, held): increasing positions, together 0..N-1, both int64. A class with one example stays in `rest`.

    Example:
      >>> rest, held = stratified_split(np.array([0] * 10 + [1] * 1), 0.3, seed=0)
      >>> len(rest), len(held)
      (8, 3)
    """
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == c))
        held[members[: min(math.floor(fraction * len(members) + 0.5), len(members) - 1)]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)
