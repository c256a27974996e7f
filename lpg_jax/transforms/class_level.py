"""The engine shared by class-level transformations: state, statistics, split and bound around a displacement rule.

`closed_form.py` and `pgd.py` say how rows are displaced, given the sign and bound of each class; this file says which
rows take part, keeps the statistics and turns them into signs and bounds for the next batch.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from lpg_jax import statistics
from lpg_jax.bounds import Bound
from lpg_jax.checks import check_choice, check_integer, check_labels, check_number, check_shape
from lpg_jax.class_blocks import edit_blocks
from lpg_jax.splits import Split
from lpg_jax.statistics import (
    HIGHEST,
    ClassStats,
    ClassSums,
    Commit,
    Uncommitted,
    at_least_float32,
    total,
    unit_and_norm,
)

DENSE_LIMIT = 4096


class LpgState(NamedTuple):
    """State of `lpg` and `lpg_pgd`. `update` applies the margins of the state that it is handed, under the bound as it
    is at that step; the new state shows the margins of the next step, and the bound of this one."""

    step: jax.Array  # [] int32, number of updates so far
    sums: ClassSums  # running sums; with refresh_every > 1 the plain sums of the open window
    stats: ClassStats  # class_accuracy, class_grad_variance, ... as read by the split
    class_margin: jax.Array  # [C] signed margin: > 0 amplified, < 0 dampened, 0 left alone (as during warm-up)
    class_epsilon: jax.Array  # [C] bound eps_c >= 0; it acts only where the margin is not 0


class Batch(NamedTuple):
    """A batch as a displacement rule sees it, flattened to [B, ...]."""

    rows: jax.Array  # [B, C] h_i, 0 for the rows that stay out
    unit: jax.Array  # [B, C] h_i / ||h_i||, likewise
    norm: jax.Array  # [B, 1] ||h_i||, likewise
    membership: jax.Array  # [B, C] t_ic, 0 for the rows that stay out
    labels: jax.Array | None  # [B] int in [0, C], C = stays out; None for soft targets
    norms_of_sums: jax.Array | None  # [C] ||sum_i t_ic h_i|| of this device's rows; None up to dense_limit
    sums: ClassSums  # of the whole batch, over axis_name
    axis_name: Any  # mapped axis that shards the batch, or None
    extra: Mapping[str, Any]  # further keyword arguments of update

    def of(self, per_class: jax.Array) -> jax.Array:
        """sum_c t_ic v_c of every row [B], from v [C]; 0 for the rows that stay out."""
        if self.labels is None:
            return jnp.matmul(self.membership, per_class, precision=HIGHEST)
        return per_class.at[self.labels].get(mode="fill", fill_value=0)


# what to add to each row [B, C], or a function that makes it of a block of columns of the rows, see `class_blocks`
Delta: TypeAlias = jax.Array | Callable[[jax.Array], jax.Array]
# (batch, sign [C] in {-1, 0, 1}, epsilon [C], stats, params) -> Delta
Displacement: TypeAlias = Callable[[Batch, jax.Array, jax.Array, ClassStats, Any], Delta]


class Schedule(NamedTuple):
    """When and how statistics are refreshed; validated by `check_schedule`."""

    source: str
    refresh_every: int
    decay: ArrayLike
    warmup: ArrayLike
    dense_limit: int


def check_schedule(schedule: Schedule) -> Schedule:
    check_choice("source", schedule.source, ("batch", "running"))
    check_integer("refresh_every", schedule.refresh_every, low=1)
    check_number("decay", schedule.decay, low=0, below=1)
    check_number("warmup", schedule.warmup, low=0)
    check_integer("dense_limit", schedule.dense_limit, low=0)
    return schedule


def class_level(
    split: Split, bound: Bound, displace: Displacement, schedule: Schedule, *, mean_above_limit: bool
) -> optax.GradientTransformationExtraArgs:
    """A transformation that adds `displace(...)` to the rows of each class.

    Args:
      split: `ClassStats` -> signed margin [C].
      bound: margin [C] -> eps [C].
      displace: the rule, see `Displacement`.
      schedule: source, refresh_every, decay, warmup, dense_limit.
      mean_above_limit: whether the rule gets by above dense_limit classes with source="running", where no running
        mean vector exists.

    Returns:
      `optax.GradientTransformationExtraArgs` over rows [..., C].
    """
    check_schedule(schedule)
    _check_callable(split=split, bound=bound)
    running = schedule.source == "running"

    def read(stats: ClassStats, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        margin = jnp.asarray(split(stats))
        if margin.shape != stats.class_accuracy.shape:
            raise ValueError(
                f"split returned shape {margin.shape}: must be {stats.class_accuracy.shape}, one per class"
            )
        margin = jnp.where(step >= schedule.warmup, margin, 0).astype(stats.class_accuracy.dtype)
        return margin, bound(margin).astype(margin.dtype)

    def init_fn(params: Any) -> Any:
        num_classes, dtype = _template_row(params)
        dense = num_classes <= schedule.dense_limit
        if running and not dense and not mean_above_limit:
            raise ValueError(
                f"source='running' with {num_classes} classes: the running mean is kept up to "
                f"dense_limit={schedule.dense_limit} classes; use source='batch' or direction='sample' or 'class_scale'"
            )
        sums = statistics.zeros(num_classes, dtype, dense)
        stats = statistics.ratios(sums, keep_mean=running and dense)
        step = jnp.zeros([], jnp.int32)
        return LpgState(step, sums, stats, *read(stats, step))

    def absorb(state: LpgState, sums: ClassSums) -> LpgState:
        step = jnp.asarray(optax.safe_increment(state.step))
        keep_mean = state.stats.class_grad_mean is not None
        if schedule.refresh_every == 1:
            running_sums = statistics.decayed(state.sums, sums, schedule.decay)
            stats = statistics.ratios(running_sums, keep_mean)
        else:
            window = statistics.add(state.sums, sums)
            closes = step % schedule.refresh_every == 0
            fresh = statistics.keep_unseen(statistics.ratios(window, keep_mean), state.stats)
            stats = jax.tree.map(lambda new, old: jnp.where(closes, new, old), fresh, state.stats)
            running_sums = jax.tree.map(lambda total: jnp.where(closes, 0, total).astype(total.dtype), window)
        new = LpgState(step, running_sums, stats, *read(stats, step))
        return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), new, state)

    def update_fn(updates: Any, state: Any, params: Any = None, **arguments: Any) -> tuple[Any, Any]:
        if isinstance(state, Commit):
            return updates, absorb(state.state, state.sums)
        current: LpgState = state.state if isinstance(state, Uncommitted) else state
        batch, mask = gather_batch(updates, current, **arguments)
        sign = jnp.sign(current.class_margin)  # from the statistics as they stood before this batch
        epsilon = bound(current.class_margin)  # anew, so that a schedule's eps acts at its own step
        delta = displace(batch, sign, epsilon, current.stats, params)
        edited = _edited(updates, delta, batch.of(jnp.abs(sign).astype(batch.rows.dtype)) > 0, mask)
        sums = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), batch.sums, current.sums)
        return edited, sums if isinstance(state, Uncommitted) else absorb(current, sums)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check_callable(**functions: Any) -> None:
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"{name}={function!r}: must be a function, such as lpg_jax.by_accuracy() or .fixed(0.3)")


def _template_row(template: Any) -> tuple[int, Any]:
    """Number of classes and dtype of the statistics (float32 or wider) from a template of one row."""
    leaves = jax.tree.leaves(template)
    if len(leaves) != 1 or not hasattr(leaves[0], "shape") or leaves[0].ndim == 0 or not leaves[0].shape[-1]:
        raise ValueError(f"init({template!r}): must be a template of one row, such as jnp.zeros(num_classes)")
    return leaves[0].shape[-1], at_least_float32(leaves[0].dtype)


def gather_batch(
    updates: jax.Array,
    state: LpgState,
    *,
    labels: jax.Array | None = None,
    logits: jax.Array | None = None,
    mask: jax.Array | None = None,
    class_labels: jax.Array | None = None,
    axis_name: Any = None,
    **extra: Any,
) -> tuple[Batch, jax.Array | None]:
    """Validates, flattens and weighs a batch: rows that are masked, not finite or of no class get weight 0.

    Args:
      updates: [..., C] logit gradients.
      state: tells the number of classes and whether sums of gradients are dense.
      labels, logits, mask, class_labels, axis_name, extra: the keyword arguments of update, see `lpg`.

    Returns:
      The `Batch`, and the mask [B] as bool, or None.
    """
    labels = labels if class_labels is None else class_labels
    labels = labels if labels is None else jnp.asarray(labels)
    mask = mask if mask is None else jnp.asarray(mask)
    check_arguments(updates, labels, logits, mask, state.class_margin.shape[-1])
    assert labels is not None
    assert logits is not None
    num_classes = updates.shape[-1]
    dtype = at_least_float32(updates.dtype)
    rows = updates.reshape(-1, num_classes).astype(dtype)
    unit, norm = unit_and_norm(rows)
    takes_part = norm[:, 0] < 1e-4 * jnp.sqrt(jnp.finfo(dtype).max)  # so that sums of squares stay finite, too
    if mask is not None:
        mask = mask.reshape(-1).astype(bool)
        takes_part &= mask
    membership, classes = _membership(labels, updates.shape, takes_part, dtype)
    takes_part = jnp.any(membership > 0, axis=-1) if classes is None else classes < num_classes
    rows, unit, norm = (jnp.where(takes_part[:, None], values, 0) for values in (rows, unit, norm))
    dense = state.sums.gradient is not None
    summed = rows if classes is None else updates.reshape(-1, num_classes)  # no array [B, C] more than need be
    norms_of_sums = None if dense else statistics.sum_norms(summed, norm[:, 0], membership, classes)
    flat_logits, square_norms = jnp.asarray(logits).reshape(-1, num_classes), jnp.square(norm[:, 0])
    sums = statistics.batch_sums(rows, square_norms, membership, flat_logits, classes, norms_of_sums)
    return Batch(rows, unit, norm, membership, classes, norms_of_sums, total(sums, axis_name), axis_name, extra), mask


def _edited(updates: jax.Array, delta: Delta, moves: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Rows [..., C] plus delta where their class moves [B]; where delta is 0 the same bits, 0 where masked."""

    def edit(rows: jax.Array, delta: jax.Array) -> jax.Array:
        there, moved = (_per_row(values, rows) for values in (mask, moves))
        edited = jnp.where(moved & (delta != 0), (rows.astype(delta.dtype) + delta).astype(rows.dtype), rows)
        return edited if there is None else jnp.where(there, edited, 0)

    flat, wide = updates.reshape(-1, updates.shape[-1]), at_least_float32(updates.dtype)
    edited = (
        edit_blocks(lambda rows: edit(rows, delta(rows.astype(wide))), flat) if callable(delta) else edit(flat, delta)
    )
    return edited.astype(updates.dtype).reshape(updates.shape)


