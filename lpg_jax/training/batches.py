"""Which examples a step sees. The order follows from key and epoch alone, so that a resumed run repeats it exactly."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lpg_jax.data import Split
from lpg_jax.training.recipe import Facts, Recipe
from lpg_jax.training.state import ORDER, stream


class Arrays(NamedTuple):
    """A part of a data set on the device."""

    inputs: jax.Array  # [N, ...] as in the source: uint8, or float
    labels: jax.Array  # [N] int32


class Batch(NamedTuple):
    """Examples of one step."""

    inputs: jax.Array  # [B, ...] standardised, in the compute dtype
    labels: jax.Array  # [B] int32
    mask: jax.Array  # [B] bool; False: padding


def to_device(split: Split) -> Arrays:
    """Copies inputs and given labels of a `lpg_jax.data.Split` to the default device."""
    return Arrays(jnp.asarray(split.inputs), jnp.asarray(split.labels, jnp.int32))


def epoch_order(recipe: Recipe, key: jax.Array, epoch: jax.Array) -> jax.Array:
    """A random permutation of the training examples, cut into batches.

    Args:
      recipe: gives train_size N and batch_size B.
      key: [] typed key of the seed.
      epoch: [] int, counted from 0.

    Returns:
      int32 [ceil(N / B), B] indices; places beyond the last example hold N, which `take` masks.
    """
    size = recipe.facts.train_size
    permutation = jax.random.permutation(stream(key, ORDER, epoch), size)
    padding = recipe.steps_per_epoch * recipe.batch_size - size
    return jnp.pad(permutation, (0, padding), constant_values=size).reshape(-1, recipe.batch_size)


def sequential_order(size: int, batch_size: int) -> np.ndarray:
    """The examples 0..N-1 in order, int32 [ceil(N / B), B], padded with N."""
    number = -(-size // batch_size)
    return np.minimum(np.arange(number * batch_size, dtype=np.int32), size).reshape(number, batch_size)


def take(recipe: Recipe, arrays: Arrays, index: jax.Array) -> Batch:
    """The examples at index [B]; N stands for padding, which gets label 0 and mask False."""
    size = arrays.labels.shape[0]
    mask = index < size
    inputs = arrays.inputs.at[index].get(mode="fill", fill_value=0)
    labels = arrays.labels.at[index].get(mode="fill", fill_value=0)
    return Batch(standardise(recipe.facts, inputs, recipe.dtype), labels, mask)


def standardise(facts: Facts, inputs: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """(x - mean) / std per channel, with x / 255 for uint8; at least float32 inside, then cast to dtype."""
    wide = jnp.promote_types(dtype, jnp.float32)
    values = inputs.astype(wide)
    if inputs.dtype == jnp.uint8:
        values = values / 255
    shape = (1,) * (inputs.ndim - 1) + (-1,)
    mean, std = (jnp.asarray(moment, wide).reshape(shape) for moment in (facts.mean, facts.std))
    return ((values - mean) / std).astype(dtype)
