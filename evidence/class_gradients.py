"""What the paper says of the gradients of rare and frequent classes (Section 3.2), on heads trained with "ce".

Each at the parameters before the first step (_start) and after the last (_end). Gradients are those of the parameters,
averaged over examples of a class: up to 100 of the training set for `gradient` and `contribution`, those in a batch for
the others. "rare over frequent" is log2 of the mean over the rarer half of the classes over that of the others, so
0: alike, 1: twice as much; classes without an example are left out.

| name | what |
|---|---|
| gradient | norm of the class's gradient, rare over frequent |
| contribution | that times the number of its examples: what the class adds to an epoch, rare over frequent |
| sam | its relative change by SAM (rho 0.05), rare over frequent |
| clip | likewise by clipping the gradient of each class by itself to norm 1: of a whole batch it scales all alike |
| noise | share of the squared change by gradient noise that is one vector, the same for all classes |
| noise_change | the relative change by gradient noise, rare over frequent |
| sam_length, clip_length | the change itself: relative change times the norm of `gradient`, rare over frequent |
"""

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lpg_jax
import probe
from evidence.trained import Model
from lpg_jax import analysis

METHODS = {"sam": "SAM 0.05", "clip": "clip 1", "noise": "noise 0.003"}
BATCHES = 16
EXAMPLES = 100  # of a class, at most, for the norm of its gradient


def of_seed(model: Model, seed: int) -> dict[str, float]:
    """Every measure of one seed; NaN where a method changes no class."""
    found = {}
    for at, params in (("start", model.start), ("end", model.trained.params)):
        norms, counts = _norms(model, params), model.trained.facts.class_counts
        found[f"gradient_{at}"] = rare_over_frequent(norms, counts)
        found[f"contribution_{at}"] = rare_over_frequent(norms * counts, counts)
        for name, value in _changes(model, params, seed, norms).items():
            found[f"{name}_{at}"] = value
    return found


def rare_over_frequent(values: np.ndarray, counts: Sequence[int]) -> float:
    """log2 of the mean over the rarer half of the classes over that of the others; NaN: there is nothing to compare.

    >>> rare_over_frequent(np.array([1.0, 1.0, 4.0, 4.0]), (9, 7, 2, 1))
    2.0
    """
    order = np.argsort(-np.asarray(counts), kind="stable")
    half = (len(order) + 1) // 2
    frequent, rare = np.nanmean(values[order[:half]]), np.nanmean(values[order[half:]])
    return float(np.log2(rare / frequent)) if rare > 0 and frequent > 0 else float("nan")


def _norms(model: Model, params: Any) -> np.ndarray:
    """[C] norms of the gradients of the mean loss over examples of one class."""
    inputs, labels = model.train

    @jax.jit
    def norm(chosen: jax.Array, weights: jax.Array) -> jax.Array:
        def loss(its: Any) -> jax.Array:
            logits, _ = model.trained.apply(its, inputs[chosen])
            return jnp.sum(weights * lpg_jax.losses.cross_entropy(logits, labels[chosen]))

        leaves = jax.tree.leaves(jax.grad(loss)(params))
        return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in leaves))

    found = []
    for label in range(len(model.trained.facts.class_counts)):
        chosen = np.flatnonzero(np.asarray(labels) == label)[:EXAMPLES]
        if not len(chosen):
            found.append(np.nan)
            continue
        weights = np.zeros(EXAMPLES, np.float32)
        weights[: len(chosen)] = 1 / len(chosen)
        found.append(float(norm(np.pad(chosen, (0, EXAMPLES - len(chosen))), weights)))
    return np.array(found)


def _changes(model: Model, params: Any, seed: int, norms: np.ndarray) -> dict[str, float]:
    counts = model.trained.facts.class_counts
    stream = probe.draw_batches(model.trained, BATCHES, seed)[:BATCHES]  # the rest is for methods with a memory
    methods = analysis.standard_methods(counts, list(METHODS.values()))
    results = analysis.probe(lambda its, inputs: model.trained.apply(its, inputs)[0], params, stream, methods)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a class that is in none of the batches is left out
        change = {name: np.nanmean(results[title].parameters.change, axis=0) for name, title in METHODS.items()}
    found = {"noise": float(np.mean(results[METHODS["noise"]].parameters.shared))}
    found["noise_change"] = rare_over_frequent(change["noise"], counts)
    for name in ("sam", "clip"):
        found[name] = rare_over_frequent(change[name], counts)
        found[f"{name}_length"] = rare_over_frequent(change[name] * norms, counts)
    return found
