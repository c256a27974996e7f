"""The exact d_c of the head metric, by Newton steps on the multiplier of its trust-region problem [ours].

Stationary points of (m + d)^T M (m + d) on the sphere solve (M -/+ mu I) d = -M m. M_c = a_c I + W^T W has the same
eigenvectors for every class, so that one thin SVD of W makes every class's problem diagonal.
"""

import jax
import jax.numpy as jnp

from lpg_jax.statistics import HIGHEST, safe_divide, unit_and_norm


def newton(
    mean: jax.Array,
    sign: jax.Array,
    epsilon: jax.Array,
    scale: jax.Array,
    kernel: jax.Array,
    *,
    steps: int,
    zero_sum: bool,
) -> jax.Array:
    """d_c [K, C] that maximises (sign > 0) or minimises (sign < 0) the objective over norm(d) <= epsilon.

    Args:
      mean: [K, C] m_c.
      sign, epsilon: [K, 1].
      scale: [K, 1] a_c.
      kernel: [D, C] W.
      steps: Newton steps; 5 leave a gap below 1e-3 of the attainable change in float32.
      zero_sum: solve within sum_j d_j = 0.
    """
    amplify = sign > 0
    kernel = kernel - jnp.mean(kernel, axis=-1, keepdims=True) if zero_sum else kernel
    _, singular, basis = jnp.linalg.svd(kernel, full_matrices=False)
    gradient = scale * mean + jnp.matmul(jnp.matmul(mean, kernel.T, precision=HIGHEST), kernel, precision=HIGHEST)
    gradient = gradient - jnp.mean(gradient, axis=-1, keepdims=True) if zero_sum else gradient
    inside = jnp.matmul(gradient, basis.T, precision=HIGHEST)
    outside = gradient - jnp.matmul(inside, basis, precision=HIGHEST)  # where W^T W is 0
    parts = jnp.concatenate([inside, unit_and_norm(outside)[1]], axis=-1)
    eigenvalues = jnp.append(jnp.square(singular), 0)[None]
    distance = jnp.where(amplify, jnp.max(eigenvalues) - eigenvalues, scale + eigenvalues)
    ball = jnp.where(epsilon == 0, 1, epsilon)  # for epsilon 0 any finite direction does
    denominator = _shift(parts, distance, ball, steps) + distance
    within = jnp.matmul(safe_divide(inside, denominator[:, :-1]), basis, precision=HIGHEST)
    displacement = within + safe_divide(outside, denominator[:, -1:])
    displacement = displacement - jnp.mean(displacement, axis=-1, keepdims=True) if zero_sum else displacement
    unit, norm = unit_and_norm(displacement)
    return jnp.where(amplify, epsilon, -jnp.minimum(epsilon, norm)) * unit * jnp.abs(sign)


def _shift(parts: jax.Array, distance: jax.Array, epsilon: jax.Array, steps: int) -> jax.Array:
    """s >= 0 [K, 1] with epsilon > 0 and norm(parts / (s + distance)) = epsilon; 0 if the norm is smaller at s = 0.

    Newton on 1 / norm, which is concave in s: begun left of the root, the steps rise to it and need no safeguard.
    """
    tiny = jnp.finfo(parts.dtype).tiny
    shift = jnp.max(jnp.abs(parts) / epsilon - distance, axis=-1, keepdims=True)
    shift = jnp.maximum(shift, tiny)
    for _ in range(steps):
        solution = parts / (shift + distance)
        norm = unit_and_norm(solution)[1]
        slope = jnp.sum(jnp.square(solution) / (shift + distance), axis=-1, keepdims=True)
        step = safe_divide((norm / epsilon - 1) * jnp.square(norm), slope)
        shift = jnp.maximum(shift + step, tiny)
    return shift
