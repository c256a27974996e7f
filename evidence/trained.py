"""A finished run of a head, with its data, for measurements after training."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import probe
from lpg_jax import data
from lpg_jax.training import batches, recipe, state


class Model(NamedTuple):
    """A finished run with its data; inputs are standardised."""

    trained: probe.Trained
    start: Any  # parameters before the first step
    train: tuple[jax.Array, jax.Array]  # inputs, labels as given
    test: tuple[jax.Array, jax.Array]  # inputs, labels
    clean: np.ndarray  # [N] right labels of the training set
    logged: dict[str, Any]  # last line of metrics.jsonl


def read(home: Path, method: str) -> Model:
    """A run of one seed, from its work directory.

    Raises:
      ValueError: it is not there, or has not ended; names the directory.
    """
    if not (home / "summary.json").is_file():
        raise ValueError(f"{home}: no finished run; start `python -m evidence run {home.parts[-4]}` before")
    trained = probe.restore(home, method)
    dataset = data.load(trained.config.data, trained.config.seed)
    built = recipe.build(trained.config, trained.facts, method)
    start = state.initial_variables(built, jax.random.key(trained.config.seed))["params"]

    def arrays(split: data.Split) -> tuple[jax.Array, jax.Array]:
        inputs = batches.standardise(trained.facts, jnp.asarray(split.inputs), jnp.dtype(trained.config.train.dtype))
        return inputs, jnp.asarray(split.labels)

    logged = json.loads((home / method / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    train, test = arrays(dataset.train), arrays(dataset.test)
    return Model(trained, start, train, test, np.asarray(dataset.train.clean_labels), logged)
