"""Propositions 1 and 2 on trained heads.

All at the parameters that "lpg" ended with, but the lpl_ ones, of the perturbations of "lpg-mean", the reading that
turns gradients, at those before its first step (_start) and after its last (_end).

| name | what |
|---|---|
| duality_order | slope of log ||d_exact - d_first|| over log ||delta||, for random logit shifts (Eq. 23: 2) |
| duality_exact | relative error of the parameter gradient of LPG with d = softmax(z + delta) - softmax(z) for LPL's |
| lpl_unturned | mean over examples of 1 - cos^2 of h + d and the nearest gradient that a shift of its logits gives |
| lpl_unreached_by_class | share of ||d||^2 out of reach, to first order, of shifts that a class shares, as LPL's |
| bound_total | right side of Eq. 24 with the 0-1 loss, lambda 0, beta 0.05 |
| bound_slack | bound_total minus the 0-1 loss on the test set, its classes weighted as in training |
| gap_rank | Spearman's rank correlation over bounds eps, varied: eps, and that loss minus the one on the training set |

The bound is for Gaussians of standard deviation 0.05 around the parameters at the start (the prior, in which no example
has a part) and at the end (the posterior); losses are means over 50 draws from the latter.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import optimize, stats

import lpg_jax
from evidence.trained import Model
from lpg_jax import analysis
from lpg_jax.analysis import bound, duality
from lpg_jax.training import lpg_preset

SIZES = (0.4, 0.2, 0.1, 0.05)  # of logit shifts
STDDEV, BETA, DRAWS = 0.05, 0.05, 50
EXAMPLES = 1000  # of the training set, for the measures of single examples


def duality_order(logits: jax.Array, key: jax.Array) -> float:
    """See the module's table."""
    direction = jax.random.normal(key, logits.shape)
    direction = direction / jnp.linalg.norm(direction, axis=-1, keepdims=True)
    errors = []
    for size in SIZES:
        difference = duality.exact(logits, size * direction) - duality.first_order(logits, size * direction)
        errors.append(jnp.mean(jnp.linalg.norm(difference, axis=-1)))
    return float(np.polyfit(np.log(SIZES), np.log(errors), 1)[0])


def duality_exact(model: Model, inputs: jax.Array, labels: jax.Array, key: jax.Array) -> float:
    """See the module's table."""
    number = model.trained.facts.num_classes
    shift = 0.5 * jax.random.normal(key, (number, number))
    loss_fn = lpg_jax.perturbed(lpg_jax.losses.cross_entropy, analysis.lpl_as_lpg(shift))
    tx_state = analysis.lpl_as_lpg(shift).init(jnp.zeros(number))

    def shifted(params: Any) -> jax.Array:
        logits, _ = model.trained.apply(params, inputs)
        return jnp.mean(lpg_jax.losses.cross_entropy(logits + shift[labels], labels))

    def edited(params: Any) -> jax.Array:
        logits, _ = model.trained.apply(params, inputs)
        return jnp.mean(loss_fn(logits, labels, tx_state)[0])

    pairs = [jax.tree.leaves(jax.grad(each)(model.trained.params)) for each in (shifted, edited)]
    off, size = (
        sum(float(jnp.sum(jnp.square(value))) for value in values)
        for values in ([a - b for a, b in zip(*pairs, strict=True)], pairs[0])
    )
    return (off / size) ** 0.5


def lpl_differs(model: Model, params: Any) -> tuple[float, float]:
    """(unturned, unreached by class); see the module's table."""
    inputs, labels = (array[:EXAMPLES] for array in model.train)
    logits, _ = model.trained.apply(params, inputs)
    made = lpg_preset.from_config(model.trained.config.lpg, model.trained.facts.class_counts)
    tx = optax.with_extra_args_support(made)
    # the loss's own rows: those of a softmax minus one-hot are mere rounding where an example is learnt
    rows = jax.grad(lambda z: jnp.sum(lpg_jax.losses.cross_entropy(z, labels)))(logits)
    edited: Any = tx.update(rows, tx.init(jnp.zeros(logits.shape[-1])), None, labels=labels, logits=logits)[0]
    change = np.asarray(edited - rows, np.float64)
    _, residual = duality.shared_shift(np.asarray(logits), np.asarray(labels), change)
    by_class = float(np.sum(residual**2) / np.sum(change**2))
    return float(np.mean(unturned(np.asarray(edited), np.asarray(labels)))), by_class


