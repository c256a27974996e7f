"""Name of a method -> what it does at the loss, the logits, the parameters and the inputs. The names: `presets`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import optax

from lpg_jax import descent, losses
from lpg_jax.training import presets
from lpg_jax.training.presets import Context, Readout
from lpg_jax.training.second_stage import Stage
from lpg_jax.training.settings import Config


class Method(NamedTuple):
    """How a method departs from plain training. What is learnt in `meta` comes first in the chain of `tx`."""

    loss: losses.StatefulLoss  # per example: logits [B, C], labels [B] -> [B]
    tx: optax.GradientTransformation  # over rows [B, C]
    sharpness: descent.Sharpness | None  # second passes around the gradient of a batch
    conflict: presets.Conflict | None  # how the gradients of class groups become one; None: summed
    mixing: Callable[..., Any] | None  # (key, inputs, targets [B, C], mask=) -> (inputs, targets)
    meta: presets.Meta | None  # what is learnt from the validation part before each step, and handed to tx
    second_stage: Stage | None  # what becomes of the head at the end
    co_teaching: Callable[[Any], Any] | None  # two networks: step -> share of a batch that they learn from
    readout: Readout | None  # what predicts; None: the model's logits
    description: tuple[str, ...]  # a text per part, with its options


def build(
    name: str,
    config: Config,
    class_counts: Sequence[int],
    *,
    steps_per_epoch: int = 1,
    confusion: Sequence[Sequence[float]] = (),
    noise_rate: float = 0.0,
) -> Method:
    """Builds a method from a config.

    Args:
      name: "ce" (plain cross-entropy), or parts with "+" between, such as "la+lpg" or "sam+gr+lpg". Parts at the logits
        form an `optax.chain` in that order; of every other kind of part there is at most one, wherever it stands, and a
        shift of the logits (lpl, isda, gcl) goes around the loss that is named beside it.
      config: with the groups data, losses, lpg, operators, descent and train.
      class_counts: [C] training examples per class as given.
      steps_per_epoch: turns epochs of the config into steps.
      confusion: [C, C] of the label noise; () without noise.
      noise_rate: share of wrong labels.

    Raises:
      ValueError: another name, two parts that exclude each other, or a value out of range or without effect; names
        field=value.
    """
    parts = [] if name == "ce" else name.split("+")
    context = Context(config, np.asarray(class_counts), steps_per_epoch, confusion, noise_rate)
    _check(name, parts)

    def made(table: dict[str, Any], *more: Any) -> list[Any]:
        return [_make(table, part, context, *more) for part in parts if part in table]

    base = next(iter(made(presets.LOSSES)), losses.cross_entropy)
    loss = next(iter(made(presets.SHIFTS, base)), base)
    meta = next(iter(made(presets.META)), None)
    links = [*([] if meta is None else [meta.tx]), *made(presets.OPERATORS)]
    return Method(
        loss=loss if isinstance(loss, losses.StatefulLoss) else losses.stateless(loss),
        tx=links[0] if len(links) == 1 else optax.chain(*links) if links else optax.identity(),
        sharpness=next(iter(made(presets.SHARPNESS)), None),
        conflict=next(iter(made(presets.CONFLICTS)), None),
        mixing=next(iter(made(presets.MIXING)), None),
        meta=meta,
        second_stage=next(iter(made(presets.SECOND_STAGES)), None),
        co_teaching=next(iter(made(presets.CO_TEACHING)), None),
        readout=next(iter(made(presets.READOUTS)), None),
        description=tuple(_describe(part, config) for part in parts) or ("cross-entropy",),
    )


def _check(name: str, parts: Sequence[str]) -> None:
    """ValueError unless the parts exist and go together."""
    for part in parts:
        if part not in presets.KNOWN:
            known = ", ".join(presets.KNOWN)
            raise ValueError(f"method={name!r}: must be 'ce', or one or several (a+b) of {known}")
    if len(set(parts)) < len(parts):
        raise ValueError(f"method={name!r}: names a part twice; take it once")
    for table in presets.EXCLUSIVE:
        rivals = [part for part in parts if part in table]
        if len(rivals) > 1:
            raise ValueError(f"method={name!r}: {' and '.join(rivals)} exclude each other; take one of them")
    shifted = [part for part in parts if part in presets.SHIFTS]
    unshiftable = [part for part in parts if part in presets.NO_BASE]
    if shifted and unshiftable:
        raise ValueError(f"method={name!r}: {shifted[0]} goes around a plain loss, not around {unshiftable[0]}")
    learnt, of_head = ([part for part in parts if part in table] for table in (presets.META, presets.OF_HEAD))
    if learnt and of_head:
        raise ValueError(
            f"method={name!r}: {learnt[0]} tries a step out at the logits, but {of_head[0]} reads the head"
        )
    if {"la", "posthoc"} <= set(parts):
        raise ValueError(f"method={name!r}: la and posthoc adjust the same logits; take one of them")
    hard = [part for part in parts if part in presets.INTEGER_LABELS]
    mixing = [part for part in parts if part in presets.MIXING]
    if hard and mixing:
        raise ValueError(f"method={name!r}: {hard[0]} needs a class per example, which {mixing[0]} takes away")


def _make(table: dict[str, Any], part: str, context: Context, *more: Any) -> Any:
    try:
        return table[part](context, *more)
    except ValueError as error:
        text = str(error)
        home = presets.home(part)
        raise ValueError(
            text if text.startswith(("lpg.", "data.", "train.", "class_counts", f"{home}.")) else f"{home}.{text}"
        ) from error


def _describe(part: str, config: Config) -> str:
    """A part with the options that are set."""
    group = presets.options(part, config) + (presets.options("lpg", config) if part in presets.OF_LPG else [])
    fields = ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in group)
    return f"{part} ({fields})" if fields else part
