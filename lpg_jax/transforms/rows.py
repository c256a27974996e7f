"""What class-level and row-level transformations share: which rows take part, and how edited rows go back."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lpg_jax.checks import check_labels, check_shape
from lpg_jax.statistics import at_least_float32
from lpg_jax.transforms.class_level import _membership as membership_of


class RowBatch(NamedTuple):
    """A batch flattened to [B, ...], in float32 or wider."""

    rows: jax.Array  # [B, C] 0 for the rows that stay out
    membership: jax.Array | None  # [B, C] t_ic, 0 for the rows that stay out; None without labels
    takes_part: jax.Array  # [B] bool: present, finite, and (where labels are known) of a class
    mask: jax.Array | None  # [B] bool: present
    shape: tuple[int, ...]  # of the rows as they came, [..., C]

    def targets(self) -> jax.Array:
        """The membership t_ic [B, C]; ValueError without labels."""
        if self.membership is None:
            raise ValueError("labels=None: pass tx.update(rows, state, None, labels=labels, logits=logits)")
        return self.membership


# (batch, the keyword arguments of update) -> edited rows [B, C]
Edit: TypeAlias = Callable[[RowBatch, Mapping[str, Any]], jax.Array]


def row_map(edit: Edit, *, bounded: bool = True) -> optax.GradientTransformationExtraArgs:
    """A stateless transformation that calls `edit` on the rows that take part, see `gather_rows`."""

    def update_fn(updates: Any, state: Any, params: Any = None, **arguments: Any) -> tuple[Any, Any]:
        del params
        batch = gather_rows(updates, bounded=bounded, **arguments)
        return put_back(updates, edit(batch, arguments), batch), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update_fn)


def gather_rows(
    updates: jax.Array,
    *,
    labels: jax.Array | None = None,
    mask: jax.Array | None = None,
    class_labels: jax.Array | None = None,
    bounded: bool = True,
    **extra: Any,
) -> RowBatch:
    """Validates and flattens a batch.

    Args:
      updates: [..., C] un-reduced logit gradients.
      labels, mask, class_labels: the keyword arguments of update, see `lpg`; all of them may be missing.
      bounded: rows stay out, too, that are so large that the sum of their squares may overflow (norm > 1e15);
        otherwise those with an entry beyond 3e36.
      extra: keyword arguments meant for other transformations of the chain.

    Returns:
      `RowBatch`.

    Raises:
      ValueError: shapes and dtypes that do not fit.
    """
    del extra
    labels = labels if class_labels is None else class_labels
    labels = labels if labels is None else jnp.asarray(labels)
    mask = mask if mask is None else jnp.asarray(mask)
    if updates.ndim == 0 or not updates.shape[-1]:
        raise ValueError(f"rows.shape={updates.shape}: must be [..., C]")
    if mask is not None:
        check_shape("mask", mask, updates.shape[:-1], "the batch")
        mask = mask.reshape(-1).astype(bool)
    dtype = at_least_float32(updates.dtype)
    rows = updates.reshape(-1, updates.shape[-1]).astype(dtype)
    largest = float(np.finfo(dtype).max)
    limit = 1e-4 * np.sqrt(largest) if bounded else 1e-2 * largest  # whose inverse is no subnormal number
    takes_part = jnp.all(jnp.abs(rows) < limit, axis=-1)  # NaN is not below anything
    takes_part = takes_part if mask is None else takes_part & mask
    membership = None
    if labels is not None:
        check_labels(labels, updates.shape, None if mask is None else mask.reshape(updates.shape[:-1]))
        membership, _ = membership_of(labels, updates.shape, takes_part, dtype)
        takes_part = jnp.any(membership > 0, axis=-1)
    return RowBatch(jnp.where(takes_part[:, None], rows, 0), membership, takes_part, mask, updates.shape)


def put_back(updates: jax.Array, edited: jax.Array, batch: RowBatch) -> jax.Array:
    """Edited rows [B, C] in the shape and dtype of updates; rows that stay out as they were, masked rows 0."""
    flat = updates.reshape(-1, updates.shape[-1])
    result = jnp.where(batch.takes_part[:, None], edited.astype(updates.dtype), flat)
    if batch.mask is not None:
        result = jnp.where(batch.mask[:, None], result, 0).astype(updates.dtype)
    return result.reshape(updates.shape)


def run_inside(
    tx: optax.GradientTransformationExtraArgs, updates: jax.Array, batch: RowBatch, state: Any, params: Any, **arguments
) -> tuple[jax.Array, Any]:
    """Edited rows [B, C] of a wrapped tx, in the dtype of the batch, and its new state.

    tx sees the rows that take part; to it the others are masked, so that a tx that knows nothing of labels or NaN is
    safe in a wrapper.
    """
    arguments["mask"] = batch.takes_part.reshape(updates.shape[:-1])
    edited, new_state = tx.update(batch.rows.reshape(updates.shape), state, params, **arguments)
    return jnp.asarray(edited).reshape(batch.rows.shape), new_state


def check_class_axis(rows: jax.Array, per_class: Any) -> None:
    """ValueError unless rows [..., C] fit a state or constant [C]."""
    if rows.shape[-1:] != per_class.shape:
        raise ValueError(f"rows.shape={rows.shape}: the last axis must be {per_class.shape[0]}, as in init")


def check_transformation(tx: Any) -> optax.GradientTransformationExtraArgs:
    """tx with support for extra arguments; TypeError for anything else."""
    if not (callable(getattr(tx, "init", None)) and callable(getattr(tx, "update", None))):
        raise TypeError(f"tx={tx!r}: must be an optax transformation, such as lpg_jax.lpg(...)")
    return optax.with_extra_args_support(tx)
