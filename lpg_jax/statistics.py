"""Class statistics: additive sums of a batch (`ClassSums`) -> running statistics (`ClassStats`).

Sums come first and ratios last (method.md, reading 9): a batch is reduced to sums over its examples, sums of
devices or micro-batches are added, and only the running sums are divided. An average of per-batch ratios would be
biased by (n - 1)/n, which at n = 1 makes the variance of every rare class zero.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from lpg_jax.class_blocks import sum_over_blocks

SCATTER_LIMIT = 2**16  # rows: a sum one by one in float32 loses bits with every row
HIGHEST = lax.Precision.HIGHEST  # accelerators round float32 products to bfloat16 or TF32 by default


class ClassSums(NamedTuple):
    """Additive sums over examples, per class. n is a membership weight, so a float (soft targets, decayed sums).

    Up to `dense_limit` classes `gradient` is kept and the two pair fields are None; above it, the reverse.
    """

    count: jax.Array  # [C] n = sum_i t_ic
    hits: jax.Array  # [C] sum_i t_ic [argmax z_i = c]
    square_norm: jax.Array  # [C] sum_i t_ic ||h_i||^2
    gradient: jax.Array | None  # [C, C] row c: sum_i t_ic h_i
    pair_product: jax.Array | None  # [C] sum over pairs i != j of t_ic t_jc h_i . h_j
    pair_count: jax.Array | None  # [C] sum over pairs i != j of t_ic t_jc


class ClassStats(NamedTuple):
    """What a split reads. Entries of a class never seen are 0 and `class_seen` is False."""

    class_seen: jax.Array  # [C] bool: accuracy and mean exist
    class_variance_seen: jax.Array  # [C] bool: the gradient variance exists (above dense_limit it needs a pair)
    class_accuracy: jax.Array  # [C] running accuracy q_c = hits / n, in [0, 1]
    class_grad_norm: jax.Array  # [C] ||m_c||, norm of the running mean logit gradient
    class_grad_variance: jax.Array  # [C] Var_c = sum ||h||^2 / n - ||m_c||^2 (Eq. 20), >= 0
    class_grad_mean: jax.Array | None  # [C, C] row c: m_c; only where source="running" needs it


class Uncommitted(NamedTuple):
    """A transformation's state whose `update` returns the batch's `ClassSums` instead of a new state."""

    state: Any


class Commit(NamedTuple):
    """A transformation's state together with the sums that its `update` is to absorb; rows pass untouched."""

    state: Any
    sums: ClassSums


def at_least_float32(dtype: Any) -> Any:
    """The dtype in which rows are computed and summed: float32, or float64 for float64 rows."""
    return jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32


def safe_divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """numerator / denominator, and 0 where the denominator is 0; also safe under differentiation."""
    zero = denominator == 0
    return jnp.where(zero, 0, numerator / jnp.where(zero, 1, denominator))


def unit_and_norm(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """v / ||v|| [..., C] and ||v|| [..., 1]; a zero vector has unit 0 (method.md, reading 4).

    Divides by the largest entry first, so that no square overflows or vanishes; differentiable at 0.
    """
    peak = lax.stop_gradient(jnp.max(jnp.abs(vectors), axis=-1, keepdims=True))
    peak = jnp.minimum(peak, jnp.asarray(jnp.finfo(vectors.dtype).max / 4, vectors.dtype))  # its inverse is not 0
    scaled = vectors * safe_divide(jnp.ones_like(peak), peak)
    square = jnp.sum(jnp.square(scaled), axis=-1, keepdims=True)
    length = jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))
    return safe_divide(scaled, length), peak * length


def total(tree: Any, axis_name: Any) -> Any:
    """Sum over the mapped axis, as one all-reduce over the concatenated leaves."""
    if axis_name is None:
        return tree
    leaves, treedef = jax.tree.flatten(tree)
    flat = lax.psum(jnp.concatenate([leaf.reshape(-1) for leaf in leaves]), axis_name)
    parts = jnp.split(flat, np.cumsum([leaf.size for leaf in leaves])[:-1])
    return treedef.unflatten(part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True))


def everyone(array: jax.Array, axis_name: Any) -> jax.Array:
    """The rows of all shards [B over all, ...]."""
    return array if axis_name is None else lax.all_gather(array, axis_name, tiled=True)


