"""A grid over fields of a config -> runs, each in a directory of its own."""

import copy
import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lpg_jax.training import settings
from lpg_jax.training.settings import Config, ConfigError

_LONGEST_NAME = 150  # of a directory; file systems end at 255 bytes


class Run(NamedTuple):
    """One point of a grid."""

    point: dict[str, Any]  # dotted field -> value, as the config holds it
    config: Config
    home: Path  # its work directory


def expand(config: Config, grid: Mapping[str, Iterable[Any]], home: str | Path) -> list[Run]:
    """The product of a grid, the last field changing fastest.

    Args:
      config: what the runs have in common; it is not changed.
      grid: dotted field -> its values; {} is a single run in HOME/all.
      home: directory of the sweep; a run lies in HOME/FIELD=VALUE,FIELD=VALUE.

    Returns:
      The runs.

    Raises:
      ConfigError: no such field, no values, a value twice, or one of another type; names field and value.

    | value | in the directory's name |
    |---|---|
    | 0.10 or 1e-1, a NumPy number | as the config holds it: 0.1 |
    | 1 in a field of floats | 1.0 |
    | (64, 32) | 64x32 |
    | with characters other than letters, digits and ._+=- | "_" for these, and a digest of the whole name at its end |
    | a name longer than 150 characters | cut, and likewise |

    Example:
      >>> from ml_collections import ConfigDict
      >>> config = ConfigDict({"seed": 0, "lpg": {"epsilon": 0.1}})
      >>> runs = expand(config, {"lpg.epsilon": [0, 0.3], "seed": [1]}, "here")
      >>> [str(run.home) for run in runs]
      ['here/lpg.epsilon=0.0,seed=1', 'here/lpg.epsilon=0.3,seed=1']
    """
    axes = {field: _axis(config, field, values) for field, values in grid.items()}
    runs = []
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        changed = copy.deepcopy(config)
        changed.update_from_flattened_dict(point)
        runs.append(Run(point, changed, Path(home) / directory_name(point)))
    return runs


def _axis(config: Config, field: str, values: Any) -> list[Any]:
    """The values of a field, as the config holds them."""
    if field not in settings.flat(config.to_dict()):
        close = settings.closest_field(field, config)
        kind = "a group of fields" if field in settings.field_names(config) else "no such field"
        hint = f"; did you mean {close}?" if close and close != field else ""
        raise ConfigError(f"sweep(): {field}: {kind}{hint}")
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigError(f"sweep(): {field}={values!r}: must be a list of values")
    held = []
    for value in values:
        value, scratch = value.item() if isinstance(value, np.generic) else value, copy.deepcopy(config)
        try:
            scratch.update_from_flattened_dict({field: value})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"sweep(): {field}={value!r}: {' '.join(str(error).split())}") from error
        value = settings.flat(scratch.to_dict())[field]
        if value in held:
            raise ConfigError(f"sweep(): {field}={value!r}: stands there twice")
        held.append(value)
    if not held:
        raise ConfigError(f"sweep(): {field}: has no values; give one or remove it")
    return held


def directory_name(point: Mapping[str, Any]) -> str:
    """A file name for a point of a grid; other points have other names, see `expand`."""
    whole = ",".join(f"{field}={text_of(value)}" for field, value in point.items()) or "all"
    parts = (re.sub(r"[^A-Za-z0-9._+=-]", "_", f"{field}={text_of(value)}") for field, value in point.items())
    safe = ",".join(parts) or "all"
    if safe == whole and len(safe) <= _LONGEST_NAME:
        return safe
    return f"{safe[:_LONGEST_NAME]}-{hashlib.sha256(whole.encode()).hexdigest()[:6]}"


def text_of(value: Any) -> str:
    """A value as it stands in directory names and tables: (64, 32) is 64x32."""
    return "x".join(map(str, value)) if isinstance(value, (tuple, list)) and value else str(value)
