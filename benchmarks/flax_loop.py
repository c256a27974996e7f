"""The training loop a user would write from the documentation of Flax: linen, optax, one jitted step, no tricks.

It imports nothing of lpg_jax.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import traverse_util
from flax.training import train_state

from benchmarks import images
from benchmarks.timing import seconds_of


class Block(nn.Module):
    """conv-BN-ReLU-conv-BN and a shortcut without parameters."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = functools.partial(nn.Conv, self.width, (3, 3), padding=1, use_bias=False)
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5)
        y = nn.relu(norm(name="norm1")(conv(strides=self.stride, name="conv1")(x)))
        y = norm(name="norm2")(conv(name="conv2")(y))
        extra = self.width - x.shape[-1]
        shortcut = jnp.pad(
            x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (extra // 2, extra - extra // 2))
        )
        return nn.relu(y + shortcut)


class ResNet(nn.Module):
    """The ResNet of depth 6n + 2 for CIFAR (He et al. 2016)."""

    depth: int
    num_classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Conv(16, (3, 3), padding=1, use_bias=False, name="stem")(x)
        x = nn.relu(
            nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name="stem_norm")(x),
        )
        for stage, width in enumerate((16, 32, 64)):
            for index in range((self.depth - 2) // 6):
                stride = 2 if stage > 0 and index == 0 else 1
                x = Block(width, stride, name=f"stage{stage}_block{index}")(x, train)
        return nn.Dense(self.num_classes, name="head")(jnp.mean(x, axis=(1, 2)))


class MLP(nn.Module):
    """One hidden layer."""

    width: int = 128
    num_classes: int = 10

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.relu(nn.Dense(self.width, name="hidden0")(x.reshape(len(x), -1)))
        return nn.Dense(self.num_classes, name="head")(x)


class State(train_state.TrainState):
    """With the moments of BatchNorm."""

    batch_stats: Any


@jax.jit
def train_step(state: State, inputs: jax.Array, labels: jax.Array) -> tuple[State, jax.Array]:
    """One step of SGD; the mean loss."""

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updates = state.apply_fn(variables, inputs, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), updates

    (loss, updates), gradient = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    return state.apply_gradients(grads=gradient, batch_stats=updates.get("batch_stats", {})), loss


class Loop:
    """The loop around it, with the handles of `benchmarks.ours.Loop`."""

    def __init__(self, path: str, model: str, batch: int = 128, learning_rate: float = 0.1, seed: int = 0):
        self._images, self._batch, self._number = images.read(path), batch, 0
        network = MLP() if model == "mlp" else ResNet(int(model.removeprefix("resnet")))
        variables = network.init(jax.random.key(seed), self._images.inputs[:1], train=False)
        tx = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(learning_rate, momentum=0.9))
        fields = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
        self.state = State.create(apply_fn=network.apply, tx=tx, **fields)

    def load(self, weights: dict[str, np.ndarray]) -> None:
        """Starts from these parameters (`benchmarks.ours.Loop.weights`)."""
        flat = {tuple(name.split("/")): jnp.asarray(leaf) for name, leaf in weights.items()}
        params = traverse_util.unflatten_dict(flat)
        if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, self.state.params):
            raise ValueError(f"weights={sorted(weights)}: must be those of {self.state.params.keys()}")
        self.state = self.state.replace(params=params, opt_state=self.state.tx.init(params))

    def weights(self) -> dict[str, np.ndarray]:
        """Parameters by name."""
        flat = traverse_util.flatten_dict(self.state.params)
        return {"/".join(path): np.asarray(leaf) for path, leaf in flat.items()}

    def step(self) -> jax.Array:
        """The next batch; its mean loss."""
        places = images.batch(self._number, self._batch, len(self._images.labels))
        self.state, loss = train_step(self.state, self._images.inputs[places], self._images.labels[places])
        self._number += 1
        return loss

    def loss(self) -> float:
        """The mean loss of the next batch."""
        return float(self.step())

    def seconds(self, steps: int) -> float:
        """Of one of so many steps."""
        return seconds_of(self.step, jax.block_until_ready, steps)
