"""GDW and MW-Net: a small network weighs the examples by their loss, and learns from a clean validation (meta) set."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike

from lpg_jax.checks import check_integer, check_number
from lpg_jax.descent.meta import VirtualStep
from lpg_jax.statistics import safe_divide, total
from lpg_jax.transforms.class_reweighting import class_level_reweighting

LOWEST, HIGHEST = 1e-6, 1e6  # of GDW's weights [paper]


class WeightState(NamedTuple):
    """What the controller of the weights carries from step to step; the same on every device."""

    step: jax.Array  # [] int32, number of updates so far
    network: Any  # parameters of the weight network
    opt_state: Any


class Reweighting(NamedTuple):
    """A way to weigh the logit gradients of a batch, `lpg_jax.transforms.class_level_reweighting` applies them."""

    init: Callable[..., WeightState]  # (key, dtype=float32) -> state
    # (VirtualStep, state) -> (class_weights [B, C] for the real step, new state)
    update: Callable[[VirtualStep, WeightState], tuple[jax.Array, WeightState]]


def gdw(
    *,
    width: int = 100,
    optimizer: optax.GradientTransformation | None = None,
    mean_change: ArrayLike = 0.1,
    max_change: ArrayLike = 0.2,
    every: int = 1,
) -> Reweighting:
    """Generalized data weighting: a weight for every class of every example (NeurIPS 2021) [paper].

    arXiv 2111.00056. The weight network gives a scalar per example, from its plain loss; the validation loss after the
    virtual step gives d L / d w_ij = -(lr / B) p_ij ((J v)_j - (J v)_y), j != y, through the zero-sum constraint. That
    gradient updates the network, and the weights themselves: w' = clamp(w - clip(eta dL/dw, -0.2, 0.2), 1e-6, 1e6),
    with eta such that an entry changes by 0.1 on average before the clip (the paper's eta of 100 and 1000, divided by
    sum |dL/dw|, for 10 and 100 classes and 100 examples; the mean is over all C entries of the examples there).

    Args:
      width: >= 1, hidden units of the network 1-width-1 (ReLU, sigmoid).
      optimizer: of the network; None: Adam 1e-3 with weight decay 1e-4 added to the gradient [paper].
      mean_change: >= 0, mean change of a weight per step before the clip; 0 is MW-Net but for its last forward pass.
      max_change: >= 0, of any weight per step.
      every: >= 1, static: the meta gradient is taken in every k-th step, beginning with the first; in between the
        network's weights are used as they are.

    Returns:
      A `Reweighting`. `init(key, dtype=float32)` gives the state, `update(step, state)` the weights of the real step
      and the new state, from a `virtual_step`. The label's own weight is not read: the operator sets its entry such
      that the row sums to zero. Cost, in passes over a batch: a forward, three backward (virtual, validation, real),
      one of them with a forward of its own, and a forward-mode pass; measured in one run (`python
      tests/measure_meta_cost.py`) 2.6 to 2.9 plain steps with a validation batch of B / 4, what a config takes by
      default, and 3.2 to 3.7 with one of B. The passes of the virtual step stand under `lax.cond` where every > 1:
      under vmap they are always run, and convolutions on CPU are slow there.

    Raises:
      ValueError: width or every no integer >= 1; mean_change or max_change negative or not finite (traced: passes).

    | edge case | result |
    |---|---|
    | dL/dw = 0 everywhere | w' = w, the clamp apart; the network moves by weight decay and momentum |
    | masked example, label outside [0, C) | no part in the gradient and the means |
    | soft targets (mixup) | dL/dw_ij = -(lr/B) p_ij ((J v)_j - t . (J v)) [ours] |
    | chained with other transformations | they act on the real step alone; the virtual one weighs plain rows [ours] |

    Example:
      >>> state = gdw().init(jax.random.key(0))
      >>> jax.tree.map(jnp.shape, state.network)
      {'bias1': (100,), 'bias2': (), 'kernel1': (100,), 'kernel2': (100,)}
    """
    check_number("mean_change", mean_change, low=0)
    check_number("max_change", max_change, low=0)

    def weigh(weights: jax.Array, gradient: jax.Array, step: VirtualStep) -> jax.Array:
        entries = total(jnp.sum(step.mask.astype(weights.dtype)), step.axis_name) * weights.shape[-1]
        size = total(jnp.sum(jnp.abs(gradient)), step.axis_name)
        limit = jnp.asarray(max_change, weights.dtype)
        change = safe_divide(jnp.asarray(mean_change, weights.dtype) * entries * gradient, size)
        return jnp.clip(weights - jnp.clip(change, -limit, limit), LOWEST, HIGHEST)

    return _reweighting(
        width, optimizer, every, lambda network, weights, gradient, step: weigh(weights, gradient, step)
    )


def mw_net(*, width: int = 100, optimizer: optax.GradientTransformation | None = None, every: int = 1) -> Reweighting:
    """Meta-Weight-Net: a weight for every example (NeurIPS 2019) [paper].

    Shu et al., arXiv 1902.07379. As `gdw`, with d L / d w_i = -(lr / B) h_i . (J v)_i for the one weight of an example;
    the real step takes the weights of the *updated* network. They are not divided by their sum, which the authors'
    code does and their formula does not: with weights of 1/2 the step is half as long.

    Args:
      width, optimizer, every: as in `gdw`.

    Returns:
      A `Reweighting`, to be used as that of `gdw`; all weights [B, C] of a row are equal.

    Raises:
      ValueError: as `gdw`.

    | edge case | result |
    |---|---|
    | masked example, label outside [0, C) | no part in the gradient |
    | a step without a meta gradient (every > 1) | weights of the network as it is |

    Example:
      >>> controller = mw_net(every=2)
    """
    return _reweighting(width, optimizer, every, lambda network, weights, gradient, step: _spread(network, step))


def weight_network(network: Any, losses: jax.Array) -> jax.Array:
    """The network 1-width-1 (ReLU, sigmoid): losses [B] -> weights [B] in (0, 1), in the dtype of the network.

    Args:
      network: `WeightState.network`.
      losses: [B].

    Returns:
      weights [B].

    Example:
      >>> network = mw_net(width=3).init(jax.random.key(0)).network
      >>> weight_network(network, jnp.array([0.0, 5.0])).shape
      (2,)
    """
    hidden = jnp.maximum(losses.astype(network["kernel1"].dtype)[:, None] * network["kernel1"][None]
                         + network["bias1"][None], 0)  # fmt: skip
    return jax.nn.sigmoid(jnp.matmul(hidden, network["kernel2"], precision=lax.Precision.HIGHEST) + network["bias2"])


def _initial(key: jax.Array, width: int, dtype: Any) -> dict[str, jax.Array]:
    """Uniform within 1 / sqrt(fan in), biases too: with biases of 0 the kinks would all lie at loss 0."""
    limits = {"kernel1": ((width,), 1.0), "bias1": ((width,), 1.0)}
    limits |= {"kernel2": ((width,), width**-0.5), "bias2": ((), width**-0.5)}
    keys = jax.random.split(key, len(limits))
    return {
        name: jax.random.uniform(k, shape, dtype, -limit, limit)
        for k, (name, (shape, limit)) in zip(keys, limits.items(), strict=True)
    }


def _spread(network: Any, step: VirtualStep) -> jax.Array:
    """The network's weights [B], for every class [B, C]."""
    weights = weight_network(network, step.losses).astype(step.rows.dtype)
    return jnp.broadcast_to(weights[:, None], step.rows.shape)


