"""One training step as a pure function of state and batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import lpg_jax
from lpg_jax import models
from lpg_jax.training.batches import Batch
from lpg_jax.training.recipe import Recipe
from lpg_jax.training.state import DROPOUT, TrainState, stream


class Window(NamedTuple):
    """Additive training figures since the last evaluation, in float32 or wider."""

    loss: jax.Array  # [] sum of the losses
    hits: jax.Array  # [] examples whose (given) label was predicted
    count: jax.Array  # [] examples

    @classmethod
    def empty(cls) -> "Window":
        return cls(jnp.zeros([]), jnp.zeros([]), jnp.zeros([]))


def train_step(recipe: Recipe, state: TrainState, batch: Batch) -> tuple[TrainState, Window]:
    """One update of parameters, BatchNorm moments and logit-gradient state.

    The objective is the sum of the losses of the examples that are there over their number; what the method does to
    their logit gradients does not depend on that reduction (`lpg_jax.perturbed`).

    Args:
      recipe: model, method, optimizer.
      state: without an axis of seeds; vmap this function for one.
      batch: [B] examples with a mask.

    Returns:
      The next state, and the batch's training figures.
    """
    loss_fn = lpg_jax.perturbed(recipe.method.loss, recipe.method.tx)
    present = jnp.sum(batch.mask)

    def objective(params: Any) -> tuple[jax.Array, Any]:
        (logits, features), updates = recipe.model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            batch.inputs,
            train=True,
            mask=batch.mask,
            mutable=["batch_stats"],
            rngs={"dropout": stream(state.key, DROPOUT, state.step)},
        )
        losses, logit_state = loss_fn(
            logits,
            batch.labels,
            state.logit_state,
            mask=batch.mask,
            features=features,
            head_kernel=models.head_kernel(params),
        )
        hits = jnp.sum(batch.mask & (jnp.argmax(logits, axis=-1) == batch.labels))
        total = jnp.sum(losses)
        return total / present.astype(total.dtype), (total, hits, updates, logit_state)

    gradient, (total, hits, updates, logit_state) = jax.grad(objective, has_aux=True)(state.params)
    delta, opt_state = recipe.descent.tx.update(gradient, state.opt_state, state.params)
    state = state._replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, delta),
        batch_stats=updates.get("batch_stats", {}),
        opt_state=opt_state,
        logit_state=logit_state,
    )
    return state, Window(*(figure.astype(jnp.result_type(float)) for figure in (total, hits, present)))
