"""LPG in closed form (Eq. 9, 13-15): the logit gradients of a class are lengthened or shortened by eps_c."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from lpg_jax.bounds import Bound
from lpg_jax.checks import check_choice, check_number
from lpg_jax.splits import Split
from lpg_jax.statistics import HIGHEST, ClassStats, everyone, present_classes, safe_divide, unit_and_norm
from lpg_jax.transforms.class_level import DENSE_LIMIT, Batch, Delta, Schedule, class_level
from lpg_jax.transforms.class_means import batch_mean_norms, class_means

DIRECTIONS = ("sample", "class_mean", "class_scale")


def lpg(
    split: Split,
    bound: Bound,
    *,
    direction: str = "sample",
    source: str = "batch",
    clamp: bool = True,
    refresh_every: int = 1,
    decay: ArrayLike = 0.99,
    warmup: ArrayLike = 0,
    max_scale: ArrayLike = 10.0,
    dense_limit: int = DENSE_LIMIT,
) -> optax.GradientTransformationExtraArgs:
    """LPG in closed form: lengthens or shortens the logit gradients of a class by eps_c (Eq. 9, 13-15).

    Which classes, and by how much, is decided from the statistics as they stood before the batch: `split` gives a
    signed margin per class (> 0 amplify, < 0 dampen, 0 leave alone), `bound` turns it into eps_c.

    | direction | h~_i for an example of class c | source |
    |---|---|---|
    | "sample" | h_i (1 +/- eps_c / norm(h_i)): a per-example re-weighting, never rotates | [ours], default |
    | "class_mean" | h_i +/- eps_c m_c / norm(m_c): one vector for the class, rotates h_i | Eq. 9 [paper] |
    | "class_scale" | h_i (1 +/- eps_c / norm(m_c)): a per-class re-weighting | Eq. 15 [paper] |

    Args:
      split: `ClassStats` -> signed margin [C]: `by_accuracy()`, `by_frequency(...)`, `by_gradient_variance()` or any
        function like them.
      bound: margin [C] -> eps [C]: `fixed(epsilon)` or `varied(epsilon, slope)`; in units of the un-reduced
        per-example logit gradient, whose norm is below sqrt 2 for cross-entropy.
      direction: see the table.
      source: m_c is the mean over the "batch" or the "running" mean; "sample" uses neither.
      clamp: dampening takes min(eps_c, norm), so that it never flips a sign; False is the literal Eq. 14.
      refresh_every: R = 1 updates the statistics at every step; R > 1 sums R steps (Algorithm 1: an epoch), then
        recomputes statistics, margins and bounds from that window alone.
      decay: in [0, 1), of the running sums, S <- decay S + (1 - decay) S_batch for the classes present; unused
        with refresh_every > 1.
      warmup: number of steps during which every margin is 0, while statistics are kept.
      max_scale: >= 1, cap of the absolute factor of "class_scale", because eps_c / norm(m_c) has no bound.
      dense_limit: up to this many classes the state keeps m_c [C, C]; above it scalars per class, see
        `ClassSums`, and means are formed for the classes in the batch only.

    Returns:
      An `optax.GradientTransformationExtraArgs`. `init(jnp.zeros(C))` takes a template of one row (its dtype, at least
      float32, is that of the statistics). `update(rows, state, None, labels=, logits=, mask=None, class_labels=None,
      axis_name=None)` takes un-reduced logit gradients [..., C] and returns them edited, in their dtype, with the new
      `LpgState`:
        labels: int [...], or float membership [..., C] whose rows sum to 1 (mixup): h~_i = h_i + sum_c t_ic d_ic.
        logits: [..., C], the model's raw logits, for the accuracy.
        mask: [...], 0 = not there.
        class_labels: int [...], classes of examples whose `labels` are smoothed targets.
        axis_name: mapped axis (pmap, shard_map, vmap) over which the batch is sharded; None under jit.
      `class_table(state)` shows which classes are amplified and by how much; `optax.tree_utils.tree_get(state, name)`
      finds "class_margin", "class_epsilon", "class_accuracy", "class_grad_variance".

    Raises:
      ValueError: at construction: an unknown direction or source, decay outside [0, 1), refresh_every < 1,
        warmup < 0, max_scale < 1, dense_limit < 0. At init: a template without classes, class_counts of another
        length, source="running" and "class_mean" above dense_limit. At update: labels or logits missing, shapes that
        do not fit, membership that does not sum to 1 (concrete values).
      TypeError: split or bound is no function.

    Guarantees: ||h~_i - h_i|| <= eps_c per row for clamped "sample" and "class_mean"; for "class_scale" with source
    "batch" and integer labels the class mean moves by at most eps_c; rows keep sum_j h_ij; nothing depends on how the
    loss is reduced.

    | edge case | result |
    |---|---|
    | eps 0, or a margin of 0 everywhere | rows bit-identical |
    | dampening with eps > norm | the row ("sample") or class mean becomes 0, never negative (clamp=True) |
    | h = 0 ("sample") or m_c = 0 | left alone |
    | class absent from the batch | its statistics stay bit-identical |
    | class never seen | margin 0 with `by_accuracy` and `by_gradient_variance`; `by_frequency` acts at once |
    | one class only | margin 0 with a "mean" or "median" threshold |
    | B = 1 | the three directions coincide (below max_scale) |
    | C = 2 | nothing special |
    | every example masked | rows 0; statistics bit-identical, the step counts |
    | all counts equal; ties | margin 0 |
    | label outside [0, C) | row passes unchanged, stays out of the statistics |
    | row with NaN or inf, or so large that its square may overflow a sum (norm > 1e15) | likewise |
    | features or a class mean that are not finite (`lpg_pgd`) | the class is left alone |
    | masked row, whatever it holds | row 0, stays out of the statistics |
    | float16, bfloat16 rows | computed and summed in float32, returned in their dtype |
    | one-hot float labels | equal to integer labels to rounding |
    | soft labels (mixup) | sum_c t_ic d_ic, each d_ic clamped as for a hard label; sums are weighted |
    | a class seen once | Var_c = 0: one example has no spread; `warmup` helps |
    | above dense_limit, under axis_name | the pairs behind Var_c are those within a shard: equal in expectation |
    | negative or NaN eps or slope, threshold out of range, a count of 0 | ValueError at construction (traced: passes) |
    | class_counts or eps of the wrong length | ValueError at init |
    | scheduled eps or slope; threshold | acts at its own step; from the next step on |

    Curricula: wrap a factory in `optax.inject_hyperparams`, which takes a number or an optax schedule for each of its
    named arguments (every function counts as a schedule: build split and bound inside). Update number t = 0, 1, ...
    since `init` (steps, not epochs; a batch in micro-batches is one) acts with eps(t) and slope(t); the margins that it
    leaves, under tau(t), act at t + 1. The state shows the values of the last update, under "hyperparams".

    Example:
      >>> tx = lpg(by_frequency([500, 50, 5]), fixed(0.3))
      >>> state = tx.init(jnp.zeros(3))
      >>> logits, labels = jnp.zeros((2, 3)), jnp.array([0, 2])
      >>> rows = jax.nn.softmax(logits) - jax.nn.one_hot(labels, 3)
      >>> edited, state = tx.update(rows, state, None, labels=labels, logits=logits)
      >>> jnp.linalg.norm(edited, axis=-1) - jnp.linalg.norm(rows, axis=-1)  # frequent class 0, rare class 2
      Array([-0.3,  0.3], dtype=float32)
      >>> def factory(epsilon, slope, threshold):
      ...     return lpg(by_accuracy(threshold), varied(epsilon, slope))
      >>> tx = optax.inject_hyperparams(factory)(
      ...     epsilon=optax.linear_schedule(0.0, 0.3, 1000), slope=0.2, threshold=optax.linear_schedule(0.25, 0.75, 900)
      ... )
      >>> optax.tree_utils.tree_get(tx.init(jnp.zeros(3)), "hyperparams")["threshold"]
      Array(0.25, dtype=float32)
    """
    check_choice("direction", direction, DIRECTIONS)
    check_number("max_scale", max_scale, low=1)
    check_choice("clamp", clamp, (True, False))

    def displace(batch: Batch, sign: jax.Array, epsilon: jax.Array, stats: ClassStats, params: Any) -> Delta:
        del params
        sign, epsilon = sign.astype(batch.rows.dtype), epsilon.astype(batch.rows.dtype)
        if direction == "sample":
            return along_sample(batch, sign, epsilon, clamp)
        if direction == "class_mean":
            return along_class_mean(batch, sign, epsilon, clamp, stats, source)
        norms = batch_mean_norms(batch) if source == "batch" else stats.class_grad_norm.astype(batch.rows.dtype)
        factor = 1 + safe_divide(signed_length(sign, epsilon, norms, clamp), norms)
        limit = jnp.asarray(max_scale, factor.dtype)
        factor = jnp.clip(factor, -limit, limit)
        return batch.rows * batch.of(factor - 1)[:, None]

    schedule = Schedule(source, refresh_every, decay, warmup, dense_limit)
    return class_level(split, bound, displace, schedule, mean_above_limit=direction != "class_mean")


def signed_length(sign: jax.Array, epsilon: jax.Array, norm: jax.Array, clamp: bool) -> jax.Array:
    """Change of length: +eps (Eq. 13), or -eps (Eq. 14), which the clamp keeps from overshooting (reading 3)."""
    return jnp.where(sign < 0, -jnp.minimum(epsilon, norm), sign * epsilon) if clamp else sign * epsilon


def shift(vectors: jax.Array, unit: jax.Array, norm: jax.Array, length: jax.Array) -> jax.Array:
    """length * unit, and exactly -vectors where all of the norm is taken away."""
    return jnp.where(length == -norm, -vectors, length * unit)


def along_sample(batch: Batch, sign: jax.Array, epsilon: jax.Array, clamp: bool) -> jax.Array:
    """Each row along its own direction: h~_i = h_i (1 +/- eps_c / ||h_i||)."""
    if batch.labels is None:
        lengths = signed_length(sign[None], epsilon[None], batch.norm, clamp)
        length = jnp.sum(batch.membership * lengths, axis=-1, keepdims=True)
    else:
        length = signed_length(batch.of(sign)[:, None], batch.of(epsilon)[:, None], batch.norm, clamp)
    return shift(batch.rows, batch.unit, batch.norm, length)


def along_class_mean(
    batch: Batch, sign: jax.Array, epsilon: jax.Array, clamp: bool, stats: ClassStats, source: str
) -> Delta:
    """One vector for the whole class: h~_i = h_i +/- eps_c m_c / ||m_c|| (Eq. 9)."""
    if batch.sums.gradient is None and batch.labels is None:
        return _along_soft_mean(batch, sign, epsilon, clamp)
    if batch.sums.gradient is None and batch.axis_name is None:
        return _along_mean_of_block(batch, sign, epsilon, clamp)
    means = class_means(batch, stats, source)
    unit, norm = unit_and_norm(means.mean)
    length = signed_length(means.of(sign)[:, None], means.of(epsilon)[:, None], norm, clamp)
    return means.spread(shift(means.mean, unit, norm, length), batch)


def _along_mean_of_block(batch: Batch, sign: jax.Array, epsilon: jax.Array, clamp: bool) -> Delta:
    """The same above dense_limit: the sums of a class over a block of columns, when it is the block's turn."""
    assert batch.labels is not None
    norm = batch_mean_norms(batch)
    per_sum = safe_divide(signed_length(sign, epsilon, norm, clamp), norm * batch.sums.count)
    classes, place = present_classes(batch.labels, batch.rows.shape[-1])
    factor = batch.of(per_sum)[:, None, None]

    def shift_of(rows: jax.Array) -> jax.Array:
        return factor * jax.ops.segment_sum(rows, place, num_segments=len(classes))[place]

    return shift_of


def _along_soft_mean(batch: Batch, sign: jax.Array, epsilon: jax.Array, clamp: bool) -> jax.Array:
    """The same above dense_limit for soft targets: sum_c t_ic d_c = sum_j w_ij h_j with w [B, B]."""
    rows, membership = everyone(batch.rows, batch.axis_name), everyone(batch.membership, batch.axis_name)
    norm = batch_mean_norms(batch)
    scale = safe_divide(signed_length(sign, epsilon, norm, clamp), norm * batch.sums.count)
    weights = jnp.matmul(batch.membership * scale[None], membership.T, precision=HIGHEST)
    return jnp.matmul(weights, rows, precision=HIGHEST)
