"""The `data` fields of a config, checked before anything is read."""

import difflib
import math
import numbers
from typing import Any, NamedTuple

NOISE_KINDS = ("none", "symmetric", "asymmetric", "pair", "matrix", "instance", "human", "file")
_RATE_KINDS = ("symmetric", "asymmetric", "pair", "instance")
_PATH_KINDS = {
    "matrix": "a [C, C] transition matrix (.npy or .npz)",
    "human": "the human label file (.npz)",
    "file": "labels written by save_labels (.npz)",
}


class NoiseOptions(NamedTuple):
    """Label noise, as asked for."""

    kind: str = "none"
    rate: float = 0.0
    include_self: bool = False
    path: str = ""
    key: str = ""


class Options(NamedTuple):
    """Every data field, as asked for; `lpg_jax.data` documents them."""

    name: str
    data_dir: str
    path: str
    train_size: int
    imbalance: float
    imbalance_kind: str
    validation: float
    validation_per_class: int
    validation_labels: str
    test_fraction: float
    standardise: bool
    noise: NoiseOptions


def read_options(config: Any) -> Options:
    """Reads and checks the data fields of a config.

    Args:
      config: ConfigDict or any object whose attributes are the fields listed in `lpg_jax.data`; `name` is
        required, a field that is absent or None takes its default.

    Returns:
      `Options`, every value within its range.

    Raises:
      ValueError: a value out of range, or a field set that the other fields leave without effect. The message
        names field=value and the fix.

    Example:
      >>> from types import SimpleNamespace
      >>> read_options(SimpleNamespace(name="digits", imbalance=50.0)).noise.kind
      'none'
    """
    name = _get(config, "name", "")
    path = str(_get(config, "path", ""))
    if not name:
        raise ValueError("data.name='': must be 'digits', 'npz' or the name of a TFDS set")
    if path and name != "npz":
        raise ValueError(f"data.path={path!r}: only read when data.name='npz', but data.name={name!r}; leave it empty")
    if name == "npz" and not path:
        raise ValueError("data.path='': data.name='npz' needs the .npz file with x_train, y_train[, x_test, y_test]")
    validation = _number(config, "validation", 0.0, lambda v: 0 <= v < 1, "must be in [0, 1)")
    per_class = _count(config, "validation_per_class")
    if validation > 0 and per_class > 0:
        raise ValueError(
            f"data.validation_per_class={per_class}: excludes data.validation={validation}; set one of them to 0"
        )
    return Options(
        name=name,
        data_dir=str(_get(config, "data_dir", "")),
        path=path,
        train_size=_count(config, "train_size"),
        imbalance=_number(config, "imbalance", 1.0, lambda v: v >= 1 and math.isfinite(v), "must be >= 1 and finite"),
        imbalance_kind=_choice(config, "imbalance_kind", ("exponential", "step")),
        validation=validation,
        validation_per_class=per_class,
        validation_labels=_choice(config, "validation_labels", ("noisy", "clean")),
        test_fraction=_number(config, "test_fraction", 0.3, lambda v: 0 < v < 1, "must be in (0, 1)"),
        standardise=_flag(config, "standardise", True),
        noise=_read_noise(_get(config, "noise", None)),
    )


def _read_noise(config: Any) -> NoiseOptions:
    noise = NoiseOptions(
        kind=_choice(config, "kind", NOISE_KINDS, "data.noise."),
        rate=_number(config, "rate", 0.0, lambda v: 0 <= v <= 1, "must be in [0, 1]", "data.noise."),
        include_self=bool(_get(config, "include_self", False)),
        path=str(_get(config, "path", "")),
        key=str(_get(config, "key", "")),
    )
    kind = f"data.noise.kind={noise.kind!r}"
    if noise.rate > 0 and noise.kind not in _RATE_KINDS:
        why = (
            "draws no noise; set a kind such as 'symmetric'" if noise.kind == "none" else "takes its noise from a file"
        )
        raise ValueError(f"data.noise.rate={noise.rate}: {kind} {why}, or set data.noise.rate=0.0")
    if noise.include_self and noise.kind != "symmetric":
        raise ValueError(f"data.noise.include_self=True: only for kind 'symmetric', but {kind}; set it to False")
    if noise.path and noise.kind not in _PATH_KINDS:
        raise ValueError(
            f"data.noise.path={noise.path!r}: {kind} reads no file; use {', '.join(_PATH_KINDS)}, or leave it empty"
        )
    if noise.kind in _PATH_KINDS and not noise.path:
        raise ValueError(f"data.noise.path='': {kind} needs {_PATH_KINDS[noise.kind]}")
    if noise.key and noise.kind != "human":
        raise ValueError(f"data.noise.key={noise.key!r}: only for kind 'human', but {kind}; leave it empty")
    if noise.kind == "human" and not noise.key:
        raise ValueError(f"data.noise.key='': {kind} needs the name of an array in its file, e.g. 'c10_worse'")
    return noise


def _get(config: Any, field: str, default: Any) -> Any:
    """None is an unset ml_collections placeholder, the same as an absent field."""
    value = getattr(config, field, None)
    return default if value is None else value


def _number(config: Any, field: str, default: float, accepts, rule: str, prefix: str = "data.") -> float:
    value = _get(config, field, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{prefix}{field}={value!r}: must be a number") from None
    if not accepts(number):
        raise ValueError(f"{prefix}{field}={value}: {rule}")
    return number


def _count(config: Any, field: str, prefix: str = "data.") -> int:
    value = _get(config, field, 0)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 0:
        raise ValueError(f"{prefix}{field}={value!r}: must be an integer >= 0")
    return int(value)


def _flag(config: Any, field: str, default: bool, prefix: str = "data.") -> bool:
    value = _get(config, field, default)
    if not isinstance(value, bool):
        raise ValueError(f"{prefix}{field}={value!r}: must be True or False")
    return value


def _choice(config: Any, field: str, choices: tuple[str, ...], prefix: str = "data.") -> str:
    value = _get(config, field, choices[0])
    if value not in choices:
        close = difflib.get_close_matches(str(value), choices, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"{prefix}{field}={value!r}: must be one of {', '.join(choices)}{hint}")
    return value