def _per_row(values: jax.Array | None, rows: jax.Array) -> Any:
    """values [B] against rows [B, ...]."""
    return values if values is None else values.reshape(-1, *(1,) * (rows.ndim - 1))


def _membership(labels: jax.Array, shape: tuple[int, ...], takes_part: jax.Array, dtype: Any):
    """t_ic [B, C], and the labels [B] in [0, C] (C: no class), or None for soft targets."""
    num_classes = shape[-1]
    if labels.ndim == len(shape):
        weights = labels.reshape(-1, num_classes).astype(dtype)
        takes_part &= jnp.all(jnp.isfinite(weights), axis=-1)
        return jnp.where(takes_part[:, None], weights, 0), None
    classes = labels.reshape(-1)
    classes = classes.astype(jnp.int64 if classes.dtype.itemsize == 8 else jnp.int32)  # uint8 cannot hold C = 256
    takes_part &= (classes >= 0) & (classes < num_classes)
    classes = jnp.where(takes_part, classes, num_classes).astype(jnp.int32)
    return jax.nn.one_hot(classes, num_classes, dtype=dtype), classes


def check_arguments(rows: Any, labels: Any, logits: Any, mask: Any, num_classes: int) -> None:
    """Ranks, shapes and dtypes of the arguments of update."""
    for name, value in (("labels", labels), ("logits", logits)):
        if value is None:
            raise ValueError(f"{name}=None: pass tx.update(rows, state, None, labels=labels, logits=logits)")
    if rows.ndim == 0 or rows.shape[-1] != num_classes:
        raise ValueError(f"rows.shape={rows.shape}: the last axis must be {num_classes}, as in init")
    check_shape("logits", logits, rows.shape, "rows")
    check_labels(labels, rows.shape, mask)
    if mask is not None:
        check_shape("mask", mask, rows.shape[:-1], "the batch")


