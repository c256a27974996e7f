"""What a method learns from the validation part before a step: weights of examples (GDW, MW-Net), or eps per class."""

from typing import Any

import jax
import jax.numpy as jnp

from lpg_jax import descent, losses
from lpg_jax.training import batches
from lpg_jax.training.batches import Arrays, Raw
from lpg_jax.training.forward import batch_of, dropout_key, forward
from lpg_jax.training.recipe import Recipe
from lpg_jax.training.state import META, TrainState, stream


def learn(
    recipe: Recipe, state: TrainState, raw: Raw, validation: Arrays | None, axis_name: str | None
) -> tuple[dict[str, jax.Array], Any]:
    """Tries the step out on the validation part.

    The virtual step is plain SGD with this step's learning rate, on the batch of the real step (its augmentation and
    dropout, too) and with the method's own loss, but without the transformations chained behind. The validation loss is
    the cross-entropy of examples drawn anew, classes equally likely, without augmentation and in training mode.

    Args:
      recipe: of a method with `meta`.
      state: without an axis of seeds.
      raw: [1, b] examples.
      validation: the validation part, the same on every device.
      axis_name: as of `train_step`.

    Returns:
      What the method's transformation takes at update, and the next meta state.

    Raises:
      ValueError: validation is None.
    """
    meta = recipe.method.meta
    assert meta is not None
    if validation is None:
        raise ValueError(
            "validation=None: this method learns from the validation part; set data.validation_per_class > 0, or "
            "data.validation > 0"
        )
    batch = batch_of(recipe, state, jax.tree.map(lambda leaf: leaf[0], raw), 0)
    held_out = _draw(recipe, state, validation)
    dropout = dropout_key(state, 0, axis_name)

    def logits_fn(params: Any) -> tuple[jax.Array, None]:
        return forward(recipe, params, state.batch_stats, batch, dropout)[0], None

    def slope(params: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            logits = forward(recipe, params, state.batch_stats, held_out, dropout)[0]
            return jnp.mean(losses.cross_entropy(logits, held_out.labels))

        return jax.grad(loss)(params)

    method = recipe.method

    def loss_fn(logits: jax.Array, labels: jax.Array) -> jax.Array:
        inputs = {"logits": jax.lax.stop_gradient(logits), "labels": labels, "mask": batch.mask, "axis_name": axis_name}
        return method.loss(logits, labels, **method.loss.loss_args(state.loss_state, **inputs))

    rate = jnp.asarray(recipe.descent.learning_rate(state.step))
    step = descent.virtual_step(
        logits_fn, state.params, batch.labels, slope, rate, loss_fn=loss_fn, mask=batch.mask, axis_name=axis_name
    )
    learnt, meta_state = meta.update(step, state.meta_state)
    return {meta.argument: learnt}, meta_state


def _draw(recipe: Recipe, state: TrainState, validation: Arrays) -> batches.Batch:
    """A batch of the validation part, drawn with replacement; its classes are equally likely."""
    meta, (inputs, labels) = recipe.method.meta, (jnp.asarray(validation.inputs), jnp.asarray(validation.labels))
    assert meta is not None
    counts = jnp.bincount(labels, length=recipe.facts.num_classes)
    weights = 1 / counts[labels].astype(jnp.float32)
    key = stream(state.key, META, state.step)
    index = jax.random.choice(key, labels.shape[0], (meta.batch_size,), p=weights / jnp.sum(weights))
    mask = jnp.ones(meta.batch_size, bool)
    return batches.prepare(recipe, Raw(inputs[index], labels[index], mask, jnp.arange(meta.batch_size)), None)
