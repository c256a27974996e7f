"""Wide residual networks (Zagoruyko and Komodakis 2016, arXiv 1605.07146), pre-activation, dropout inside the block."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lpg_jax.models.layers import HE_FAN_OUT, BatchNorm, Conv, as_images, head, pool, present


class WideResNet(nn.Module):
    """WRN-depth-widen for images of any size: 3 groups of (depth - 4) / 6 blocks, widths 16, 32, 64 times `widen`.

    Where the width changes the shortcut is a 1x1 convolution of the activated input, as in the authors' code, which
    also starts kernels from N(0, 2 / fan_out).

    Attributes:
      num_classes: C.
      dtype: compute dtype.
      depth: 16, 28, or any 6n + 4.
      widen: factor of the widths.
      dropout_rate: share of activations dropped between the two convolutions of a block in training; the paper uses
        0 with augmentation and 0.3 without. Above 0 `apply` needs `rngs={"dropout": key}` when train=True.
      axis_name: device axis of pmap for the batch statistics; None under jit.
    """

    num_classes: int
    dtype: Any = jnp.float32
    depth: int = 28
    widen: int = 10
    dropout_rate: float = 0.0
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, inputs: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Map inputs [B, H, W, channels] to (logits [B, C], features [B, 64 widen]); see `lpg_jax.models.create`."""
        x = present(as_images(inputs), mask, self.dtype)
        x = Conv(16, 1, self.dtype, kernel_init=HE_FAN_OUT, name="stem")(x)
        for group, width in enumerate((16, 32, 64)):
            for index in range((self.depth - 4) // 6):
                stride = 2 if group > 0 and index == 0 else 1
                block = WideBlock(
                    width * self.widen,
                    stride,
                    self.dtype,
                    self.dropout_rate,
                    self.axis_name,
                    name=f"group{group}_block{index}",
                )
                x = block(x, train, mask)
        x = nn.relu(BatchNorm(self.dtype, self.axis_name, name="last_norm")(x, train, mask))
        features = pool(x)
        return head(features, self.num_classes), features


class WideBlock(nn.Module):
    """BN-ReLU-conv-BN-ReLU-dropout-conv, plus the shortcut."""

    width: int
    stride: int
    dtype: Any
    dropout_rate: float
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None) -> jax.Array:
        active = nn.relu(BatchNorm(self.dtype, self.axis_name, name="norm1")(x, train, mask))
        y = Conv(self.width, self.stride, self.dtype, kernel_init=HE_FAN_OUT, name="conv1")(active)
        y = nn.relu(BatchNorm(self.dtype, self.axis_name, name="norm2")(y, train, mask))
        y = nn.Dropout(self.dropout_rate, deterministic=not train, name="dropout")(y)
        y = Conv(self.width, 1, self.dtype, kernel_init=HE_FAN_OUT, name="conv2")(y)
        if x.shape[-1] != self.width:
            x = Conv(self.width, self.stride, self.dtype, 1, HE_FAN_OUT, name="shortcut")(active)
        return x + y
