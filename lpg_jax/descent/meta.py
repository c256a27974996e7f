"""The gradient of a validation loss with respect to how logit gradients are edited, by one JVP.

A virtual step theta' = theta - (lr / B) J h~ with edited rows h~ is followed by a validation (meta) loss L at theta'.
For anything h~ depends on, through d h~:

  d L = -(lr / B) sum_i (J v)_i . d h~_i,   v = grad L(theta'),   (J v)_i = the change of example i's logits along v,

so that one forward-mode pass takes the place of a second-order graph. `weight_network.py` learns weights of examples
and classes in this way (GDW, MW-Net), `learned_bound.py` LPG's eps per class; a method of one's own is an `edit`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lpg_jax.checks import check_labels, check_number, check_shape
from lpg_jax.losses import cross_entropy
from lpg_jax.statistics import at_least_float32, total

Slope: TypeAlias = Callable[[Any], Any]  # params -> gradient of the validation loss, like params


class VirtualStep(NamedTuple):
    """A batch whose plain-SGD step is tried out; one forward pass, whose linearisation every pass below uses.

    `rows`, `losses` and `logits` are those of this device, as in `perturbed`; so are `push` and `pull`.
    """

    params: Any
    logits: jax.Array  # [B, C]
    aux: Any  # whatever else the forward pass leaves behind (BatchNorm moments)
    losses: jax.Array  # [B] plain losses, 0 where masked
    rows: jax.Array  # [B, C] plain, un-reduced logit gradients h_i, 0 where masked
    labels: jax.Array  # int [B], or float membership [B, C]
    mask: jax.Array  # [B] bool
    push: Callable[[Any], jax.Array]  # tangent like params -> J v [B, C]
    pull: Callable[[jax.Array], Any]  # rows [B, C] -> sum_i J_i h_i like params, of this device alone
    slope: Slope
    step_size: jax.Array  # [] lr / number of examples there, over all devices
    axis_name: Any

    def gradient(self, edit: Callable[[Any], jax.Array], knobs: Any) -> Any:
        """Gradient of the validation loss after the virtual step, with respect to what the rows are edited by.

        Args:
          edit: knobs -> h~ [B, C], differentiable in reverse mode; e.g. eps -> tx.update(rows, ..., class_epsilon=eps).
          knobs: any tree of float arrays.

        Returns:
          A tree like knobs. With axis_name what this device's examples add to it: sum it over the axis for knobs that
          all devices share (`lax.psum`), leave it for knobs of the examples. Costs one pull, one slope, one push.
        """
        edited, back = jax.vjp(edit, knobs)
        gradient = total(self.pull(edited), self.axis_name)
        there = jax.tree.map(lambda w, g: w - self.step_size.astype(w.dtype) * g, self.params, gradient)
        along = self.push(self.slope(there)).astype(edited.dtype)
        along = jnp.where(self.mask[:, None], along, 0)
        return back(-self.step_size.astype(edited.dtype) * along)[0]


def virtual_step(
    logits_fn: Callable[[Any], tuple[jax.Array, Any]],
    params: Any,
    labels: jax.Array,
    slope: Slope,
    learning_rate: ArrayLike,
    *,
    loss_fn: Callable[..., jax.Array] = cross_entropy,
    mask: jax.Array | None = None,
    axis_name: Any = None,
) -> VirtualStep:
    """Runs the batch forward once and gets ready for a virtual step of plain SGD (no momentum, no weight decay).

    Args:
      logits_fn: params -> (logits [B, C], aux) of the training batch, as the real step sees it (train mode, its random
        keys closed over). Must allow forward mode: the model does, `lpg_jax.perturbed` does not and stays outside.
      params: tree of float arrays.
      labels: int [B], or float membership [B, C].
      slope: params -> gradient, like params, of the *mean* loss of a batch of the validation (meta) set; under
        axis_name the mean over the examples of all devices. With BatchNorm: train mode, its new moments dropped. That
        batch may be smaller: a GDW step takes the operations of 3.3 plain ones at B, 2.8 at B/2, 2.6 at B/4 (ResNet-8;
        `python tests/measure_meta_cost.py`), so fewer than 3 with half a batch or less, and not with a whole one.
      learning_rate: > 0, [] that of the real step at this step; traced values pass.
      loss_fn: (logits, labels) -> losses [B], per example.
      mask: [B], 0 = not there.
      axis_name: mapped axis over which the batch is spread (pmap, vmap); None under jit.

    Returns:
      A `VirtualStep`. Needs the whole batch at once: no micro-batches.

    Raises:
      ValueError: learning_rate <= 0 or not finite; labels or mask that do not fit; logits that are no [B, C]; a loss_fn
        that reduces.

    | edge case | result |
    |---|---|
    | every example masked | all gradients 0 |
    | label outside [0, C) | loss and row 0 (`lpg_jax.losses`): no part in anything |
    | BatchNorm | J couples the examples, here as in the real step: the gradient stays exact |
    | bfloat16 model | params and J v in their own dtypes; rows and knobs in float32 |
    | vmap over seeds | fine |

    Example (the real step takes no further forward pass; a GDW step in full):
      >>> controller, tx = lpg_jax.descent.gdw(), lpg_jax.transforms.class_level_reweighting()
      >>> state = controller.init(jax.random.key(0))
      >>> inputs, labels = jnp.eye(4, 3), jnp.array([0, 1, 2, 0])
      >>> def slope(params):  # of the clean, balanced set
      ...     return jax.grad(lambda w: cross_entropy(jnp.eye(3) @ w, jnp.arange(3)).mean())(params)
      >>> step = virtual_step(lambda w: (inputs @ w, None), jnp.zeros((3, 3)), labels, slope, learning_rate=0.1)
      >>> weights, state = controller.update(step, state)
      >>> edited, _ = tx.update(step.rows, tx.init(jnp.zeros(3)), None, labels=labels, class_weights=weights)
      >>> gradient = step.pull(edited)  # of the sum over the examples
    """
    check_number("learning_rate", learning_rate, above=0)
    logits, push, aux = jax.linearize(logits_fn, params, has_aux=True)
    if logits.ndim != 2:
        raise ValueError(f"logits.shape={logits.shape}: must be [B, C]")
    labels = jnp.asarray(labels)
    there = jnp.ones(logits.shape[0], bool) if mask is None else jnp.asarray(mask)
    check_shape("mask", there, logits.shape[:1], "the batch")
    there = there.astype(bool)
    check_labels(labels, logits.shape, there)
    losses, rows = _losses_and_rows(loss_fn, logits, labels, there)
    transpose = jax.linear_transpose(push, params)

    def pull(edited: jax.Array) -> Any:
        return transpose(edited.astype(logits.dtype))[0]

    dtype = rows.dtype
    count = total(jnp.sum(there.astype(dtype)), axis_name)
    size = jnp.asarray(learning_rate, dtype) / jnp.maximum(count, 1)
    return VirtualStep(params, logits, aux, losses, rows, labels, there, push, pull, slope, size, axis_name)


def _losses_and_rows(
    loss_fn: Callable[..., jax.Array], logits: jax.Array, labels: jax.Array, there: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Losses [B] and rows [B, C], at least float32; 0 where masked, whatever such a row holds."""
    wide = jnp.where(there[:, None], logits.astype(at_least_float32(logits.dtype)), 0)
    if labels.ndim == 2:
        labels = jnp.where(there[:, None], labels, 0)
    losses, pull = jax.vjp(lambda z: loss_fn(z, labels), wide)
    if losses.shape != logits.shape[:1]:
        raise ValueError(f"loss_fn returned shape {losses.shape}: must be {logits.shape[:1]}, one loss per example")
    rows = jnp.where(there[:, None], pull(jnp.ones_like(losses))[0], 0)
    return lax.stop_gradient((jnp.where(there, losses, 0), rows))