def zeros(num_classes: int, dtype: Any, dense: bool) -> ClassSums:
    """Sums over no example; every field has its own buffer, so that the state can be donated."""
    count, hits, square_norm = (jnp.zeros(num_classes, dtype) for _ in range(3))
    if dense:
        return ClassSums(count, hits, square_norm, jnp.zeros((num_classes, num_classes), dtype), None, None)
    pairs = (jnp.zeros(num_classes, dtype) for _ in range(2))
    return ClassSums(count, hits, square_norm, None, *pairs)


def batch_sums(
    rows: jax.Array,
    square_norms: jax.Array,
    membership: jax.Array,
    logits: jax.Array,
    labels: jax.Array | None,
    norms_of_sums: jax.Array | None,
) -> ClassSums:
    """Sums of one batch.

    Args:
      rows: [B, C] logit gradients h_i, finite.
      square_norms: [B] ||h_i||^2.
      membership: [B, C] weights t_ic; a row of zeros stays out.
      logits: [B, C]; their argmax is the prediction, the first one among ties.
      labels: [B] int in [0, C] if each example belongs to one class at most (C: to none), None for soft targets.
      norms_of_sums: None keeps the sums of gradients [C, C]; `sum_norms` of the batch [C] keeps pair sums.

    Returns:
      `ClassSums` in the dtype of rows.
    """
    hit, predicted = _hits(logits, membership, labels)
    columns = [jnp.ones_like(hit)[:, None], hit[:, None], square_norms[:, None]]
    # one product, so that a batch sharded over devices needs one all-reduce
    columns = jnp.concatenate([*columns, rows] if norms_of_sums is None else columns, axis=1)
    packed = _sum_by_class(columns, membership, labels)
    count, hits, square_norm = packed[:, 0], packed[:, 1], packed[:, 2]
    if predicted is not None:  # a hit of weight t_ic belongs to the predicted class alone
        hits = jnp.matmul(hit, predicted, precision=HIGHEST)
    if norms_of_sums is None:
        return ClassSums(count, hits, square_norm, packed[:, 3:], None, None)
    own_count, own = count, square_norm  # the pairs of an example with itself
    if labels is None:
        squared = jnp.square(membership)
        own_count, own = jnp.sum(squared, axis=0), jnp.matmul(square_norms, squared, precision=HIGHEST)
    pair_count = jnp.maximum(jnp.square(count) - own_count, 0)
    pair_product = jnp.where(pair_count > 0, jnp.square(norms_of_sums) - own, 0)
    return ClassSums(count, hits, square_norm, None, pair_product, pair_count)


