"""What a user does with the result: a run's work directory as a function."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lpg_jax.training import batches, loop, metrics, recipe, settings, workdir
from lpg_jax.training.recipe import Facts, Recipe
from lpg_jax.training.settings import ConfigError


def load(workdir_: str | Path, method: str) -> tuple[Callable[..., np.ndarray], Any, ConfigDict]:
    """Reads a method's newest checkpoint; the data set itself is not needed.

    Args:
      workdir_: directory of a run, finished or not.
      method: one of its methods, such as "lpg".

    Returns:
      predict: `predict(inputs, seed=None)` -> class probabilities [N, C], float32. inputs [N, ...] are examples as the
        data set gives them (uint8 images, or floats in its units); standardising is done here. With several seeds the
        probabilities are the mean over all of them, an ensemble; `seed=` picks one model, whose accuracy is what
        the table averages.
      params: the parameters; with num_seeds > 1 every leaf has a leading axis [S], in the order of the seeds.
      config: the run's config.

    Raises:
      ConfigError (a ValueError): no run, no such method, or no checkpoint yet; a float64 run without
        `jax.config.update("jax_enable_x64", True)`.
      ValueError: from predict, for inputs of another shape or kind, or a seed that is not in the run.

    Example:
      >>> predict, params, config = lpg_jax.training.load("runs/digits", "lpg")  # doctest: +SKIP
      >>> predict(images).argmax(-1)  # doctest: +SKIP
    """
    home = Path(workdir_)
    config = ConfigDict(workdir.read_json(home / workdir.CONFIG, dict))
    try:
        settings.check(config)
        names = settings.method_names(config)
    except (AttributeError, ValueError) as error:
        raise ConfigError(f"{home / workdir.CONFIG}: {error}") from error
    if method not in names:
        raise ConfigError(f"method={method!r}: not in this run; it has {', '.join(names)}")
    facts = workdir.read_facts(home)
    of_method = recipe.build(config, facts, method)
    plan = loop.Plan.of(config, of_method.steps_per_epoch)
    state = loop.restore(of_method, plan, home / method)
    params, batch_stats = state.params, state.batch_stats
    probabilities = jax.jit(_make_probabilities(of_method, len(plan.seeds) > 1))

    def predict(inputs: Any, seed: int | None = None) -> np.ndarray:
        array = _checked(inputs, facts)
        if seed is not None and seed not in plan.seeds:
            raise ValueError(f"seed={seed}: must be one of {', '.join(map(str, plan.seeds))}")
        here = jnp.array([seed is None or seed == each for each in plan.seeds])
        blocks = []
        for index in batches.sequential_order(len(array), of_method.batch_size):
            there = index[index < len(array)]
            block = np.zeros((of_method.batch_size, *facts.input_shape), array.dtype)
            block[: len(there)] = array[there]
            blocks.append(np.asarray(probabilities(params, batch_stats, block, here))[: len(there)])
        return np.concatenate(blocks) if blocks else np.zeros((0, facts.num_classes), np.float32)

    return predict, params, config


def _make_probabilities(of_method: Recipe, several: bool) -> Callable[..., jax.Array]:
    def of_one(params: Any, batch_stats: Any, inputs: jax.Array) -> jax.Array:
        inputs = batches.standardise(of_method.facts, inputs, of_method.dtype)
        logits = metrics.logits_of(of_method, params, batch_stats, inputs, None)
        return jax.nn.softmax(logits).astype(jnp.float32)

    def probabilities(params: Any, batch_stats: Any, inputs: jax.Array, here: jax.Array) -> jax.Array:
        """Mean over the models that are `here` [S]."""
        if not several:
            return of_one(params, batch_stats, inputs)
        each = jax.vmap(of_one, (0, 0, None))(params, batch_stats, inputs)
        return jnp.mean(each, axis=0, where=here[:, None, None])

    return probabilities


def _checked(inputs: Any, facts: Facts) -> np.ndarray:
    """Inputs [N, ...] of the kind that the run was trained on."""
    array = np.asarray(inputs)
    if array.shape[1:] != facts.input_shape or array.ndim == 0:
        raise ValueError(f"inputs.shape={array.shape}: must be (N, {', '.join(map(str, facts.input_shape))})")
    if facts.input_dtype == "uint8":
        if array.dtype != np.uint8:
            raise ValueError(f"inputs.dtype={array.dtype}: must be uint8 (0 to 255), as in training")
        return array
    if array.dtype.kind != "f":
        raise ValueError(f"inputs.dtype={array.dtype}: must be float, in the units of the training data")
    array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError(f"inputs[{int(np.argwhere(~np.isfinite(array))[0][0])}]: must be finite")
    return array