def class_table(state: Any) -> dict[str, np.ndarray]:
    """Which classes are amplified, and by how much: the per-class state of the one LPG transformation in a chain.

    Args:
      state: the state of `lpg`, `lpg_pgd`, or of a chain, named chain or injected schedule that holds one of them.
        With a leading axis of seeds or devices, every entry has it too.

    Returns:
      NumPy arrays [C]: "perturbation" = sign(margin) eps_c (> 0: each row's gradient is lengthened by up to that much,
      < 0: shortened), "margin", "epsilon", "accuracy" in [0, 1], "grad_norm" = ||m_c||, "grad_variance" and "seen".

    Raises:
      ValueError: the state holds no LPG transformation, or more than one.

    Example:
      >>> tx = lpg_jax.lpg(lpg_jax.by_frequency([100, 10, 1]), lpg_jax.fixed(0.3))
      >>> class_table(tx.init(jnp.zeros(3)))["perturbation"]
      array([-0.3,  0. ,  0.3], dtype=float32)
    """
    leaves = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, LpgState))
    found = [leaf for leaf in leaves if isinstance(leaf, LpgState)]
    if len(found) != 1:
        raise ValueError(f"state holds {len(found)} LPG transformations: must be 1; pass the part you mean")
    margin, epsilon, stats = found[0].class_margin, found[0].class_epsilon, found[0].stats
    table = {
        "perturbation": jnp.sign(margin) * epsilon,
        "margin": margin,
        "epsilon": epsilon,
        "accuracy": stats.class_accuracy,
        "grad_norm": stats.class_grad_norm,
        "grad_variance": stats.class_grad_variance,
        "seen": stats.class_seen,
    }
    return {name: np.asarray(values) for name, values in table.items()}