def _sum_by_class(columns: jax.Array, membership: jax.Array, labels: jax.Array | None) -> jax.Array:
    """membership^T columns [C, ...]. On CPU a scatter is faster for integer labels, and precise enough for a batch;
    elsewhere its atomics would make the last bit a matter of chance."""

    def by_product(columns: jax.Array, membership: jax.Array) -> jax.Array:
        return jnp.matmul(membership.T, columns, precision=HIGHEST)

    if labels is None or len(labels) > SCATTER_LIMIT:
        return by_product(columns, membership)

    def by_scatter(columns: jax.Array, membership: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(columns, labels, num_segments=membership.shape[-1])

    return lax.platform_dependent(columns, membership, cpu=by_scatter, default=by_product)


def _hits(logits: jax.Array, membership: jax.Array, labels: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """Weight of the predicted class [B], and the prediction as one-hot rows [B, C] for soft targets.

    Comparisons take the place of `jnp.argmax`, which on CPU costs as much as the rest of the statistics.
    """
    classes = jnp.arange(logits.shape[-1], dtype=jnp.int32)[None]
    if labels is None:
        top = logits == jnp.max(logits, axis=-1, keepdims=True)
        first = jnp.min(jnp.where(top, classes, classes.size), axis=-1, keepdims=True)
        predicted = classes == first
        return jnp.sum(jnp.where(predicted, membership, 0), axis=-1), predicted.astype(membership.dtype)
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1, mode="fill", fill_value=jnp.nan)[:, 0]

    def ahead(block: jax.Array, columns: jax.Array) -> jax.Array:
        label, level = labels[:, None, None], own[:, None, None]
        return jnp.any(~(block <= level) | ((block == level) & (columns < label)), axis=(1, 2))

    blocks = sum_over_blocks(lambda block, columns: ahead(block, columns).astype(membership.dtype), logits)
    return (blocks == 0).astype(membership.dtype), None


def sum_norms(rows: jax.Array, norms: jax.Array, membership: jax.Array, labels: jax.Array | None) -> jax.Array:
    """||sum_i t_ic h_i|| per class [C], in O(B C) memory (plus B x B for soft targets).

    Rows [B, C] of the label C may hold anything: they are summed by themselves, and their sum is dropped. The sums of
    a class are in units of its largest norm, so that no square vanishes.
    """
    dtype = membership.dtype
    if labels is None:
        gram = jnp.matmul(rows, rows.T, precision=HIGHEST)
        squares = jnp.sum(membership * jnp.matmul(gram, membership, precision=HIGHEST), axis=0)
        return jnp.sqrt(jnp.maximum(squares, 0))
    classes, place = present_classes(labels, rows.shape[-1])
    largest = jnp.maximum(jax.ops.segment_max(norms, place, num_segments=len(classes)), 0)  # -inf where none is
    inverse = safe_divide(jnp.ones_like(largest), largest)[place][:, None, None]

    def squares_of(block: jax.Array, columns: jax.Array) -> jax.Array:
        del columns
        sums = jax.ops.segment_sum(block.astype(dtype) * inverse, place, num_segments=len(classes))
        return jnp.sum(jnp.square(sums), axis=(1, 2))

    norm = largest * jnp.sqrt(sum_over_blocks(squares_of, rows))
    return jnp.zeros(rows.shape[-1], dtype).at[classes].add(norm, mode="drop")


def present_class_sums(rows: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sums of rows over the at most B classes present.

    Args:
      rows: [B, C].
      labels: [B] int in [0, C]; C marks a row that belongs to no class.

    Returns:
      sums [K, C], the class of each of them [K] (C where the place is empty or stands for no class), and the place
      of each row [B]; K = min(B, C + 1).
    """
    classes, place = present_classes(labels, rows.shape[-1])
    return jax.ops.segment_sum(rows, place, num_segments=len(classes)), classes, place


def present_classes(labels: jax.Array, num_classes: int) -> tuple[jax.Array, jax.Array]:
    """The classes present [K], C where a place is empty, and the place of each label [B]; K = min(B, C + 1)."""
    size = min(len(labels), num_classes + 1)
    classes, place = jnp.unique(labels, size=size, fill_value=num_classes, return_inverse=True)
    return classes, place.reshape(-1)


def add(left: Any, right: Any) -> Any:
    """Merges two trees of sums."""
    return jax.tree.map(jnp.add, left, right)


def decayed(running: ClassSums, batch: ClassSums, decay: ArrayLike) -> ClassSums:
    """S <- decay S + (1 - decay) S_batch for the classes present; the others stay bit-identical [ours]."""
    present = batch.count > 0
    paired = None if batch.pair_count is None else batch.pair_count > 0
    rows_present = None if batch.gradient is None else present[:, None]
    here = ClassSums(present, present, present, rows_present, paired, paired)

    def merge(here: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(here, decay * old + (1 - decay) * new, old).astype(old.dtype)

    return jax.tree.map(merge, here, running, batch)


def ratios(sums: ClassSums, keep_mean: bool) -> ClassStats:
    """Statistics from (running or window) sums; keep_mean: also the [C, C] means (dense sums only)."""
    seen = sums.count > 0
    mean_square = safe_divide(sums.square_norm, sums.count)
    mean = None
    if sums.gradient is not None:
        variance_seen = sums.count > 0  # not `seen` itself: a donated state needs two buffers
        mean = safe_divide(sums.gradient, sums.count[:, None]) if keep_mean else None
        square_of_mean = safe_divide(jnp.sum(jnp.square(sums.gradient), axis=-1), jnp.square(sums.count))
    else:
        assert sums.pair_product is not None
        assert sums.pair_count is not None
        variance_seen = seen & (sums.pair_count > 0)
        square_of_mean = jnp.maximum(safe_divide(sums.pair_product, sums.pair_count), 0)
    variance = jnp.where(variance_seen, jnp.maximum(mean_square - square_of_mean, 0), 0)
    return ClassStats(
        class_seen=seen,
        class_variance_seen=variance_seen,
        class_accuracy=safe_divide(sums.hits, sums.count),
        class_grad_norm=jnp.sqrt(square_of_mean),
        class_grad_variance=variance,
        class_grad_mean=mean,
    )


def keep_unseen(new: ClassStats, old: ClassStats) -> ClassStats:
    """New statistics, and the old ones for classes (or variances) that the window has not seen."""
    seen, pairs_seen = new.class_seen, new.class_variance_seen
    rows_seen = None if new.class_grad_mean is None else seen[:, None]
    fresh = ClassStats(seen, pairs_seen, seen, pairs_seen, pairs_seen, rows_seen)
    return jax.tree.map(jnp.where, fresh, new, old)
