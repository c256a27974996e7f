"""Where the iterates of PGD live: among the logits, or for the head metric among the features below them [ours].

With M_c = a_c I + W^T W every iterate has the form d_c = b_c m_c + W^T q_c, and a step moves b and q alone:
W (b m + W^T q) = b W m + G q with G = W W^T. So W [D, C] is used to enter the space and to leave it, and the steps
between are products with G: 4 U C D + 2 U D^2 steps + 2 C D^2 for U classes, and what makes a basis orthogonal.

Inner products come from the same numbers: <b m + W^T q, v> = b (m . v) + q . (W v). Each vector therefore carries its
coordinates (b, q) and beside them (m . v, W v); all of these are linear in v.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from lpg_jax.statistics import HIGHEST, safe_divide, unit_and_norm

Metric: TypeAlias = Callable[[jax.Array], jax.Array]  # v [K, C] -> M_c v_c [K, C], row by row


class Head(NamedTuple):
    """M_c = a_c I + W^T W, a `Metric` that tells what it is made of."""

    scale: jax.Array  # [K, 1] a_c
    kernel: jax.Array  # [D, C] W

    def __call__(self, vectors: jax.Array) -> jax.Array:
        hidden = jnp.matmul(vectors, self.kernel.T, precision=HIGHEST)
        return self.scale * vectors + jnp.matmul(hidden, self.kernel, precision=HIGHEST)


class Space(NamedTuple):
    """Vectors of K classes as arrays [K, N] that are linear in them; with zero_sum, their parts of zero sum."""

    mean: jax.Array  # [K, N] u_c = m_c / ||m_c||
    gradient: jax.Array  # [K, N] M_c u_c
    scale: jax.Array | float  # [K, 1] a_c of M_c = a_c I + A_c; 0 where no such part is known
    apply: Metric  # v [K, N] -> A_c v [K, N]
    project: Metric  # takes away what rounding may have put outside
    inner: Callable[[jax.Array, jax.Array], jax.Array]  # class by class: [K, (I,) N], [K, (J,) N] -> [K, (I,) (J)]
    unit_and_norm: Callable[[jax.Array], tuple[jax.Array, jax.Array]]  # v / ||v|| [..., N] (v = 0: 0), ||v|| [..., 1]
    logits: Metric  # [K, N] -> [K, C]


def space_of(unit: jax.Array, metric: Metric, zero_sum: bool, steps: int) -> Space:
    """The cheaper space for so many steps from u_c = m_c / ||m_c|| [K, C] under M_c."""
    if isinstance(metric, Head):
        number, (size, num_classes) = unit.shape[0], metric.kernel.shape
        among_logits = 4 * number * num_classes * size * (steps + 1)
        in_features = 2 * num_classes * size**2 + 4 * number * num_classes * size + 4 * number * size**2 * steps
        if 2 * size + 2 < num_classes and in_features < among_logits:
            return feature_space(unit, metric, zero_sum)
    return logit_space(unit, metric, zero_sum)


def logit_space(unit: jax.Array, metric: Metric, zero_sum: bool) -> Space:
    """Vectors as they are, N = C."""

    def project(vectors: jax.Array) -> jax.Array:
        return _zero_sum(vectors) if zero_sum else vectors

    return Space(
        mean=project(unit),
        gradient=project(metric(unit)),  # M sees a part of u that the projection takes away
        scale=0.0,
        apply=lambda vectors: project(metric(vectors)),
        project=project,
        inner=_products,
        unit_and_norm=unit_and_norm,
        logits=lambda vectors: vectors,
    )


def feature_space(unit: jax.Array, head: Head, zero_sum: bool) -> Space:
    """v = b u + W^T q, as (b, q, u . v, W v), N = 2 D + 2; with zero_sum for the parts of u and W of zero sum."""
    start, kernel = (_zero_sum(unit), _zero_sum(head.kernel)) if zero_sum else (unit, head.kernel)
    image = jnp.matmul(start, kernel.T, precision=HIGHEST)
    gram = jnp.matmul(kernel, kernel.T, precision=HIGHEST)
    size, rounding = kernel.shape[0], 100 * jnp.finfo(unit.dtype).eps

    def from_features(coordinates: jax.Array) -> jax.Array:  # W^T q
        along = jnp.sum(coordinates * image, axis=-1, keepdims=True)
        hidden = jnp.matmul(coordinates, gram, precision=HIGHEST)
        return jnp.concatenate([jnp.zeros_like(along), coordinates, along, hidden], axis=-1)

    def apply(vectors: jax.Array) -> jax.Array:
        return from_features(vectors[..., size + 2 :])

    def inner(left: jax.Array, right: jax.Array) -> jax.Array:
        return _products(left[..., : size + 1], right[..., size + 1 :])

    def norm_of(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
        peak = jnp.max(jnp.abs(vectors), axis=-1, keepdims=True)
        scaled = safe_divide(vectors, peak)  # so that no product vanishes
        terms = scaled[..., : size + 1] * scaled[..., size + 1 :]
        square = jnp.sum(terms, axis=-1, keepdims=True)
        is_rounding = square <= rounding * jnp.sum(jnp.abs(terms), axis=-1, keepdims=True)  # where u is all but W^T q
        norm = jnp.sqrt(jnp.where(is_rounding, 0, square))
        return safe_divide(scaled, norm), peak * norm

    def logits(vectors: jax.Array) -> jax.Array:
        found = vectors[..., :1] * start + jnp.matmul(vectors[..., 1 : size + 1], kernel, precision=HIGHEST)
        return _zero_sum(found) if zero_sum else found

    own = _products(start, start)[:, None]
    mean = jnp.concatenate([jnp.ones_like(own), jnp.zeros_like(image), own, image], axis=-1)
    hidden = image
    if zero_sum:  # W sees the part of u that the projection takes away
        hidden = image + jnp.mean(unit, axis=-1, keepdims=True) * jnp.sum(head.kernel, axis=-1)[None]
    gradient = head.scale * mean + from_features(hidden)
    return Space(mean, gradient, head.scale, apply, lambda v: v, inner, norm_of, logits)


def _zero_sum(vectors: jax.Array) -> jax.Array:
    return vectors - jnp.mean(vectors, axis=-1, keepdims=True)


def _products(left: jax.Array, right: jax.Array) -> jax.Array:
    rows, columns = "i" * (left.ndim - 2), "j" * (right.ndim - 2)
    return jnp.einsum(f"k{rows}n,k{columns}n->k{rows}{columns}", left, right, precision=HIGHEST)
