"""Validation of arguments. Errors print name=value and the fix; traced values pass, so that schedules work."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np


def is_concrete(value: Any) -> bool:
    """False for a tracer (under jit, vmap, grad), whose value no check can see."""
    return not isinstance(value, jax.core.Tracer)


def check_number(
    name: str,
    value: Any,
    low: float = -np.inf,
    high: float = np.inf,
    *,
    above: float = -np.inf,
    below: float = np.inf,
) -> None:
    """Raises ValueError unless every entry of a concrete value is finite, in [low, high] and in (above, below)."""
    if not is_concrete(value):
        return
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r}: must be a number") from None
    limits = [f"{sign} {bound:g}" for sign, bound in zip((">=", "<=", ">", "<"), (low, high, above, below), strict=True)
              if np.isfinite(bound)]  # fmt: skip
    fits = (array >= low) & (array <= high) & (array > above) & (array < below)
    if not np.all(np.isfinite(array) & fits):
        raise ValueError(f"{name}={value}: must be {' and '.join(limits) or 'finite'}")


def check_integer(name: str, value: Any, low: int) -> None:
    """Raises ValueError unless value is a Python or NumPy integer >= low."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name}={value!r}: must be an integer >= {low} (static, not a schedule)")
    if value < low:
        raise ValueError(f"{name}={value}: must be >= {low}")


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raises ValueError unless value is one of the choices."""
    if not isinstance(value, type(choices[0])) or value not in choices:
        raise ValueError(f"{name}={value!r}: must be one of {', '.join(map(repr, choices))}")


def check_shape(name: str, array: Any, shape: tuple[int, ...], like: str) -> None:
    """Raises ValueError unless array has the shape, which is that of `like`."""
    if tuple(array.shape) != tuple(shape):
        raise ValueError(f"{name}.shape={tuple(array.shape)}: must be {tuple(shape)}, to match {like}")


def check_labels(labels: jax.Array, shape: tuple[int, ...], mask: jax.Array | None = None) -> None:
    """Integer labels [...] or membership [..., C] whose rows sum to 1 where concrete and not masked."""
    if labels.ndim == len(shape):
        check_shape("labels", labels, shape, "logits")
        if is_concrete(labels) and (mask is None or is_concrete(mask)):
            check_membership(np.asarray(labels, np.float64), None if mask is None else np.asarray(mask, bool))
        return
    check_shape("labels", labels, shape[:-1], "the batch")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels.dtype={labels.dtype}: must be an integer type, or pass float membership [..., C]")


def check_membership(membership: np.ndarray, mask: np.ndarray | None) -> None:
    rows = membership.reshape(-1, membership.shape[-1])
    sums = rows.sum(axis=-1)
    wrong = ~((np.abs(sums - 1) <= 1e-2) & np.all(rows >= 0, axis=-1))
    if mask is not None:
        wrong &= mask.reshape(-1)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"labels[{at}] sums to {sums[at]:g}, minimum {rows[at].min():g}: membership must be >= 0 and sum to 1 "
            "(multi-label targets are out of scope)"
        )
