"""Softmax cross-entropy."""

import jax
import jax.numpy as jnp
from jax import lax


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy per example, -sum_c t_c log p_c; its row is h = p sum_c t_c - t.

    With integer labels, compiled, nothing larger than the gradient is kept; batch and classes may be sharded.

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
    | one-hot float targets | integer labels to rounding |
    | p_y = 1 to rounding, integer label | loss and row keep their relative precision down to 1e-38 |
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
    return _hard(logits, labels.astype(jnp.int64 if labels.dtype.itemsize == 8 else jnp.int32))


def _hard(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """-log p_y = softplus(log sum_{j != y} e^z_j - z_y): without 1 - p_y in it, loss and row keep their digits, and the
    row its zero sum, where an example is learnt by heart."""
    valid = (labels >= 0) & (labels < logits.shape[-1])
    logits = jnp.where(valid[..., None], logits, 0)
    top = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    labels = jnp.where(valid, labels, 0)
    rest = _sum_of_others(logits, labels, top)
    label_logit = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0] - top[..., 0]
    left_out = ((rest == 0) & ~jnp.isnan(label_logit)) | ~valid  # p_y = 1, or no label
    losses = jax.nn.softplus(jnp.log(jnp.where(left_out, 1, rest)) - label_logit)
    return jnp.where(left_out, 0, losses)


@jax.custom_jvp
def _sum_of_others(logits: jax.Array, labels: jax.Array, top: jax.Array) -> jax.Array:
    """sum_{j != y} e^(z_j - top) [...]; top is a constant."""
    return jnp.sum(_others(logits, labels, top), axis=-1)


@_sum_of_others.defjvp
def _sum_of_others_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    terms = _others(*primals)  # their own slopes; said here, because XLA would keep a second array [..., C] for those
    return jnp.sum(terms, axis=-1), jnp.sum(terms * tangents[0], axis=-1)


def _others(logits: jax.Array, labels: jax.Array, top: jax.Array) -> jax.Array:
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.bool_)
    return jnp.where(own, 0, jnp.exp(logits - top))


def _soft(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """A class that is ruled out by a logit of -inf counts for nothing, where optax's version gives NaN."""
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.where(targets == 0, 0, targets * log_p), axis=-1)
