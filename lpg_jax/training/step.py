"""One training step as a pure function of state and examples."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import lpg_jax
from lpg_jax import models
from lpg_jax.training.batches import Batch, Raw, prepare
from lpg_jax.training.recipe import Recipe
from lpg_jax.training.state import AUGMENT, DROPOUT, TrainState, stream


class Window(NamedTuple):
    """Additive training figures since the last evaluation, in float32 or wider."""

    loss: jax.Array  # [] sum of the losses; NaN if an update left a parameter that is not finite
    hits: jax.Array  # [] examples whose (given) label was predicted
    count: jax.Array  # [] examples
    class_count: jax.Array  # [C] examples per (given) class
    plain_norm: jax.Array  # [C] sum over them of the norm of the plain logit gradient
    edited_norm: jax.Array  # [C] the same of what the method makes of it

    @classmethod
    def empty(cls, num_classes: int) -> "Window":
        return cls(*(jnp.zeros(shape) for shape in ((), (), (), *((num_classes,),) * 3)))


class Sums(NamedTuple):
    """What micro-batches (and devices) add up to a batch."""

    gradient: Any  # of the sum of the losses
    window: Window


def train_step(recipe: Recipe, state: TrainState, raw: Raw, axis_name: str | None = None) -> tuple[TrainState, Window]:
    """One update of parameters, BatchNorm moments and logit-gradient state.

    The objective is the sum of the losses of the examples that are there over their number; what the method does to
    their logit gradients does not depend on that reduction (`lpg_jax.perturbed`). With several micro-batches, gradient
    and class statistics are summed over them and committed once; class means (`source="batch"`) and batch norm see
    one micro-batch at a time.

    Args:
      recipe: model, method, optimizer.
      state: without an axis of seeds; vmap this function for one.
      raw: [M, b] examples.
      axis_name: mapped axis over which the batch is spread (pmap); under jit the batch is one array: None.

    Returns:
      The next state, and the batch's training figures.
    """
    first = jax.tree.map(lambda leaf: leaf[0], raw)
    if recipe.micro_batches == 1:
        sums, batch_stats, logit_state = _part(recipe, state, state.batch_stats, first, 0, axis_name)
    else:
        sums, batch_stats, class_sums = _add_parts(recipe, state, raw, axis_name)
        logit_state = lpg_jax.commit(recipe.method.tx, state.logit_state, class_sums)
    if axis_name is not None:
        sums = jax.lax.psum(sums, axis_name)
    gradient = jax.tree.map(lambda leaf: leaf / sums.window.count.astype(leaf.dtype), sums.gradient)
    delta, opt_state = recipe.descent.tx.update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, delta)
    whole = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves((params, batch_stats))]))
    window = sums.window._replace(loss=jnp.where(whole, sums.window.loss, jnp.nan))  # noticed before they are saved
    state = state._replace(
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        logit_state=logit_state,
    )
    return state, window


def _add_parts(recipe: Recipe, state: TrainState, raw: Raw, axis_name: str | None) -> tuple[Sums, Any, Any]:
    """(sums, batch_stats, ClassSums) over all micro-batches."""

    def add(carry: Any, part: tuple[Raw, jax.Array]) -> tuple[Any, None]:
        sums, batch_stats, class_sums = carry
        one, batch_stats, more = _part(recipe, state, batch_stats, *part, axis_name, commit=False)
        sums, class_sums = jax.tree.map(jnp.add, (sums, class_sums), (one, more))
        return (sums, batch_stats, class_sums), None

    none = Sums(jax.tree.map(jnp.zeros_like, state.params), Window.empty(recipe.facts.num_classes))
    start = (none, state.batch_stats, lpg_jax.zero_sums(state.logit_state))
    number = recipe.micro_batches
    unroll = number if jax.default_backend() == "cpu" else 1  # loops around convolutions are slow on CPU
    return jax.lax.scan(add, start, (raw, jnp.arange(number)), unroll=unroll)[0]


def _part(
    recipe: Recipe,
    state: TrainState,
    batch_stats: Any,
    raw: Raw,
    number: jax.Array | int,
    axis_name: str | None,
    commit: bool = True,
) -> tuple[Sums, Any, Any]:
    """(sums, batch_stats, logit_state or its ClassSums) of micro-batch `number` [b]; sums of this device alone."""
    batch = prepare(recipe, raw, stream(state.key, AUGMENT, state.step))
    loss_fn = lpg_jax.perturbed(recipe.method.loss, recipe.method.tx)
    dropout = jax.random.fold_in(stream(state.key, DROPOUT, state.step), number)
    if axis_name is not None:
        dropout = jax.random.fold_in(dropout, jax.lax.axis_index(axis_name))

    def objective(params: Any, shift: jax.Array) -> tuple[jax.Array, Any]:
        (logits, features), updates = recipe.model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch.inputs,
            train=True,
            mask=batch.mask,
            mutable=["batch_stats"],
            rngs={"dropout": dropout},
        )
        logits = logits + shift  # zeros, whose gradient is the edited one of every example
        losses, logit_state = loss_fn(
            logits,
            batch.labels,
            state.logit_state,
            mask=batch.mask,
            features=features,
            head_kernel=models.head_kernel(params),
            axis_name=axis_name,
            commit=commit,
        )
        return jnp.sum(losses), (logits, updates.get("batch_stats", {}), logit_state)

    wide = jnp.promote_types(recipe.dtype, jnp.float32)
    shift = jnp.zeros((*batch.labels.shape, recipe.facts.num_classes), wide)
    (loss, aux), (gradient, edited) = jax.value_and_grad(objective, (0, 1), has_aux=True)(state.params, shift)
    logits, batch_stats, logit_state = aux
    return Sums(gradient, _figures(recipe, batch, logits, loss, edited)), batch_stats, logit_state


def _figures(recipe: Recipe, batch: Batch, logits: jax.Array, loss: jax.Array, edited: jax.Array) -> Window:
    """Figures of a micro-batch, from its logits and edited logit gradients [b, C]."""
    plain = jax.grad(lambda z: jnp.sum(recipe.method.loss(z, batch.labels)))(logits)
    member = jax.nn.one_hot(batch.labels, logits.shape[-1], dtype=logits.dtype) * batch.mask[:, None]

    def per_class(rows: jax.Array) -> jax.Array:
        norms = jnp.where(batch.mask, jnp.linalg.norm(rows, axis=-1), 0)
        return jnp.sum(member * norms[:, None], axis=0)

    hits = jnp.sum(batch.mask & (jnp.argmax(logits, axis=-1) == batch.labels))
    figures = (loss, hits, jnp.sum(batch.mask), jnp.sum(member, axis=0), per_class(plain), per_class(edited))
    return Window(*(figure.astype(jnp.result_type(float)) for figure in figures))
