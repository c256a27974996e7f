"""The best d_c among all that T steps of a gradient method can reach [ours].

Every gradient M_c (m_c + d) lies in the space that m_c, M_c m_c, M_c^2 m_c, ... span, so that T steps, however their
lengths are chosen, end in the space of the first T + 1 of these. In an orthonormal basis that begins with M_c m_c and
ends with m_c, M_c is tridiagonal. There the problem has T + 1 variables and is solved exactly; textbooks of
optimisation call this the Lanczos method for trust regions.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lpg_jax.statistics import HIGHEST, safe_divide
from lpg_jax.transforms.feature_space import Space


def best_of_steps(space: Space, length: jax.Array, sign: jax.Array, epsilon: jax.Array, steps: int) -> jax.Array:
    """d_c [K, C] that maximises (sign > 0) or minimises the objective over norm(d) <= epsilon, within reach of `steps`.

    Args:
      space: m_c / norm(m_c) and M_c, symmetric and positive semidefinite.
      length, sign, epsilon: norm(m_c), the sign and the radius [K, 1].
      steps: >= 0; 0 keeps d_c along m_c.
    """
    amplify = sign > 0
    basis, diagonal, coupling, slope = _small_problem(space, steps)
    top = _largest(diagonal, coupling)
    diagonal, coupling, pull = (safe_divide(part, top) for part in (diagonal, coupling, slope * length))
    seen = jnp.where(diagonal > 10 * jnp.finfo(diagonal.dtype).eps, diagonal, 1)  # the rest has no part in the gradient
    matrix = jnp.where(amplify, -diagonal, seen), jnp.where(amplify, -coupling, coupling)
    ball = jnp.where(epsilon == 0, 1, epsilon)  # for epsilon 0 any finite direction does
    small, _ = _solution(matrix, _multiplier(matrix, amplify, pull / ball))
    norm = jnp.sqrt(jnp.sum(jnp.square(small), axis=-1, keepdims=True))
    found = space.logits(jnp.einsum("ki,kin->kn", safe_divide(small, norm), basis, precision=HIGHEST))
    found_norm = jnp.sqrt(jnp.einsum("kc,kc->k", found, found, precision=HIGHEST))[:, None]  # 1 or 0, up to rounding
    reach = jnp.where(amplify, epsilon, -jnp.minimum(epsilon, pull * norm * found_norm))
    return safe_divide(reach * jnp.abs(sign), found_norm) * found


def _small_problem(space: Space, steps: int) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Q [K, T + 1, N] with orthonormal (or zero) rows; the diagonal [K, T + 1] of Q M Q^T and what is beside it [K, T];
    the first entry [K, 1] of Q M m, whose others are 0.

    The gradient comes first, so that nothing of it is lost where M is nearly the identity, and m_c last.
    """
    first = space.unit_and_norm(space.gradient if steps else space.mean)[0]
    basis = jnp.zeros((first.shape[0], steps + 1, first.shape[1]), first.dtype)

    def append(number: ArrayLike, candidate: jax.Array, basis: jax.Array, images: jax.Array):
        direction = _what_is_new(candidate, basis, space)
        image = space.apply(direction)
        return image, basis.at[:, number].set(direction), images.at[:, number].set(image)

    image = space.apply(first)
    carry = image, basis.at[:, 0].set(first), basis.at[:, 0].set(image)
    carry = jax.lax.fori_loop(1, steps, lambda number, carry: append(number, *carry), carry)
    _, basis, images = append(steps, space.mean, *carry[1:]) if steps else carry
    products = space.inner(basis, images)
    diagonal, coupling = (jnp.diagonal(products, offset, axis1=1, axis2=2) for offset in (0, 1))
    return basis, space.scale + diagonal, coupling, space.inner(basis[:, :1], space.gradient)


def _what_is_new(candidate: jax.Array, basis: jax.Array, space: Space) -> jax.Array:
    """The unit vector of what the basis [K, i, N] lacks of the candidate [K, N]; 0 where it lacks nothing."""

    def remainder(vectors: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        along = space.inner(basis, vectors)
        rest = space.project(vectors - jnp.einsum("ki,kin->kn", along, basis, precision=HIGHEST))
        return along, *space.unit_and_norm(rest)

    along, first, norm = remainder(candidate)
    _, second, left = remainder(first)  # once more, or rounding would leave a slant
    size = jnp.sum(jnp.abs(along), axis=-1, keepdims=True)
    is_new = (norm > 100 * jnp.finfo(norm.dtype).eps * size) & (left > 0.5)  # what is rounding does not last
    return jnp.where(is_new, second, 0)


def _largest(diagonal: jax.Array, coupling: jax.Array) -> jax.Array:
    """A bound on the largest eigenvalue [K, 1], by Gershgorin's circles."""
    beside = jnp.pad(jnp.abs(coupling), ((0, 0), (1, 1)))
    return jnp.max(diagonal + beside[:, 1:] + beside[:, :-1], axis=-1, keepdims=True)


def _solution(matrix: tuple[jax.Array, jax.Array], shift: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x [K, n] with (A + shift) x = (1, 0, ..., 0), A tridiagonal, and whether A + shift is positive [K, 1].

    Elimination from below: the one entry on the right stays alone.
    """
    diagonal, coupling = (list(jnp.split(part.T, part.shape[1])) if part.shape[1] else [] for part in matrix)
    shift = shift.T
    pivots, positive = [diagonal[-1] + shift], diagonal[-1] + shift > 0
    for here, beside in zip(diagonal[-2::-1], coupling[::-1], strict=True):
        pivots.append(here + shift - jnp.square(beside) / jnp.where(positive, pivots[-1], 1))
        positive &= pivots[-1] > 0
    pivots = [jnp.where(positive, pivot, 1) for pivot in pivots[::-1]]
    entries = [1 / pivots[0]]
    for beside, pivot in zip(coupling, pivots[1:], strict=True):
        entries.append(-beside * entries[-1] / pivot)
    return jnp.concatenate(entries).T, positive.T


def _multiplier(matrix: tuple[jax.Array, jax.Array], amplify: jax.Array, least: jax.Array) -> jax.Array:
    """The smallest s >= 0 [K, 1] with A + s positive and least * norm(x) <= 1 for its `_solution` x, by bisection.

    `least` + 1 (amplifying, where the eigenvalues of A are >= -1) or `least` (where they are >= 0) is large enough.
    """
    limits = jnp.finfo(least.dtype)
    high = jnp.where(amplify, 1 + 10 * limits.eps, 0) + least

    def halve(_: ArrayLike, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        middle = (low + high) / 2
        solution, positive = _solution(matrix, middle)
        inside = positive & (jnp.square(least) * jnp.sum(jnp.square(solution), axis=-1, keepdims=True) <= 1)
        return jnp.where(inside, low, middle), jnp.where(inside, middle, high)

    return jax.lax.fori_loop(0, limits.nmant + 20, halve, (jnp.zeros_like(high), high))[1]
