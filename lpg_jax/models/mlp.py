"""Multi-layer perceptron; without hidden layers, the linear classifier."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lpg_jax.models.layers import HE_FAN_IN, head, present, wide


class MLP(nn.Module):
    """Dense layers with ReLU on flattened inputs [B, ...] of any shape.

    Attributes:
      num_classes: C.
      dtype: compute dtype of the hidden layers.
      hidden: widths of the hidden layers; () gives softmax regression on the inputs themselves.
      axis_name: taken so that all models are made alike; there are no batch statistics here.
    """

    num_classes: int
    dtype: Any = jnp.float32
    hidden: tuple[int, ...] = (128,)
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, inputs: jax.Array, train: bool = False, mask: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Map inputs [B, ...] to (logits [B, C], features [B, D]); see `lpg_jax.models.create`."""
        del train
        dtype = wide(self.dtype)
        x = present(inputs, mask, self.dtype if self.hidden else dtype)
        x = jnp.reshape(x, (x.shape[0], -1))
        for index, width in enumerate(self.hidden):
            layer = nn.Dense(width, dtype=self.dtype, param_dtype=dtype, kernel_init=HE_FAN_IN, name=f"hidden{index}")
            x = nn.relu(layer(x))
        features = x.astype(dtype)
        return head(features, self.num_classes), features
