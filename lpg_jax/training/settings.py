"""A config as a whole: its JSON form, its checks, and what two configs differ in."""

import difflib
import hashlib
import json
from typing import Any, TypeAlias

import jax

Config: TypeAlias = Any  # an ml_collections.ConfigDict, whose fields a type checker cannot know

CHOICES = {
    "parallel": ("jit", "pmap"),
    "train.dtype": ("float32", "bfloat16", "float64"),
    "train.feed": ("device", "host"),
}
FREE = (
    "checkpoint.",
    "log.",
    "num_devices",
)  # fields that leave the result as it is, so that a resumed run may change them


class ConfigError(ValueError):
    """A config or work directory that cannot be run; raised before any training."""


def to_json(config: Config) -> dict[str, Any]:
    """The config as nested dicts of JSON values (tuples become lists)."""
    return json.loads(json.dumps(config.to_dict()))


def flat(fields: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"data": {"name": 1}} -> {"data.name": 1}."""
    result = {}
    for name, value in fields.items():
        nested = isinstance(value, dict)
        result.update(flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value})
    return result


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The fields, other than the `FREE` ones, in which two configs in JSON form differ: "name: old -> new".

    Fields that only one of them has, because another version wrote it, are one entry.
    """
    before, after = flat(old), flat(new)
    both = [name for name in sorted(before.keys() & after.keys()) if not name.startswith(FREE)]
    changed = [f"{name}: {before[name]!r} -> {after[name]!r}" for name in both if before[name] != after[name]]
    alone = [name for name in sorted(before.keys() ^ after.keys()) if not name.startswith(FREE)]
    if alone:
        listed = ", ".join(alone[:3]) + (", ..." if len(alone) > 3 else "")
        changed.append(f"{listed}: not a field in both, so another version of lpg_jax wrote it")
    return changed


def digest(config: Config) -> str:
    """Six hex digits that tell two configs apart, unless they differ in `FREE` fields only."""
    fields = {name: value for name, value in flat(to_json(config)).items() if not name.startswith(FREE)}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:6]


def method_names(config: Config) -> list[str]:
    """config.method, a comma list, as a list; "ce, lpg" -> ["ce", "lpg"].

    Raises:
      ValueError: an empty entry, or the same name twice.
    """
    names = [name.strip() for name in config.method.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise ValueError(f"method={config.method!r}: must be a comma list of different methods, such as 'ce,lpg'")
    return names


def check(config: Config) -> None:
    """Checks the fields that belong to no room of their own.

    Raises:
      ValueError: names field=value and what is supported.
    """
    values = flat(config.to_dict())
    for name, known in CHOICES.items():
        if values[name] not in known:
            raise ValueError(f"{name}={values[name]!r}: must be one of {', '.join(map(repr, known))}")
    if config.train.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError("train.dtype='float64': needs jax.config.update('jax_enable_x64', True), as launch.py does")
    least = {"seed": 0, "num_seeds": 1, "train.batch_size": 1, "train.epochs": 1, "evaluate.every_epochs": 1}
    least |= {"checkpoint.every_steps": 0, "checkpoint.keep": 1, "lpg.pgd_steps": 0}
    least |= {"train.micro_batches": 1, "num_devices": 0}
    for name, low in least.items():
        if values[name] < low:
            raise ValueError(f"{name}={values[name]}: must be >= {low}")
    if config.train.micro_batches > config.train.batch_size:
        raise ValueError(f"train.micro_batches={config.train.micro_batches}: must be <= train.batch_size")
    if config.seed + config.num_seeds > 2**31:
        raise ValueError(f"seed={config.seed}: must be below 2**31 - num_seeds")


def field_names(config: Config) -> set[str]:
    """The dotted names of all fields and of all groups of fields: {"seed", "data", "data.name", ...}."""
    fields = flat(config.to_dict())
    return {*fields, *(name.rsplit(".", depth)[0] for name in fields for depth in range(1, name.count(".") + 1))}


def closest_field(name: str, config: Config) -> str | None:
    """The field whose dotted name is most like `name`, or whose last part is like that of `name`; None if none is."""
    known = sorted(field_names(config))
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    leaves = {field.rsplit(".", 1)[-1]: field for field in known}
    leaf = difflib.get_close_matches(name.rsplit(".", 1)[-1], leaves, n=1, cutoff=0.75)
    return found[0] if found else leaves[leaf[0]] if leaf else None
