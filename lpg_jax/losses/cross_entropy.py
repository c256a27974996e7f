"""Softmax cross-entropy."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy per example, -sum_c t_c log p_c; its row is h = p sum_c t_c - t.

    Args:
      logits: [..., C] z, in nats. float16 and bfloat16 are computed in float32.
      labels: int [...], or float targets [..., C].

    Returns:
      losses [...], float32 or wider.

    Raises:
      ValueError: labels have neither shape.

    | case | result |
    |---|---|
    | an integer label outside [0, C) | loss 0 and a zero row, whatever the logits hold |
    | one-hot float targets | the same bits as integer labels |
    | a logit of -inf | p = 0: no loss and no gradient, unless it is the label's, whose loss is inf |

    Example:
      >>> cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))  # log 4
      Array([1.3862944], dtype=float32)
    """
    logits = logits.astype(jnp.float64 if logits.dtype == jnp.float64 else jnp.float32)
    if labels.shape == logits.shape:
        return _soft(logits, labels.astype(logits.dtype))
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"labels.shape={labels.shape}: must be {logits.shape[:-1]} or {logits.shape}, as logits")
    num_classes = logits.shape[-1]
    labels = labels.astype(jnp.int64 if labels.dtype.itemsize == 8 else jnp.int32)
    valid = (labels >= 0) & (labels < num_classes)
    logits = jnp.where(valid[..., None], logits, 0)
    return _soft(logits, jax.nn.one_hot(labels, num_classes, dtype=logits.dtype))


def _soft(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Products with one-hot targets instead of gathers: labels may be sharded. A class that is ruled out by a logit of
    -inf counts for nothing, where optax's version gives NaN."""
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.where(targets == 0, 0, targets * log_p), axis=-1)
