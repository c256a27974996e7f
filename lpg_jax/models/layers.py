"""Parts that every model shares: what enters, how batches are normalised, what leaves.

Two dtypes: `dtype` is what convolutions and matrix products compute in; parameters, batch statistics, features and
logits are in `wide(dtype)`, which is float32, or float64 where dtype is float64.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

HE_FAN_IN = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
HE_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def wide(dtype: Any) -> Any:
    """The dtype of parameters and statistics for a floating compute dtype: at least float32."""
    return jnp.dtype("float64" if jnp.dtype(dtype) == jnp.float64 else "float32")


def present(inputs: jax.Array, mask: jax.Array | None, dtype: Any) -> jax.Array:
    """Inputs [B, ...] in the compute dtype, with 0 in the rows that the mask [B] leaves out.

    A NaN in a padded row must not travel: its cotangent is 0, but 0 * NaN would still reach the kernels' gradient.
    """
    inputs = jnp.asarray(inputs, dtype)
    if mask is None:
        return inputs
    if jnp.shape(mask) != inputs.shape[:1]:
        raise ValueError(f"mask has shape {jnp.shape(mask)}: must be {inputs.shape[:1]}, one entry per row of inputs")
    return jnp.where(_rows(mask, inputs.ndim), inputs, jnp.zeros((), dtype))


def as_images(inputs: jax.Array) -> jax.Array:
    """Check that inputs are [B, H, W, channels]."""
    if inputs.ndim != 4:
        raise ValueError(
            f"inputs has shape {inputs.shape}: must be [B, H, W, channels]; for flat vectors take 'mlp' or 'linear'"
        )
    return inputs


def pool(x: jax.Array) -> jax.Array:
    """Mean over height and width, [B, H, W, D] -> [B, D], added up in the wide dtype."""
    return jnp.mean(x.astype(wide(x.dtype)), axis=(1, 2))


def head(features: jax.Array, num_classes: int) -> jax.Array:
    """The last linear layer, [B, D] -> [B, C]; call it inside a compact method. `head_kernel` finds its kernel.

    It computes in the features' (wide) dtype even in a bf16 model: it costs next to nothing, and logit gradients are
    differences of probabilities.
    """
    dtype = features.dtype
    return nn.Dense(num_classes, dtype=dtype, param_dtype=dtype, kernel_init=HE_FAN_IN, name="head")(features)


class Conv(nn.Module):
    """Convolution without bias and with explicit padding, as in the papers.

    ("SAME" would pad one side only at stride 2 and shift the grid against the option-A shortcut.)
    """

    width: int
    stride: int
    dtype: Any
    size: int = 3
    kernel_init: Any = HE_FAN_IN

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Conv(
            self.width,
            (self.size, self.size),
            (self.stride, self.stride),
            padding=self.size // 2,
            use_bias=False,
            dtype=self.dtype,
            param_dtype=wide(self.dtype),
            kernel_init=self.kernel_init,
            name="conv",
        )(x)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, of the rows that are present.

    Same variables and defaults as `flax.linen.BatchNorm`, and the same result on full batches. Written here because
    that one averages the devices' averages, which is wrong (or NaN) where padding is spread unevenly, and changes the
    dtype of its statistics in float64. Here the sums are added over `axis_name` first, and divided last.

    | case | result |
    |---|---|
    | a row with mask 0 | normalised like the others, but in no statistic |
    | no row present at all | running statistics are used and kept |
    | dtype bfloat16 | statistics and arithmetic in float32, result in bfloat16 |
    | initialisation | statistics stay 0 and 1; `axis_name` need not exist |

    Attributes:
      dtype: dtype of the result.
      axis_name: device axis of pmap over which the batch is spread; None under jit, where the batch is one array.
      momentum: share of the old running statistics that is kept per step.
      epsilon: added to the variance.
    """

    dtype: Any = jnp.float32
    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None = None) -> jax.Array:
        dtype, shape = wide(self.dtype), x.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, dtype)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, dtype)
        scale = self.param("scale", nn.initializers.ones, shape, dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, dtype)
        x = x.astype(dtype)
        mean, var = running_mean.value, running_var.value
        if train:
            axis_name = None if self.is_initializing() else self.axis_name
            batch_mean, batch_var, count = masked_moments(x, mask, axis_name)
            mean, var = jnp.where(count > 0, batch_mean, mean), jnp.where(count > 0, batch_var, var)
            if not self.is_initializing():
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * var
        factor = jax.lax.rsqrt(var + self.epsilon) * scale
        return ((x - _last(mean, x.ndim)) * _last(factor, x.ndim) + _last(bias, x.ndim)).astype(self.dtype)


def masked_moments(
    x: jax.Array, mask: jax.Array | None, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean [D] and variance [D] of x [B, ..., D] over the present rows of all devices, and their number (scalar)."""
    axes = tuple(range(x.ndim - 1))
    if mask is None:
        rows = jnp.asarray(x.shape[0], x.dtype)
    else:
        rows = jnp.sum(jnp.asarray(mask, bool), dtype=x.dtype)
        x = jnp.where(_rows(mask, x.ndim), x, jnp.zeros((), x.dtype))
    sums = (rows, jnp.sum(x, axes), jnp.sum(jnp.square(x), axes))
    if axis_name is not None:
        sums = jax.lax.psum(sums, axis_name)
    rows, total, squares = sums
    places = x[0, ..., 0].size  # pixels per row
    count = jnp.maximum(rows, 1) * places
    mean = total / count
    return mean, jnp.maximum(squares / count - jnp.square(mean), 0), rows


def _rows(mask: jax.Array, ndim: int) -> jax.Array:
    return jnp.reshape(jnp.asarray(mask, bool), (-1,) + (1,) * (ndim - 1))


def _last(x: jax.Array, ndim: int) -> jax.Array:
    return jnp.reshape(x, (1,) * (ndim - 1) + (-1,))
