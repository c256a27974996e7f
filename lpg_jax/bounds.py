"""Perturbation bounds: signed margin per class -> eps per class (Eq. 21)."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lpg_jax.checks import check_number

Bound: TypeAlias = Callable[[jax.Array], jax.Array]


def fixed(epsilon: Sequence[float] | ArrayLike) -> Bound:
    """The same bound for every class: eps_c = epsilon ("fixed", Eq. 21 with slope 0) [paper].

    Args:
      epsilon: >= 0, in units of the un-reduced per-example logit gradient, whose norm is below sqrt 2 for
        cross-entropy; stable in [0.1, 0.5] by the paper. A scalar, or one number per class [C]. A traced value
        (a schedule's) is not validated.

    Returns:
      A function margin [C] -> eps [C].

    Raises:
      ValueError: epsilon is concrete and negative, NaN or infinite.

    Example:
      >>> fixed(0.3)(jnp.array([0.5, -0.2]))
      Array([0.3, 0.3], dtype=float32)
    """
    return varied(epsilon, 0.0)


def varied(epsilon: Sequence[float] | ArrayLike, slope: Sequence[float] | ArrayLike) -> Bound:
    """A bound that grows with the distance from the threshold: eps_c = epsilon + slope |tau - s_c| (Eq. 21) [paper].

    Args:
      epsilon: >= 0, the bound at the threshold; as in `fixed`.
      slope: >= 0, growth per unit of the split's statistic s_c; scalar or [C].

    Returns:
      A function margin [C] -> eps [C], in the dtype of the margin. |margin| = |tau - s_c|.

    Raises:
      ValueError: epsilon or slope is concrete and negative, NaN or infinite.

    Example:
      >>> varied(0.1, slope=0.5)(jnp.array([0.4, 0.0, -0.2]))
      Array([0.3, 0.1, 0.2], dtype=float32)
    """
    check_number("epsilon", epsilon, low=0)
    check_number("slope", slope, low=0)

    def bound(margin: jax.Array) -> jax.Array:
        base = jnp.asarray(epsilon, margin.dtype)
        growth = jnp.asarray(slope, margin.dtype)
        for name, value in (("epsilon", base), ("slope", growth)):
            if value.ndim and value.shape != margin.shape:
                raise ValueError(f"{name}.shape={value.shape}: must be () or {margin.shape}, one number per class")
        return jnp.broadcast_to(base + growth * jnp.abs(margin), margin.shape)

    return bound
