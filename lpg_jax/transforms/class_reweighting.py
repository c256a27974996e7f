"""GDW's operator: a weight for every class of every example, with rows that keep summing to zero."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lpg_jax.checks import check_shape, is_concrete
from lpg_jax.transforms.rows import RowBatch, row_map


def class_level_reweighting() -> optax.GradientTransformationExtraArgs:
    """Weighs each class of each row, with the label's entry such that the row sums to zero (GDW, NeurIPS 2021) [paper].

    arXiv 2111.00056. h~_ij = w_ij h_ij for j != y and h~_iy = -sum_{j != y} h~_ij. For a row of cross-entropy,
    h = p - e_y, this is h~_ij = w_ij (p_ij - e_ij) with w_iy = sum_{j != y} w_ij p_ij / (1 - p_iy); written this way
    nothing is divided by 1 - p_y, which may vanish, p is that of the loss (forward maps included) and a row that was
    scaled before stays scaled. w = c gives c h. The label's own weight and its entry are not read: a row that does not
    sum to zero comes out so that it does.

    Args:
      none; `update` takes the weights.

    Returns:
      A stateless `optax.GradientTransformationExtraArgs` over rows [..., C], differentiable in the weights:
      d h~_ij / d w_ij = h_ij and d h~_iy / d w_ij = -h_ij. `update` needs `labels=` and
        class_weights: [..., C] w_ij >= 0 (GDW clamps its own to [1e-6, 1e6]).
      Through `perturbed`: `loss_fn(logits, labels, state, class_weights=w)`; constants there, as all extra arguments.
      Micro-batches and `tap` raise ValueError at `lpg_jax.commit`, which has no weights to hand down.

    Raises:
      ValueError: at update: class_weights missing, of another shape, negative, NaN or infinite (concrete values, in
        rows that are present); labels missing or of a shape that does not fit.

    | edge case | result |
    |---|---|
    | p_y = 1 | row 0 |
    | w = 1 | rows to rounding (the label's entry is summed anew) |
    | soft targets t (rows of cross-entropy only) | sum_c t_c h~(label c) = w p - t (w . p), p = h + t [ours] |
    | label outside [0, C), row with NaN or inf | passes unchanged |
    | masked row, whatever its weights | 0 |
    | traced weights that are not finite | so is the row |

    Example:
      >>> tx = class_level_reweighting()
      >>> rows, labels = jnp.array([[-0.75, 0.5, 0.25]]), jnp.array([0])
      >>> tx.update(rows, tx.init(jnp.zeros(3)), None, labels=labels, class_weights=jnp.array([[9.0, 1.0, 2.0]]))[0]
      Array([[-1. ,  0.5,  0.5]], dtype=float32)
    """
    return row_map(_reweigh)


def _reweigh(batch: RowBatch, arguments: Mapping[str, Any]) -> jax.Array:
    targets = batch.targets()
    weights = _weights(batch, arguments.get("class_weights"), arguments.get("mask"))
    read = batch.takes_part[:, None] & (targets != 1)  # the label's entry cancels in exact arithmetic
    pull = jnp.where(read, weights.astype(batch.rows.dtype), 0) * (batch.rows + targets)
    return pull - targets * jnp.sum(pull, axis=-1, keepdims=True)


def _weights(batch: RowBatch, weights: Any, mask: Any) -> jax.Array:
    """class_weights flattened to [B, C]."""
    if weights is None:
        raise ValueError("class_weights=None: pass tx.update(rows, state, None, labels=labels, class_weights=weights)")
    weights = jnp.asarray(weights)
    check_shape("class_weights", weights, batch.shape, "rows")
    flat = weights.reshape(batch.rows.shape)
    if is_concrete(flat) and is_concrete(mask):
        values = np.asarray(flat, np.float64)
        wrong = ~np.all(np.isfinite(values) & (values >= 0), axis=-1)
        wrong &= True if mask is None else np.asarray(mask, bool).reshape(-1)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise ValueError(
                f"class_weights[{at}]={values[at]}: must be >= 0 and finite; clamp them, to [1e-6, 1e6] say"
            )
    return flat
