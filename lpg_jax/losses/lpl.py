"""Logit perturbation learning (LPL): one learnt shift of the logits per class, against or along the gradient.

Source: AAAI 2022 and arXiv 2209.05668 (TNNLS). The forward counterpart of LPG (Eq. 22, 23; `analysis.duality`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from lpg_jax.checks import check_integer, check_scalar, check_shape
from lpg_jax.losses.cross_entropy import cross_entropy
from lpg_jax.losses.inputs import as_membership, check_counts
from lpg_jax.losses.stateful import StatefulLoss, check_inputs, membership, required, summable
from lpg_jax.statistics import (
    HIGHEST,
    ClassStats,
    ClassSums,
    at_least_float32,
    batch_sums,
    decayed,
    ratios,
    safe_divide,
    zeros,
)

ROUNDING = 1e-4  # steps: 0.3 / 0.1 is three of them, though it is 2.99... in floating point


class LplState(NamedTuple):
    """State of `lpl`; the same on every device."""

    sums: ClassSums  # running sums of hits and logit gradients of the base loss, from which the split reads q_c


class _Batch(NamedTuple):
    """A batch flattened to [B, ...]; an example that stays out has logits, rows, weights and soft targets of 0."""

    logits: jax.Array  # [B, C] z
    rows: jax.Array  # [B, C] gradient of the base loss at z
    weights: jax.Array  # [B, C] membership t_ic
    labels: jax.Array  # [B] int or [B, C], as the base loss takes them
    classes: jax.Array | None  # [B] in [0, C], C = stays out; None for soft targets


def lpl(
    split: Callable[[ClassStats], jax.Array],
    bound: Callable[[jax.Array], jax.Array],
    step_size: ArrayLike = 0.01,
    *,
    base: Callable[..., jax.Array] = cross_entropy,
    decay: ArrayLike = 0.99,
    dense_limit: int = 4096,
) -> StatefulLoss:
    """LPL: the loss at z + delta_c, with a shift per class that raises (or lowers) the mean loss of the class.

    From delta_c = 0, K_c = floor(eps_c / step_size) steps over the examples of class c in the batch:

        delta_c <- delta_c + sign_c (step_size / n_c) sum_(j in c) d l(z_j + delta_c, y_j) / dz,

    for cross-entropy (step_size / n_c) sum_j (softmax(z_j + delta_c) - e_c). No sign of the gradient, no projection;
    delta is a constant for the gradient. sign_c = +1 (positive augmentation, the loss rises) where the split's margin
    is > 0, -1 (negative) where it is < 0, 0 (no shift) where it is 0.

    Splits and bounds are those of LPG, so that both methods can be compared on the same ones. The paper's variants:

    | variant | split | bound | step_size |
    |---|---|---|---|
    | mean + fixed | `by_accuracy("mean")` | `fixed(eps)` | 0.01, up to 40 steps |
    | mean + varied | `by_accuracy("mean")` | `varied(eps, slope)`: eps + slope abs(tau - q_c) | likewise |
    | long tail | `lpl_long_tail(counts, num_head, eps, slope)` gives both | | 0.15 (C10), 0.01 (C100) |

    Args:
      split: `ClassStats` -> signed margin [C]; reads running statistics as they stood before the batch.
      bound: margin [C] -> eps_c [C] >= 0, the length of the walk: norm(delta_c) < sqrt 2 eps_c for cross-entropy.
      step_size: alpha > 0, of a single step.
      base: the loss at the shifted logits, such as `logit_adjusted(class_counts)`; without loss_args.
      decay: in [0, 1), of the running sums of a class at each batch that holds it.
      dense_limit: most classes; delta and the statistics are C x C.

    Returns:
      A `StatefulLoss` with state `LplState`. `loss_args(state, logits=, labels=, mask=, axis_name=)` solves for
      {"class_shift": delta [C, C]}, row c the shift of class c; loss(logits, labels, class_shift=) is base at
      z_i + sum_c t_ic delta_c. With axis_name the batch of all shards is gathered, and every device finds the same
      shift; under jit over a sharded batch leave it None. Micro-batches have shifts of their own. Memory O(B C + C^2).

    Raises:
      ValueError: step_size or decay out of range. At init: more classes than dense_limit. At loss_args: logits or
        labels missing, shapes that do not fit.
      TypeError: split, bound or base is no function.

    The public code divides rows by column norms, moves classes that are absent and steps twice per iteration; this
    does not. The accuracy q_c is that of the raw logits. The steps are counted to the next integer within 1e-4 [ours].

    | edge case | result |
    |---|---|
    | eps_c < step_size, margin 0, a class never seen (accuracy split) | shift 0, the base loss to the bit |
    | class absent from the batch | shift 0, statistics bit-identical |
    | soft labels t | shift sum_c t_ic delta_c; the sum over j and n_c are weighted by t_jc [ours] |
    | label outside [0, C), row with NaN or inf, masked | out of the class mean and the statistics |
    | every example masked | shift 0, state bit-identical |
    | a logit of -inf | p = 0 there, shifted or not |

    Example:
      >>> loss = lpl(lpg_jax.by_frequency([50, 5]), lpg_jax.fixed(0.5), step_size=0.1)
      >>> logits, labels = jnp.zeros((2, 2)), jnp.array([0, 1])
      >>> args = loss.loss_args(loss.init(2), logits=logits, labels=labels)
      >>> np.asarray(loss(logits, labels, **args), np.float64).round(3).tolist()  # plain: log 2 = 0.693
      [0.492, 1.007]
    """
    for name, function in (("split", split), ("bound", bound), ("base", base)):
        if not callable(function):
            raise TypeError(f"{name}={function!r}: must be a function, such as lpg_jax.by_accuracy() or .fixed(0.3)")
    check_scalar("step_size", step_size, above=0)
    check_scalar("decay", decay, low=0, below=1)
    check_integer("dense_limit", dense_limit, low=1)

    def init(num_classes: int, num_features: int | None = None, dtype: Any = jnp.float32) -> LplState:
        del num_features
        if num_classes > dense_limit:
            raise ValueError(f"num_classes={num_classes}: lpl's shifts are C x C; raise dense_limit={dense_limit}")
        return LplState(zeros(num_classes, at_least_float32(dtype), dense=True))

    def loss(logits: jax.Array, labels: jax.Array, *, class_shift: jax.Array) -> jax.Array:
        return base(_shifted(logits, labels, class_shift), labels)

    def loss_args(state: LplState, *, axis_name: Any = None, **inputs: Any) -> dict[str, jax.Array]:
        batch = _everyone(_gather(base, inputs), axis_name)
        stats = ratios(state.sums, keep_mean=False)
        margin = split(stats)
        check_shape("margin of the split", margin, stats.class_accuracy.shape, "the classes of the state")
        check_shape("logits", batch.logits[0], margin.shape, "the classes of the state")
        alpha = jnp.asarray(step_size, batch.logits.dtype)
        steps = jnp.floor(bound(margin).astype(alpha.dtype) / alpha + ROUNDING)
        steps = jnp.where(margin == 0, 0, steps).astype(jnp.int32)
        signed = lax.stop_gradient(jnp.sign(margin).astype(alpha.dtype) * alpha)
        return {"class_shift": _walk(base, batch, signed, steps)}

    def sums(state: LplState, **inputs: Any) -> ClassSums:
        batch = _gather(base, inputs)
        square = jnp.sum(jnp.square(batch.rows), axis=-1)
        new = batch_sums(batch.rows, square, batch.weights, batch.logits, batch.classes, norms_of_sums=None)
        return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), new, state.sums)

    return StatefulLoss(loss, init, loss_args, sums, lambda state, sums: LplState(decayed(state.sums, sums, decay)))


def lpl_long_tail(
    class_counts: Sequence[float] | ArrayLike, num_head: int, epsilon: ArrayLike, slope: ArrayLike
) -> tuple[Callable[[ClassStats], jax.Array], Callable[[jax.Array], jax.Array]]:
    """LPL's split and bound for long tails: the loss of head classes is lowered, that of tail classes raised.

    eps_c = epsilon + slope n_c / n_max for the head, epsilon + slope n_min / n_c for the tail: the walk is longest for
    the most frequent and for the rarest class.

    Args:
      class_counts: [C] training examples n_c of each class, > 0, in any order.
      num_head: the so many most frequent classes are the head (ties: the lower index first); 4 for CIFAR-10-LT, 40
        for CIFAR-100-LT.
      epsilon: >= 0.
      slope: >= 0.

    Returns:
      (split, bound) for `lpl(*lpl_long_tail(...), step_size)`; the margin is -1 for the head, 1 for the tail. They
      serve `lpg` as well.

    Raises:
      ValueError: a count that is not > 0; num_head outside [0, C]; epsilon or slope negative.

    Example:
      >>> split, bound = lpl_long_tail([100, 20, 10], num_head=1, epsilon=0.1, slope=0.2)
      >>> bound(jnp.array([-1.0, 1.0, 1.0]))
      Array([0.3, 0.2, 0.3], dtype=float32)
    """
    counts = check_counts(class_counts)
    check_integer("num_head", num_head, low=0)
    check_scalar("num_head", num_head, high=counts.size)
    check_scalar("epsilon", epsilon, low=0)
    check_scalar("slope", slope, low=0)
    head = np.isin(np.arange(counts.size), np.argsort(-counts, kind="stable")[:num_head])
    share = np.where(head, counts / counts.max(), counts.min() / counts)

    def split(stats: ClassStats) -> jax.Array:
        check_shape("class_counts", counts, stats.class_accuracy.shape, "the number of classes")
        return jnp.asarray(np.where(head, -1, 1), stats.class_accuracy.dtype)

    def bound(margin: jax.Array) -> jax.Array:
        return jnp.asarray(epsilon, margin.dtype) + jnp.asarray(slope, margin.dtype) * jnp.asarray(share, margin.dtype)

    return split, bound


def _shifted(logits: jax.Array, labels: jax.Array, class_shift: jax.Array) -> jax.Array:
    """z_i + sum_c t_ic delta_c; a label outside [0, C) has no shift."""
    check_shape("class_shift", class_shift, (logits.shape[-1], logits.shape[-1]), "logits")
    logits, weights = as_membership(logits, labels)
    return logits + jnp.matmul(weights, class_shift.astype(logits.dtype), precision=HIGHEST)


def _gather(base: Callable[..., jax.Array], inputs: dict[str, Any]) -> _Batch:
    """The examples that take part, and their logit gradients at z."""
    logits = lax.stop_gradient(required(inputs, "logits"))
    labels, there = check_inputs(inputs, logits.shape)
    logits = logits.reshape(-1, logits.shape[-1]).astype(at_least_float32(logits.dtype))
    logits = jnp.where(there[:, None], logits, 0)
    labels = _keep_targets(labels, there)
    rows = _rows(base, logits, labels)
    takes_part = there & summable(rows)
    weights, classes = membership(labels, logits.shape[-1], takes_part, logits.dtype)
    takes_part = jnp.any(weights > 0, axis=-1)
    logits, rows = (jnp.where(takes_part[:, None], values, 0) for values in (logits, rows))
    return _Batch(logits, rows, weights, _keep_targets(labels, takes_part), classes)


def _keep_targets(labels: jax.Array, there: jax.Array) -> jax.Array:
    return jnp.where(there[:, None], labels, 0) if labels.ndim == 2 else labels


def _rows(base: Callable[..., jax.Array], logits: jax.Array, labels: jax.Array) -> jax.Array:
    """d l_i / d z_i [B, C]."""
    return jax.grad(lambda z: jnp.sum(base(z, labels)))(logits)


def _everyone(batch: _Batch, axis_name: Any) -> _Batch:
    """The batch of all shards; by a sum, after which `shard_map` knows it to be the same on every device."""
    if axis_name is None:
        return batch
    size, own = lax.axis_size(axis_name), lax.axis_index(axis_name)

    def spread(values: jax.Array) -> jax.Array:
        everywhere = jnp.zeros((size, *values.shape), values.dtype).at[own].set(values)
        return lax.psum(everywhere, axis_name).reshape(-1, *values.shape[1:])

    return jax.tree.map(spread, batch)


def _walk(base: Callable[..., jax.Array], batch: _Batch, signed: jax.Array, steps: jax.Array) -> jax.Array:
    """delta [C, C] after steps [C] (int) steps of signed [C] = sign_c alpha; classes that are done rest."""
    weights, count = batch.weights, jnp.sum(batch.weights, axis=0)

    def move(k: jax.Array, delta: jax.Array) -> jax.Array:
        rows = _rows(base, batch.logits + jnp.matmul(weights, delta, precision=HIGHEST), batch.labels)
        mean = safe_divide(jnp.matmul(weights.T, rows, precision=HIGHEST), count[:, None])
        return jnp.where((k < steps)[:, None], delta + signed[:, None] * mean, delta)

    none = jnp.zeros((signed.size, signed.size), batch.logits.dtype)
    return lax.fori_loop(0, jnp.max(steps), move, none)
