"""Test figures: per class first, everything else from there."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from lpg_jax import losses
from lpg_jax.training.batches import Arrays, sequential_order, take
from lpg_jax.training.recipe import Recipe

SCALARS = ("overall", "balanced", "head", "tail", "nll")


class Score(NamedTuple):
    """Additive figures of one model on one part of the data."""

    hits: jax.Array  # [C] int32, examples of the class that were predicted right
    count: jax.Array  # [C] int32, examples of the class
    nll: jax.Array  # [] sum of -log p_y, in nats


def score(recipe: Recipe, params: Any, batch_stats: Any, arrays: Arrays) -> Score:
    """Scores one model (vmap for an axis of seeds) on all of `arrays`, batch by batch."""
    num_classes = recipe.facts.num_classes

    def of_batch(index: jax.Array) -> Score:
        batch = take(recipe, arrays, index)
        logits = logits_of(recipe, params, batch_stats, batch.inputs, batch.mask)
        member = (jnp.arange(num_classes) == batch.labels[:, None]) & batch.mask[:, None]
        right = jnp.argmax(logits, axis=-1) == batch.labels
        nll = jnp.where(batch.mask, losses.cross_entropy(logits, batch.labels), 0)
        return Score(jnp.sum(member & right[:, None], axis=0), jnp.sum(member, axis=0), jnp.sum(nll))

    order = jnp.asarray(sequential_order(arrays.labels.shape[0], recipe.batch_size))
    return jax.tree.map(functools.partial(jnp.sum, axis=0), jax.lax.map(of_batch, order))


def logits_of(recipe: Recipe, params: Any, batch_stats: Any, inputs: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Raw logits [B, C] of standardised inputs, in evaluation mode."""
    variables = {"params": params, "batch_stats": batch_stats}
    return recipe.model.apply(variables, inputs, train=False, mask=mask)[0]  # pyright: ignore[reportIndexIssue]


def head_and_tail(class_counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes of the first and of the second half by training count; ties go by index, a middle one to the head.

    >>> head_and_tail(np.array([5, 50, 5, 500]))
    (array([3, 1]), array([0, 2]))
    """
    order = np.argsort(-class_counts, kind="stable")
    half = (len(order) + 1) // 2
    return order[:half], order[half:]


def summarise(score: Score, class_counts: np.ndarray) -> dict[str, Any]:
    """Figures of one seed.

    Args:
      score: sums of one seed.
      class_counts: [C] training counts, which say what is head and tail.

    Returns:
      overall (share of all examples), balanced, head and tail (means of class accuracies), nll (mean, nats) and
      per_class [C]; accuracies in [0, 1]. A class without test example is None and in no mean; neither is a tail of
      no class.
    """
    count = np.asarray(score.count, np.float64)
    there = count > 0
    per_class = np.asarray(score.hits) / np.where(there, count, 1)

    def mean(classes: np.ndarray) -> float | None:
        classes = classes[there[classes]]
        return float(np.mean(per_class[classes])) if len(classes) else None

    head, tail = head_and_tail(class_counts)
    return {
        "overall": float(np.sum(score.hits) / np.sum(count)),
        "balanced": mean(np.arange(len(count))),
        "head": mean(head),
        "tail": mean(tail),
        "nll": float(score.nll) / float(np.sum(count)),
        "per_class": [float(value) if seen else None for value, seen in zip(per_class, there, strict=True)],
    }


def over_seeds(figures: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and under "ci95" the half-widths of their 95 % intervals by Student's t (None for one seed)."""
    means, halves = {}, {}
    for name in (*SCALARS, "per_class"):
        columns = [figure[name] for figure in figures]
        if name == "per_class":
            pairs = [_interval(column) for column in zip(*columns, strict=True)]
            means[name], halves[name] = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        else:
            means[name], halves[name] = _interval(columns)
    return means | {"ci95": halves}


def _interval(values: Any) -> tuple[float | None, float | None]:
    if any(value is None for value in values):
        return None, None
    n = len(values)
    mean = float(np.mean(values))
    if n == 1:
        return mean, None
    return mean, float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