def unturned(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """[n] 1 - cos^2 of rows [n, C] and the nearest direction of the logit gradient of a shifted example; 0 for rows 0.

    That gradient is q - e_y with a q of the simplex, so its directions are sums of e_j - e_y with weights >= 0.

    >>> rows = np.array([[-3.0, 2.0, 1.0], [1.0, -1.0, 0.0], [-1.0, 2.0, -1.0]])
    >>> unturned(rows, np.array([0, 0, 0])).round(4)
    array([0.  , 1.  , 0.25])
    """
    found = np.zeros(len(rows))
    for number, (row, label) in enumerate(zip(np.asarray(rows, np.float64), labels, strict=True)):
        steps = np.delete(np.eye(len(row)), label, axis=0) - np.eye(len(row))[label]
        size = np.linalg.norm(row)
        if size > 0:
            found[number] = (optimize.nnls(steps.T, row / size)[1]) ** 2
    return found


def _wrong(model: Model, params: Any) -> Callable[[tuple[jax.Array, jax.Array]], jax.Array]:
    """The 0-1 loss on (inputs, labels), for classes as frequent as in training."""
    counts = np.asarray(model.trained.facts.class_counts)

    def loss(part: tuple[jax.Array, jax.Array]) -> jax.Array:
        share = jnp.bincount(part[1], length=len(counts))
        logits, _ = model.trained.apply(params, part[0])
        weights = (counts / jnp.maximum(share, 1))[part[1]]
        return jnp.average(jnp.argmax(logits, axis=-1) != part[1], weights=weights)

    return loss


def bound_of(model: Model, key: jax.Array) -> tuple[float, float]:
    """(total, slack); see the module's table."""
    first, second = jax.random.split(key)

    counts = np.asarray(model.trained.facts.class_counts)

    def risk(part: tuple[jax.Array, jax.Array], draw: jax.Array) -> jax.Array:
        def wrong(params: Any) -> jax.Array:
            return _wrong(model, params)(part)

        return bound.gibbs_risk(wrong, model.trained.params, STDDEV, draw, DRAWS)

    kl = bound.gaussian_kl(model.trained.params, STDDEV, model.start, STDDEV)
    terms = bound.bound_terms(risk(model.train, first), kl, jnp.zeros(len(counts)), counts, lipschitz=0.0, beta=BETA)
    return float(terms.total), float(terms.total - risk(model.test, second))


def gap_rank(varied: Sequence[tuple[float, Model]]) -> float:
    """Of (eps, what was trained with it); see the module's table. NaN: all have the same gap."""
    gaps = []
    for _, model in varied:
        wrong = _wrong(model, model.trained.params)
        gaps.append(float(wrong(model.test) - wrong(model.train)))
    if np.ptp(gaps) == 0:
        return math.nan
    found: Any = stats.spearmanr([epsilon for epsilon, _ in varied], gaps)
    return float(found.statistic)


def of_seed(model: Model, turned: Model, seed: int) -> dict[str, float]:
    """Every measure of one seed, of heads trained with "lpg" and "lpg-mean"."""
    keys = jax.random.split(jax.random.key(seed), 3)
    inputs, labels = (array[:EXAMPLES] for array in model.train)
    logits, _ = model.trained.apply(model.trained.params, inputs)
    total, slack = bound_of(model, keys[2])
    found = {
        "duality_order": duality_order(logits, keys[0]),
        "duality_exact": duality_exact(model, inputs, labels, keys[1]),
        "bound_total": total,
        "bound_slack": slack,
    }
    for at, params in (("start", turned.start), ("end", turned.trained.params)):
        found[f"lpl_unturned_{at}"], found[f"lpl_unreached_by_class_{at}"] = lpl_differs(turned, params)
    return found
