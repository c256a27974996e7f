"""The compiled programs of a run, and how they spread over seeds and devices."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lpg_jax.training import batches, metrics, state
from lpg_jax.training.batches import Arrays
from lpg_jax.training.recipe import Recipe
from lpg_jax.training.state import TrainState
from lpg_jax.training.step import Window, train_step


def over_seeds(function: Callable[..., Any], seeds: tuple[int, ...], in_axes: Any) -> Callable[..., Any]:
    """The function for all seeds at once, or as it is for a single one, whose state has no axis of seeds."""
    return jax.vmap(function, in_axes) if len(seeds) > 1 else function


class Shared(NamedTuple):
    """Programs in which the method has no part, so that all methods of a run share them."""

    init: Callable[[], Any]  # () -> (keys, variables)
    score: Callable[..., metrics.Score]  # (params, batch_stats, arrays) -> figures


def make_shared(recipe: Recipe, seeds: tuple[int, ...]) -> Shared:
    """Compiles nothing yet; `recipe` may be that of any method."""

    def of_seed(seed: jax.Array) -> tuple[jax.Array, Any]:
        key = jax.random.key(seed)
        return key, state.initial_variables(recipe, key)

    numbers = jnp.asarray(seeds, jnp.uint32)
    init = functools.partial(jax.jit(over_seeds(of_seed, seeds, 0)), numbers if len(seeds) > 1 else numbers[0])
    score = over_seeds(functools.partial(metrics.score, recipe), seeds, (0, 0, None))
    return Shared(init, jax.jit(score))


def start(recipe: Recipe, seeds: tuple[int, ...], shared: Shared) -> tuple[TrainState, Window]:
    """State and figures before the first step."""

    def of_seed(key: jax.Array, variables: Any) -> tuple[TrainState, Window]:
        return state.create(recipe, key, variables), Window.empty()

    return jax.jit(over_seeds(of_seed, seeds, (0, 0)))(*shared.init())


def abstract_start(recipe: Recipe, seeds: tuple[int, ...]) -> tuple[TrainState, Window]:
    """Shapes and dtypes of `start`, computed without a device; a checkpoint is restored onto them."""
    return jax.eval_shape(lambda: start(recipe, seeds, make_shared(recipe, seeds)))


def make_advance(recipe: Recipe, seeds: tuple[int, ...]) -> Callable[..., tuple[TrainState, Window]]:
    """`advance(state, window, arrays, first, last)`: the steps first..last-1 in one call.

    The bounds are traced, so that one compiled loop body serves every stretch: a run cut anywhere by evaluations,
    checkpoints or a kill goes through the same bits.
    """
    order_of = over_seeds(functools.partial(batches.epoch_order, recipe), seeds, (0, None))

    def one_step(carry: tuple[TrainState, Window], order: jax.Array, row: jax.Array, arrays: Arrays):
        current, window = carry
        current, figures = train_step(recipe, current, batches.take(recipe, arrays, order[row]))
        return current, jax.tree.map(jnp.add, window, figures)

    step_of = over_seeds(one_step, seeds, (0, 0, None, None))
    length = recipe.steps_per_epoch

    def advance(state: TrainState, window: Window, arrays: Arrays, first: jax.Array, last: jax.Array):
        def epoch(number: jax.Array, carry: tuple[TrainState, Window]):
            order = order_of(state.key, number)
            begin, end = jnp.maximum(first - number * length, 0), jnp.minimum(last - number * length, length)
            return jax.lax.fori_loop(begin, end, lambda row, carry: step_of(carry, order, row, arrays), carry)

        return jax.lax.fori_loop(first // length, (last + length - 1) // length, epoch, (state, window))

    return jax.jit(advance, donate_argnums=(0, 1))