def _reweighting(
    width: int,
    optimizer: optax.GradientTransformation | None,
    every: int,
    real_weights: Callable[[Any, jax.Array, jax.Array, VirtualStep], jax.Array],
) -> Reweighting:
    """real_weights: (updated network, weights [B, C] of the virtual step, their gradient, step) -> weights [B, C]."""
    check_integer("width", width, low=1)
    check_integer("every", every, low=1)
    tx = optax.chain(optax.add_decayed_weights(1e-4), optax.adam(1e-3)) if optimizer is None else optimizer
    operator = class_level_reweighting()

    def init(key: jax.Array, dtype: Any = jnp.float32) -> WeightState:
        network = _initial(key, width, dtype)
        return WeightState(jnp.zeros([], jnp.int32), network, tx.init(network))

    def learn(step: VirtualStep, state: WeightState) -> tuple[jax.Array, WeightState]:
        def edit(weights: jax.Array) -> jax.Array:
            edited: Any
            edited, _ = operator.update(
                step.rows, optax.EmptyState(), None, labels=step.labels, mask=step.mask, class_weights=weights
            )
            return edited

        weights, back = jax.vjp(lambda network: _spread(network, step), state.network)
        gradient = step.gradient(edit, weights)
        slope = total(back(gradient)[0], step.axis_name)
        change, opt_state = tx.update(slope, state.opt_state, state.network)
        network: Any = optax.apply_updates(state.network, change)
        return real_weights(network, weights, gradient, step), WeightState(state.step, network, opt_state)

    def update(step: VirtualStep, state: WeightState) -> tuple[jax.Array, WeightState]:
        if every == 1:
            weights, state = learn(step, state)
        else:
            weights, state = lax.cond(
                state.step % every == 0, lambda: learn(step, state), lambda: (_spread(state.network, step), state)
            )
        return lax.stop_gradient(weights), state._replace(step=jnp.asarray(optax.safe_increment(state.step)))

    return Reweighting(init, update)
