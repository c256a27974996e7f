"""The thin ResNets for CIFAR (He et al. 2016, arXiv 1512.03385, section 4.2), also with squeeze-and-excitation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lpg_jax.models.layers import BatchNorm, Conv, as_images, head, pool, present, wide

WIDTHS = (16, 32, 64)
_REDUCTION = 16


class ResNet(nn.Module):
    """ResNet of depth 6n + 2 for images of any size: 3 stages of n blocks, widths 16, 32, 64.

    Shortcuts are of option A: where the shape changes, every second pixel and zeros for the new channels, hence no
    parameters. Kernels start from N(0, 2 / fan_in) (He et al. 2015, arXiv 1502.01852, equation 10).

    Attributes:
      num_classes: C.
      dtype: compute dtype.
      depth: 8, 20, 32, 44, 56, 110, or any 6n + 2.
      squeeze: add squeeze-and-excitation (Hu et al. 2018, arXiv 1709.01507) with reduction 16 to every block.
      axis_name: device axis of pmap for the batch statistics; None under jit.
    """

    num_classes: int
    dtype: Any = jnp.float32
    depth: int = 32
    squeeze: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, inputs: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Map inputs [B, H, W, channels] to (logits [B, C], features [B, 64]); see `lpg_jax.models.create`."""
        x = present(as_images(inputs), mask, self.dtype)
        x = Conv(WIDTHS[0], 1, self.dtype, name="stem")(x)
        x = nn.relu(BatchNorm(self.dtype, self.axis_name, name="stem_norm")(x, train, mask))
        for stage, width in enumerate(WIDTHS):
            for index in range((self.depth - 2) // 6):
                stride = 2 if stage > 0 and index == 0 else 1
                name = f"stage{stage}_block{index}"
                x = BasicBlock(width, stride, self.dtype, self.squeeze, self.axis_name, name=name)(x, train, mask)
        features = pool(x)
        return head(features, self.num_classes), features


class BasicBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, plus the shortcut, then ReLU."""

    width: int
    stride: int
    dtype: Any
    squeeze: bool
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, mask: jax.Array | None) -> jax.Array:
        y = Conv(self.width, self.stride, self.dtype, name="conv1")(x)
        y = nn.relu(BatchNorm(self.dtype, self.axis_name, name="norm1")(y, train, mask))
        y = Conv(self.width, 1, self.dtype, name="conv2")(y)
        y = BatchNorm(self.dtype, self.axis_name, name="norm2")(y, train, mask)
        if self.squeeze:
            y = SqueezeExcite(self.dtype, name="squeeze")(y)
        return nn.relu(y + shortcut(x, self.width, self.stride))


class SqueezeExcite(nn.Module):
    """Scale every channel by a number in (0, 1) computed from the means of all channels, example by example."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width, options = x.shape[-1], {"dtype": self.dtype, "param_dtype": wide(self.dtype)}
        gate = nn.relu(nn.Dense(width // _REDUCTION, **options, name="down")(pool(x)))
        gate = nn.sigmoid(nn.Dense(width, **options, name="up")(gate))
        return x * gate[:, None, None, :]


def shortcut(x: jax.Array, width: int, stride: int) -> jax.Array:
    """Option A of He et al.: [B, H, W, D] -> [B, ceil(H/stride), ceil(W/stride), width], with no parameters."""
    extra = width - x.shape[-1]
    return jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2)))
