"""config.lpg -> the transformation of the method "lpg"."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import optax

import lpg_jax


def from_config(
    fields: Any, class_counts: Sequence[int] | np.ndarray, split: Any = None
) -> optax.GradientTransformation:
    """`lpg_jax.lpg`, or `lpg_jax.lpg_pgd` where pgd_steps > 0, from config.lpg; unset fields take their defaults.

    direction "auto" is "sample" for the closed form and "class_mean" for PGD, which has no other. `split` takes the
    place of the config's.
    """
    try:
        split = split_from_config(fields, class_counts) if split is None else split
        bound = lpg_jax.varied(fields.epsilon, fields.slope)
        shared = {"source": fields.source, "clamp": fields.clamp, "warmup": fields.warmup, **_refresh(fields)}
        if fields.pgd_steps > 0:
            return lpg_jax.lpg_pgd(split, bound, **shared, **_pgd_options(fields))
        return lpg_jax.lpg(split, bound, **shared, **_closed_form_options(fields))
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(("lpg.", "class_counts")) else f"lpg.{text}") from error


def _refresh(fields: Any) -> dict[str, Any]:
    if fields.refresh_every > 1 and fields.decay is not None:
        raise ValueError(
            f"decay={fields.decay}: not used with lpg.refresh_every={fields.refresh_every}, which sums; leave it unset"
        )
    return {"refresh_every": fields.refresh_every, **_given(fields, "decay")}


def split_from_config(fields: Any, class_counts: Sequence[int] | np.ndarray) -> Any:
    """The split of config.lpg."""
    split = _split_from_config(fields, class_counts)
    return lpg_jax.opposite(split) if fields.opposite else split


def _split_from_config(fields: Any, class_counts: Sequence[int] | np.ndarray) -> Any:
    options = _given(fields, "threshold")
    if fields.split == "frequency":
        return lpg_jax.by_frequency(np.asarray(class_counts), **options, **_given(fields, "scale"))
    if fields.scale is not None:
        raise ValueError(
            f"scale={fields.scale!r}: only read by lpg.split='frequency', but it is {fields.split!r}; unset it"
        )
    if fields.split == "accuracy":
        return lpg_jax.by_accuracy(**options)
    if fields.split == "gradient_variance":
        return lpg_jax.by_gradient_variance(**options)
    raise ValueError(f"split={fields.split!r}: must be one of 'accuracy', 'frequency', 'gradient_variance'")


def _pgd_options(fields: Any) -> dict[str, Any]:
    if fields.direction not in ("auto", "class_mean"):
        raise ValueError(
            f"direction={fields.direction!r}: PGD has one vector per class; set 'auto', 'class_mean' or lpg.pgd_steps=0"
        )
    if fields.max_scale is not None:
        raise ValueError(
            f"max_scale={fields.max_scale}: only read by the closed form; unset it, or set lpg.pgd_steps=0"
        )
    if fields.metric == "network":
        raise ValueError(
            "metric='network': a reference for tests, too slow to train with; must be 'identity' or 'head'"
        )
    return {"steps": fields.pgd_steps, **_given(fields, "step_size", "step_rule", "metric", "zero_sum")}


def _closed_form_options(fields: Any) -> dict[str, Any]:
    for name, value in _given(fields, "step_size", "step_rule", "metric", "zero_sum").items():
        raise ValueError(
            f"{name}={value!r}: only read by PGD, but lpg.pgd_steps={fields.pgd_steps}; raise that or unset this"
        )
    direction = "sample" if fields.direction == "auto" else fields.direction
    if direction != "class_scale" and fields.max_scale is not None:
        raise ValueError(f"max_scale={fields.max_scale}: only read by lpg.direction='class_scale'; unset it")
    return {"direction": direction, **_given(fields, "max_scale")}


def _given(fields: Any, *names: str) -> dict[str, Any]:
    """The fields of these names that are set, so that the defaults stand in one place, the package's."""
    return {name: getattr(fields, name) for name in names if getattr(fields, name) is not None}
