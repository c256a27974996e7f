"""The step of `lpg_jax.training` as `launch.py` runs it, with the same handles as the loops it is compared with."""

from typing import Any

import jax
import numpy as np
from flax import traverse_util

from benchmarks import images
from benchmarks.timing import seconds_of
from configs import default
from lpg_jax import data
from lpg_jax.training import batches, parallel, recipe
from lpg_jax.training.recipe import Facts

# plain training, the closed form and PGD as the paper prices them, and SAM for scale
METHODS = {"plain": "ce", "lpg": "lpg", "lpg_pgd": "lpg", "sam": "sam"}
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4


def config_of(path: str, model: str, method: str = "plain", batch: int = 128, dtype: str = "float32") -> Any:
    """A config that trains `model` on the images of a file by one of `METHODS`."""
    config = default.get_config()
    config.num_seeds, config.method = 1, METHODS[method]
    config.data.name, config.data.path = "npz", path
    config.model.name = model
    config.train.batch_size, config.train.dtype, config.train.decayed = batch, dtype, "all"
    config.train.schedule, config.train.learning_rate = "constant", LEARNING_RATE
    config.train.momentum, config.train.weight_decay = MOMENTUM, WEIGHT_DECAY
    config.lpg.split, config.lpg.epsilon, config.lpg.slope = "accuracy", 0.3, 0.1
    if method == "lpg_pgd":
        config.lpg.pgd_steps, config.lpg.metric = 5, "head"
    return config


class Loop:
    """Trains one model; every loop of this room has these methods."""

    def __init__(self, path: str, model: str, method: str = "plain", batch: int = 128, dtype: str = "float32"):
        config = config_of(path, model, method, batch, dtype)
        dataset = data.load(config.data, config.seed)
        built = recipe.build(config, Facts.of(dataset), config.method)
        layout = parallel.Layout.of(config)
        self._calm = layout.shards > 1  # with steps in flight, collectives on CPU can wait for each other for ever
        self._slots = batches.slots(batch, 1, layout.shards)
        self._total, self._batch, self._number = built.facts.train_size, batch, 0
        self._fetch = parallel.make_fetch(layout, parallel.on_devices(layout, batches.arrays_of(dataset.train)))
        self._step = parallel.make_step(built, layout, several=False)
        self.carry = parallel.start(built, layout, (config.seed,), parallel.make_shared(built, layout))
        self._seen = (0.0, 0.0)

    def weights(self) -> dict[str, np.ndarray]:
        """Parameters by name, as Flax stores them, without the level that wraps a convolution."""
        flat = traverse_util.flatten_dict(self.carry[0].params)
        return {"/".join(part for part in path if part != "conv"): np.array(leaf) for path, leaf in flat.items()}

    def step(self) -> jax.Array:
        """The next batch; returns the sum of all losses so far."""
        places = np.append(images.batch(self._number, self._batch, self._total), self._total)
        self.carry = self._step(*self.carry, self._fetch(places[self._slots], self._slots))
        self._number += 1
        loss = self.carry[1].loss
        return jax.block_until_ready(loss) if self._calm else loss

    def loss(self) -> float:
        """The mean loss of the next batch."""
        self.step()
        window, before = self.carry[1], self._seen
        self._seen = (float(window.loss), float(window.count))
        return (self._seen[0] - before[0]) / (self._seen[1] - before[1])

    def lowered(self) -> Any:
        """The lowered program of a step."""
        places = np.append(images.batch(0, self._batch, self._total), self._total)
        return self._step.lower(*self.carry, self._fetch(places[self._slots], self._slots))

    def seconds(self, steps: int) -> float:
        """Of one of so many steps."""
        return seconds_of(self.step, jax.block_until_ready, steps)
