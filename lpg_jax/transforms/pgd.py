"""LPG by projected gradient steps (Eq. 11, 12, 16, 17): the d_c that changes the parameter gradient most."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from lpg_jax.bounds import Bound
from lpg_jax.checks import check_choice, check_integer, check_number
from lpg_jax.splits import Split
from lpg_jax.statistics import ClassStats, safe_divide, total, unit_and_norm
from lpg_jax.transforms.class_level import DENSE_LIMIT, Batch, Schedule, class_level
from lpg_jax.transforms.class_means import ClassMeans, class_means
from lpg_jax.transforms.feature_space import Head, Metric, Space, space_of
from lpg_jax.transforms.subspace import best_of_steps

STEP_RULES = ("l2", "sign")
METRICS = ("identity", "head", "network")


class Ascent(NamedTuple):
    """How the steps are taken."""

    steps: int
    step_size: ArrayLike | None
    step_rule: str
    zero_sum: bool
    clamp: bool


def lpg_pgd(
    split: Split,
    bound: Bound,
    *,
    steps: int = 3,
    step_size: ArrayLike | None = None,
    step_rule: str = "l2",
    metric: str = "identity",
    zero_sum: bool = False,
    source: str = "batch",
    clamp: bool = True,
    refresh_every: int = 1,
    decay: ArrayLike = 0.99,
    warmup: ArrayLike = 0,
) -> optax.GradientTransformationExtraArgs:
    """LPG by projected gradient: the d_c in a ball that changes the (parameter) gradient most (Eq. 11, 12, 16, 17).

    One d_c per class, h~_i = h_i + d_c, with d_c maximising (amplified classes) or minimising (dampened ones)
    (m_c + d)^T M_c (m_c + d) over norm(d) <= eps_c, from d = 0:

    | metric | M_c | update needs |
    |---|---|---|
    | "identity" | I: l2 steps then give the clamped closed form "class_mean" exactly [ours] | |
    | "head" | (mean_c norm(phi)^2 + 1) I + W^T W: last layer z = W^T phi + b, and phi [ours] | features, head_kernel |
    | "network" | mean_c J_i^T J_i: a reference for tests, B C backward passes a step [paper] | network, params |

    | step_rule | step, with g = M_c (m_c + d) |
    |---|---|
    | "l2" | the best d_c in reach of T steps of any lengths: exact in span(m_c, M_c m_c, ..., M_c^T m_c) [ours] |
    | "l2", step_size kappa, amplify | d + kappa g / norm(g), projected [ours] |
    | "l2", step_size kappa, dampen | d - t g / norm(g), t = min(kappa, minimiser along the ray), projected [ours] |
    | "sign" | d +/- kappa sign(g), projected; kappa = 2 eps_c / steps by default (Eq. 16, 17) [paper] |

    Cost: only the rows of the U = min(B, C) classes that a batch can hold (soft targets: all C). With metric "head",
    l2 steps and fewer features than classes, d_c = b_c m_c + W^T q_c and a step moves b_c and q_c alone: 4 U C D +
    2 C D^2 to enter that space and to leave it, 2 U D^2 + some 12 U D T for each of the T steps, no array [C, C]. Sign
    steps, and a head with as many features as classes: 4 U C D a step.

    How near "l2" comes to the optimum in 5 steps: worst gap, as a share of the attainable change, for C = 10 (6 draws a
    cell) and 100 (1 draw), condition numbers of M_c of 3 to 100, amplifying and dampening, m_c of an untrained network
    (`python -m pytest tests/test_pgd.py -k gap -n 0 -rP`):

    | head | eps .1, .3, .5 | eps 1 | eps 2 |
    |---|---|---|---|
    | more features than classes, centred rows | 0.01 % | 0.05 % | 0.14 % |
    | an even spectrum | 0.01 % | 0.01 % | 0.34 % |
    | half as many features as classes | 0.01 % | 0.07 % | 1.2 % |
    | log-normal scales of the classes | 0.11 % | 27 % (see below) | 0.11 % |

    The 27 % are one draw of 24, whose M m_c has next to no part along the top eigenvector (7 steps: < 0.01 %).
    For a class that is nearly learnt (norm(m_c) far below eps_c) amplifying is a search for the top eigenvector: up to
    1.2 % short of it (tests/test_trust_region.py).

    Args:
      split, bound, source, refresh_every, decay, warmup: as in `lpg`.
      steps: T >= 1.
      step_size: kappa >= 0, in units of the logit gradient; None: see the table.
      step_rule: "l2" or "sign".
      metric: see the table.
      zero_sum: keep every d_c in the subspace sum_j d_j = 0, which sign steps (and network metrics) leave.
      clamp: a dampened d_c stays within min(eps_c, norm(m_c)), and l2 steps stop at the minimiser of their ray;
        False takes the literal steps of Eq. 16-17 (kappa = 2 eps_c / steps by default when dampening).

    Returns:
      An `optax.GradientTransformationExtraArgs`, as `lpg`, whose update also takes
        features: [..., D] phi, the input of the last layer, and head_kernel: [D, C] W, as Flax stores it;
        network: params -> logits [..., C], and params.
      At most 4096 classes for source="running", metric="network" or soft targets.

    Raises:
      ValueError: as `lpg`; steps < 1, step_size < 0, an unknown step_rule or metric; at update: features,
        head_kernel, network or params missing, or of shapes that do not fit.

    Guarantees: norm(h~_i - h_i) <= eps_c per row. The edge cases are those of `lpg` with direction="class_mean".

    Example:
      >>> tx = lpg_pgd(by_frequency([50, 5]), fixed(0.3), steps=5, metric="head")
      >>> state = tx.init(jnp.zeros(2))
      >>> features, head_kernel = jnp.ones((4, 3)), jnp.ones((3, 2))
      >>> logits, labels = features @ head_kernel, jnp.array([0, 0, 0, 1])
      >>> rows = jax.nn.softmax(logits) - jax.nn.one_hot(labels, 2)
      >>> edited, state = tx.update(
      ...     rows, state, None, labels=labels, logits=logits, features=features, head_kernel=head_kernel)
    """
    check_integer("steps", steps, low=1)
    if step_size is not None:
        check_number("step_size", step_size, low=0)
        if np.ndim(step_size):
            raise ValueError(f"step_size.shape={np.shape(step_size)}: must be a single number")
    check_choice("zero_sum", zero_sum, (True, False))
    check_choice("clamp", clamp, (True, False))
    check_choice("step_rule", step_rule, STEP_RULES)
    check_choice("metric", metric, METRICS)
    if metric == "identity" and step_rule == "l2" and step_size is None and clamp:
        steps = 0  # every gradient points along m_c
    ascent = Ascent(steps, step_size, step_rule, zero_sum, clamp)

    def displace(batch: Batch, sign: jax.Array, epsilon: jax.Array, stats: ClassStats, params: Any) -> jax.Array:
        if batch.sums.gradient is None and batch.labels is None:
            raise ValueError(f"lpg_pgd with soft targets: at most {DENSE_LIMIT} classes; pass integer labels")
        dtype = batch.rows.dtype
        means = class_means(batch, stats, source)
        sign, epsilon = means.of(sign).astype(dtype)[:, None], means.of(epsilon).astype(dtype)[:, None]
        apply_metric = METRIC_OF[metric](batch, means, params)
        return means.spread(solve(means.mean, sign, epsilon, apply_metric, ascent), batch)

    schedule = Schedule(source, refresh_every, decay, warmup, DENSE_LIMIT)
    return class_level(split, bound, displace, schedule, mean_above_limit=False)


def solve(mean: jax.Array, sign: jax.Array, epsilon: jax.Array, metric: Metric, ascent: Ascent) -> jax.Array:
    """d_c of K classes at once, maximising (sign > 0) or minimising (sign < 0) (m_c + d)^T M_c (m_c + d).

    Args:
      mean: [K, C] m_c.
      sign: [K, 1] in {-1, 0, 1}; 0 gives d = 0.
      epsilon: [K, 1] radius of the ball.
      metric: v [K, C] -> M_c v_c.
      ascent: the step rule.

    Returns:
      d [K, C], ||d_c|| <= epsilon_c.
    """
    unit, length = unit_and_norm(mean)
    # clamped, a dampened class stays this side of -m_c, beyond which the objective only grows again
    radius = jnp.where(sign > 0, epsilon, jnp.minimum(epsilon, length)) if ascent.clamp else epsilon
    if ascent.step_rule == "sign":
        displacement = _sign_steps(mean, sign, epsilon, radius, metric, ascent)
    else:
        space = space_of(unit, metric, ascent.zero_sum, ascent.steps)
        if ascent.step_size is None and ascent.clamp:
            return best_of_steps(space, length, sign, radius, ascent.steps)
        displacement = _l2_steps(space, length, sign, epsilon, radius, ascent)
    return jnp.where(sign == 0, 0, displacement)


def _sign_steps(
    mean: jax.Array, sign: jax.Array, epsilon: jax.Array, radius: jax.Array, metric: Metric, ascent: Ascent
):
    """d <- d +/- kappa sign(g), projected (Eq. 16, 17); signs leave the form that feature space keeps."""
    length = 2 * epsilon / ascent.steps if ascent.step_size is None else ascent.step_size
    displacement = jnp.zeros_like(mean)
    for _ in range(ascent.steps):
        displacement = displacement + jnp.sign(sign) * length * jnp.sign(metric(mean + displacement))
        if ascent.zero_sum:
            displacement = displacement - jnp.mean(displacement, axis=-1, keepdims=True)
        displacement = _onto_ball(displacement, *unit_and_norm(displacement), radius)
    return displacement


def _l2_steps(
    space: Space, length: jax.Array, sign: jax.Array, epsilon: jax.Array, radius: jax.Array, ascent: Ascent
) -> jax.Array:
    """d <- d +/- kappa g / norm(g), projected, or to the sphere at once where no step size is given."""
    literal = 2 * epsilon / ascent.steps if ascent.step_size is None else ascent.step_size
    displacement = jnp.zeros_like(space.mean)
    for _ in range(ascent.steps):
        gradient = length * space.gradient + space.scale * displacement + space.apply(displacement)
        direction = space.unit_and_norm(gradient)[0]
        up = radius * direction if ascent.step_size is None else displacement + literal * direction
        down = displacement - _descent_length(direction, gradient, space, literal, ascent) * direction
        stepped = jnp.where(sign > 0, up, down)
        displacement = _onto_ball(stepped, *space.unit_and_norm(stepped), radius)
    found = space.logits(displacement)
    return _onto_ball(found, *unit_and_norm(found), radius)


def _descent_length(direction: jax.Array, gradient: jax.Array, space: Space, literal: Any, ascent: Ascent):
    """min(kappa, exact minimiser along the ray), or the literal kappa without the clamp."""
    if not ascent.clamp:
        return literal
    along = space.inner(direction, gradient)
    curvature = space.inner(direction, space.scale * direction + space.apply(direction))
    return jnp.minimum(literal, safe_divide(along, curvature)[:, None])


def _onto_ball(vectors: jax.Array, unit: jax.Array, norm: jax.Array, radius: jax.Array) -> jax.Array:
    return jnp.where(norm <= radius, vectors, radius * unit)


def identity_metric(batch: Batch, means: ClassMeans, params: Any) -> Metric:
    """J = I: the norm of the logit gradient itself."""
    del batch, means, params
    return lambda vectors: vectors


def head_metric(batch: Batch, means: ClassMeans, params: Any) -> Head:
    """The last linear layer z = W^T phi + b and what it hands down: M_c = (mean_c ||phi||^2 + 1) I + W^T W."""
    del params
    features, kernel = batch.extra.get("features"), batch.extra.get("head_kernel")
    if features is None or kernel is None:
        missing = "features" if features is None else "head_kernel"
        raise ValueError(f"{missing}=None: metric='head' needs features= [..., D] and head_kernel= [D, C]")
    size, num_classes = kernel.shape
    if num_classes != batch.rows.shape[-1]:
        raise ValueError(f"head_kernel.shape={kernel.shape}: must be (D, {batch.rows.shape[-1]}), as Flax stores it")
    if features.shape[-1] != size or features.size // size != batch.rows.shape[0]:
        raise ValueError(f"features.shape={features.shape}: must be [..., {size}] with the batch axes of the logits")
    dtype = batch.rows.dtype
    square = jnp.sum(jnp.square(features.reshape(-1, size).astype(dtype)), axis=-1)
    return Head(means.average(square, batch)[:, None] + 1, kernel.astype(dtype))


def network_metric(batch: Batch, means: ClassMeans, params: Any) -> Metric:
    """The whole network: M_c = mean over class c of J_i^T J_i, each product by a vjp and then a jvp.

    A reference for tests: B x K backward passes per step.
    """
    network = batch.extra.get("network")
    if network is None or params is None:
        missing = "network" if network is None else "params"
        raise ValueError(f"{missing}=None: metric='network' needs network= (params -> logits) and params")
    if batch.rows.shape[-1] > DENSE_LIMIT:
        raise ValueError(f"metric='network' with {batch.rows.shape[-1]} classes: at most {DENSE_LIMIT}")
    shape = batch.rows.shape
    logits, push = jax.linearize(lambda p: network(p).reshape(shape), params)
    pull = jax.linear_transpose(push, params)
    one_row = jnp.eye(shape[0], dtype=logits.dtype)

    def product(vector: jax.Array, row: jax.Array) -> jax.Array:  # J_i^T J_i v for the example that row marks
        (tangent,) = pull(row[:, None] * vector.astype(logits.dtype)[None])
        return row @ push(tangent)

    def apply(vectors: jax.Array) -> jax.Array:
        def of_class(vector):
            return jax.vmap(lambda row: product(vector, row))(one_row)

        products = jax.lax.map(of_class, vectors).astype(batch.rows.dtype)  # [K, B, C]
        weights = means.weights(batch).T[:, :, None]
        sums = total(jnp.sum(jnp.where(weights > 0, weights * products, 0), axis=1), batch.axis_name)
        return safe_divide(sums, means.count[:, None])

    return apply


METRIC_OF = {"identity": identity_metric, "head": head_metric, "network": network_metric}
