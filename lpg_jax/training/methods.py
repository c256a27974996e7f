"""Name of a method -> the loss and the logit-gradient transformation it stands for. A new method is a line here."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import lpg_jax
from lpg_jax import transforms
from lpg_jax.training.settings import Config


class Method(NamedTuple):
    """What a method does at the logits."""

    loss: Callable[..., jax.Array]  # per example: logits [B, C], labels [B] -> [B]
    tx: optax.GradientTransformation  # over rows [B, C]


def build(name: str, config: Config, class_counts: Sequence[int], steps_per_epoch: int = 1) -> Method:
    """Builds a method from a config.

    Args:
      name: "ce" (plain cross-entropy), "lpg" (config.lpg), one of `PRESETS` (config.operators), or several of them with
        "+" between: an `optax.chain` in that order.
      config: with the groups lpg and operators.
      class_counts: [C] training examples per class as given.
      steps_per_epoch: turns epochs of the config into steps.

    Raises:
      ValueError: another name, or a value out of range or without effect; names field=value.
    """
    loss, parts = lpg_jax.losses.cross_entropy, name.split("+")
    if name == "ce":
        return Method(loss, optax.identity())
    for part in parts:
        if part != "lpg" and part not in PRESETS:
            known = ", ".join(("lpg", *PRESETS))
            raise ValueError(f"method={name!r}: must be 'ce', or one or several (a+b) of {known}")
    links = [_link(part, config, class_counts, steps_per_epoch) for part in parts]
    return Method(loss, links[0] if len(links) == 1 else optax.chain(*links))


def _link(name: str, config: Config, class_counts: Sequence[int], steps_per_epoch: int) -> Any:
    if name == "lpg":
        return lpg_from_config(config.lpg, class_counts)
    counts = np.asarray(class_counts)
    try:
        return PRESETS[name](config, counts, steps_per_epoch)
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith("lpg.") else f"operators.{name}.{text}") from error


def _class_balanced(config: Config, counts: np.ndarray, steps_per_epoch: int) -> Any:
    fields = config.operators.cb
    if fields.start_epoch < 0:
        raise ValueError(f"start_epoch={fields.start_epoch}: must be >= 0")
    return transforms.class_balanced(counts, fields.beta, round(fields.start_epoch * steps_per_epoch))


def _random_lpg(config: Config, counts: np.ndarray, steps_per_epoch: int) -> Any:
    """The margins of config.lpg's split, handed to other classes."""
    del steps_per_epoch
    split = transforms.random_split(config.operators.random_lpg.key, like=_split(config.lpg, counts))
    return lpg_from_config(config.lpg, counts, split)


def _with_fields(name: str, factory: Callable[..., Any]) -> Callable[..., Any]:
    """A preset whose options are the fields of its group of config.operators."""
    return lambda config, counts, steps_per_epoch: factory(**_given(getattr(config.operators, name)))


# name: (config, class counts [C], steps per epoch) -> transformation of rows
PRESETS: dict[str, Callable[..., Any]] = {
    "gr": _with_fields("gr", transforms.gradient_rescaling),
    "imae": _with_fields("imae", transforms.imae),
    "ogc": _with_fields("ogc", transforms.optimized_gradient_clipping),
    "phuber": _with_fields("phuber", transforms.probability_clip),
    "cb": _class_balanced,
    "eql": _with_fields("eql", transforms.equalization),
    "ghm": _with_fields("ghm", transforms.density_harmonizing),
    "row_clip": _with_fields("row_clip", transforms.row_clip),
    "row_noise": _with_fields("row_noise", transforms.row_noise),
    "zero_sum": lambda config, counts, steps_per_epoch: transforms.zero_sum(),
    "equal_lpg": lambda config, counts, steps_per_epoch: transforms.equal_norm(lpg_from_config(config.lpg, counts)),
    "random_lpg": _random_lpg,
}


def lpg_from_config(
    fields: Any, class_counts: Sequence[int] | np.ndarray, split: Any = None
) -> optax.GradientTransformation:
    """`lpg_jax.lpg`, or `lpg_jax.lpg_pgd` where pgd_steps > 0, from config.lpg; unset fields take their defaults.

    direction "auto" is "sample" for the closed form and "class_mean" for PGD, which has no other. `split` takes the
    place of the config's.
    """
    try:
        split = _split(fields, class_counts) if split is None else split
        bound = lpg_jax.varied(fields.epsilon, fields.slope)
        shared = {"source": fields.source, "clamp": fields.clamp, "warmup": fields.warmup, **_refresh(fields)}
        if fields.pgd_steps > 0:
            return lpg_jax.lpg_pgd(split, bound, **shared, **_pgd_options(fields))
        return lpg_jax.lpg(split, bound, **shared, **_closed_form_options(fields))
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(("lpg.", "class_counts")) else f"lpg.{text}") from error


def _refresh(fields: Any) -> dict[str, Any]:
    if fields.refresh_every > 1 and fields.decay is not None:
        raise ValueError(
            f"decay={fields.decay}: not used with lpg.refresh_every={fields.refresh_every}, which sums; leave it unset"
        )
    return {"refresh_every": fields.refresh_every, **_given(fields, "decay")}


def _split(fields: Any, class_counts: Sequence[int] | np.ndarray) -> Any:
    options = _given(fields, "threshold")
    if fields.split == "frequency":
        return lpg_jax.by_frequency(np.asarray(class_counts), **options, **_given(fields, "scale"))
    if fields.scale is not None:
        raise ValueError(
            f"scale={fields.scale!r}: only read by lpg.split='frequency', but it is {fields.split!r}; unset it"
        )
    if fields.split == "accuracy":
        return lpg_jax.by_accuracy(**options)
    if fields.split == "gradient_variance":
        return lpg_jax.by_gradient_variance(**options)
    raise ValueError(f"split={fields.split!r}: must be one of 'accuracy', 'frequency', 'gradient_variance'")


def _pgd_options(fields: Any) -> dict[str, Any]:
    if fields.direction not in ("auto", "class_mean"):
        raise ValueError(
            f"direction={fields.direction!r}: PGD has one vector per class; set 'auto', 'class_mean' or lpg.pgd_steps=0"
        )
    if fields.max_scale is not None:
        raise ValueError(
            f"max_scale={fields.max_scale}: only read by the closed form; unset it, or set lpg.pgd_steps=0"
        )
    if fields.metric == "network":
        raise ValueError(
            "metric='network': a reference for tests, too slow to train with; must be 'identity' or 'head'"
        )
    return {"steps": fields.pgd_steps, **_given(fields, "step_size", "step_rule", "metric", "zero_sum")}


def _closed_form_options(fields: Any) -> dict[str, Any]:
    for name, value in _given(fields, "step_size", "step_rule", "metric", "zero_sum").items():
        raise ValueError(
            f"{name}={value!r}: only read by PGD, but lpg.pgd_steps={fields.pgd_steps}; raise that or unset this"
        )
    direction = "sample" if fields.direction == "auto" else fields.direction
    if direction != "class_scale" and fields.max_scale is not None:
        raise ValueError(f"max_scale={fields.max_scale}: only read by lpg.direction='class_scale'; unset it")
    return {"direction": direction, **_given(fields, "max_scale")}


def _given(fields: Any, *names: str) -> dict[str, Any]:
    """The fields (of these names, or all) that are set, so that the defaults stand in one place, the package's."""
    return {name: getattr(fields, name) for name in names or fields if getattr(fields, name) is not None}
