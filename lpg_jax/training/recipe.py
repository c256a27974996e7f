"""Config and data set -> everything a step needs that is no array."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from lpg_jax import descent, models
from lpg_jax.data import Dataset
from lpg_jax.training import augment, methods
from lpg_jax.training.augment import Augment
from lpg_jax.training.settings import Config

AXIS = "data"  # the axis of devices that share a batch


class Facts(NamedTuple):
    """What a run must know of its data besides the arrays; stored as dataset.json, so that `load` needs no data."""

    input_shape: tuple[int, ...]  # of one example
    input_dtype: str  # "uint8" (read as x / 255) or "float32"
    train_size: int  # N
    num_classes: int  # C
    class_names: tuple[str, ...]  # [C]
    class_counts: tuple[int, ...]  # [C] training examples per class, as given (noise included)
    noise_rate: float
    mean: tuple[float, ...]  # per channel
    std: tuple[float, ...]  # per channel

    @classmethod
    def of(cls, dataset: Dataset) -> "Facts":
        """The facts of a data set."""
        inputs = dataset.train.inputs
        return cls(
            input_shape=tuple(inputs.shape[1:]),
            input_dtype=str(inputs.dtype),
            train_size=len(inputs),
            num_classes=dataset.num_classes,
            class_names=tuple(dataset.class_names),
            class_counts=tuple(int(count) for count in dataset.class_counts),
            noise_rate=float(dataset.noise_rate),
            mean=tuple(float(value) for value in dataset.mean),
            std=tuple(float(value) for value in dataset.std),
        )

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Facts":
        """Undoes `_asdict` and JSON, which turns tuples into lists."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        return cls(**values)


class Recipe(NamedTuple):
    """How one method is trained; closed over by the jitted functions."""

    facts: Facts
    model: nn.Module
    method: methods.Method
    descent: descent.Descent
    augment: Augment
    dtype: Any  # compute dtype
    batch_size: int
    micro_batches: int  # parts that a batch is done in
    steps_per_epoch: int
    total_steps: int


def build(config: Config, facts: Facts, method: str) -> Recipe:
    """Builds the recipe of a method.

    Args:
      config: the whole config.
      facts: of its data set.
      method: one name of config.method.

    Raises:
      ValueError: a value out of range or without effect; names field=value.
    """
    dtype = jnp.dtype(config.train.dtype)
    steps_per_epoch = -(-facts.train_size // config.train.batch_size)
    axis_name = AXIS if config.parallel == "pmap" else None
    return Recipe(
        facts=facts,
        model=_model(config.model, facts.num_classes, dtype, axis_name),
        method=methods.build(method, config, facts.class_counts),
        descent=descent.from_config(config.train, steps_per_epoch),
        augment=augment.from_config(config.augment, facts.input_shape),
        dtype=dtype,
        batch_size=config.train.batch_size,
        micro_batches=config.train.micro_batches,
        steps_per_epoch=steps_per_epoch,
        total_steps=config.train.epochs * steps_per_epoch,
    )


def _model(fields: Any, num_classes: int, dtype: Any, axis_name: str | None) -> nn.Module:
    options = {name: value for name, value in fields.items() if name != "name" and value is not None}
    options |= {} if axis_name is None else {"axis_name": axis_name}
    try:
        return models.create(fields.name, num_classes, dtype=dtype, **options)
    except ValueError as error:
        raise ValueError(f"model.{error}") from error
