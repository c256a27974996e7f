"""A plain optax training loop with LPG in it, on one device or with the vocabulary spread over several.

The lines that LPG adds to such a loop are marked with their number.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import lpg_jax
from examples.language_model.model import Transformer
from examples.language_model.text import Windows

AXIS = "vocabulary"


class Method(NamedTuple):
    """What is trained: tau = 0 and epsilon = slope = 0 is cross-entropy."""

    tau: float = 0.0  # logit adjustment: the loss sees z + tau log pi
    epsilon: float = 0.0  # LPG by frequency, bound eps_c = epsilon + slope |threshold - s_c|
    slope: float = 0.0
    threshold: float = 0.5  # of the log-scaled count, in [0, 1]: rarer words are amplified, the others dampened
    direction: str = "sample"
    learning_rate: float = 1e-2


class Budget(NamedTuple):
    """What every method gets, and the size of the model."""

    steps: int = 400
    batch: int = 16  # windows per step
    context: int = 64  # tokens per window
    width: int = 64
    layers: int = 2
    vocabulary: int = 8192
    held_out: int | None = None  # windows of the held-out text to evaluate on; None is all of them


class State(NamedTuple):
    params: Any
    opt_state: Any
    logit_state: Any  # LPG's: class statistics, margins and bounds


class Trainer(NamedTuple):
    init: Callable[[int], State]  # seed -> state
    step: Callable[[State, Windows], tuple[State, jax.Array]]  # -> new state, loss per token
    logits: Callable[[Any, jax.Array], jax.Array]  # (params, tokens [B, T]) -> z [B, T, C]


def log_prior(counts: np.ndarray) -> np.ndarray:
    """log pi [C] of the training text."""
    return np.log(counts / counts.sum())


def make_trainer(method: Method, budget: Budget, counts: np.ndarray, mesh: Mesh | None = None) -> Trainer:
    """Everything that a loop needs.

    Args:
      method: loss, LPG and learning rate.
      budget: sizes of the model and of the run.
      counts: [C] occurrences of each token in the training text, > 0.
      mesh: from `vocabulary_mesh`, or None for one device.
    """
    model = Transformer(budget.vocabulary, budget.width, budget.layers)
    schedule = optax.warmup_cosine_decay_schedule(0.0, method.learning_rate, budget.steps // 10 + 1, budget.steps + 1)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=0.01))
    losses = lpg_jax.losses
    plain = losses.logit_adjusted(counts, method.tau) if method.tau else losses.cross_entropy
    split, bound = lpg_jax.by_frequency(counts, method.threshold), lpg_jax.varied(method.epsilon, method.slope)
    tx = lpg_jax.lpg(split, bound, direction=method.direction) if method.epsilon or method.slope else optax.identity()
    loss_fn = lpg_jax.perturbed(plain, tx)  # 1

    def init(seed: int) -> State:
        params: Any = model.init(jax.random.key(seed), jnp.zeros((1, budget.context), jnp.int32))["params"]
        # every method starts where the loss sees the unigram model: else most steps go into that
        params["head"]["bias"] += (1 - method.tau) * log_prior(counts)
        return State(params, optimizer.init(params), tx.init(jnp.zeros(budget.vocabulary)))  # 2

    def mean_loss(params: Any, logit_state: Any, batch: Windows) -> tuple[jax.Array, Any]:
        logits = model.apply({"params": params}, batch.inputs)
        losses, logit_state = loss_fn(logits, batch.labels, logit_state, mask=batch.mask)  # 3
        return losses.sum() / batch.mask.sum(), logit_state

    def step(state: State, batch: Windows) -> tuple[State, jax.Array]:
        gradient = jax.value_and_grad(mean_loss, has_aux=True)
        (loss, logit_state), gradient = gradient(state.params, state.logit_state, batch)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        return State(optax.apply_updates(state.params, updates), opt_state, logit_state), loss

    shardings = None
    if mesh is not None:
        shardings = shard_classes(jax.eval_shape(init, 0), budget.vocabulary, mesh)
    placed = None if mesh is None else (shardings, NamedSharding(mesh, PartitionSpec()))
    return Trainer(
        jax.jit(init, static_argnums=0, out_shardings=shardings),
        jax.jit(step, donate_argnums=0, out_shardings=placed),
        jax.jit(lambda params, tokens: model.apply({"params": params}, tokens)),
    )


def vocabulary_mesh(devices: int) -> Mesh:
    """The first `devices` devices as one axis; Auto, so that jit finds the sharding of everything between."""
    return jax.make_mesh((devices,), (AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])


def shard_classes(tree: Any, vocabulary: int, mesh: Mesh) -> Any:
    """A sharding for each array: those whose last axis is the vocabulary are spread over it (the head's kernel and
    bias, their Adam moments, LPG's statistics), the others are on every device."""

    def sharding(leaf: Any) -> NamedSharding:
        of_classes = leaf.shape[-1:] == (vocabulary,)
        return NamedSharding(mesh, PartitionSpec(*[None] * (leaf.ndim - 1), AXIS) if of_classes else PartitionSpec())

    return jax.tree.map(sharding, tree)


def batches(data: Windows, size: int, seed: int):
    """Batches without end, in a new order for each pass; the same ones for every method."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(data.inputs))
        for start in range(0, len(order) - size + 1, size):
            yield Windows(*(array[order[start : start + size]] for array in data))


def train(trainer: Trainer, budget: Budget, data: Windows, seed: int) -> tuple[State, list[float]]:
    """The trained state, and the loss of every step."""
    state, curve = trainer.init(seed), []
    for _, batch in zip(range(budget.steps), batches(data, budget.batch, seed), strict=False):
        state, loss = trainer.step(state, batch)
        curve.append(float(loss))  # also waits for the step, without which virtual devices can hang
    return state, curve


@functools.partial(jax.jit, static_argnums=0)
def _shifted_losses(logits_of: Callable, params: Any, batch: Windows, shifts: jax.Array) -> jax.Array:
    logits = logits_of(params, batch.inputs)
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    return jnp.stack([cross_entropy(logits + shift, batch.labels) for shift in shifts])


def token_losses(trainer: Trainer, params: Any, data: Windows, shifts: np.ndarray, size: int = 16) -> np.ndarray:
    """-log softmax(z + shift) at the label, [S, tokens] for shifts [S, C]; padding left out."""
    pad = -len(data.inputs) % size
    padded = Windows(*(np.pad(array, ((0, pad), (0, 0))) for array in data))
    parts = [
        _shifted_losses(trainer.logits, params, Windows(*(a[i : i + size] for a in padded)), shifts.astype(np.float32))
        for i in range(0, len(padded.inputs), size)
    ]
    return np.concatenate([np.asarray(part) for part in parts], axis=1)[:, padded.mask > 0]
