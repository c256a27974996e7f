"""The names that a method is put together from, each with the config group of its options. A new one is a line here."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
import optax

import lpg_jax
from lpg_jax import descent, losses, transforms
from lpg_jax.training import co_teaching, lpg_preset, second_stage
from lpg_jax.training.settings import Config

Readout: TypeAlias = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]  # logits, features, W, b


class Context(NamedTuple):
    """What a part may depend on."""

    config: Config
    counts: np.ndarray  # [C] training examples per class as given
    steps_per_epoch: int
    confusion: Sequence[Sequence[float]]  # [C, C] share of given label j among the true class i; () without noise
    noise_rate: float = 0.0  # share of wrong labels


class Conflict(NamedTuple):
    """Class groups as tasks."""

    groups: np.ndarray  # [C] int32, the group of each class
    combine: Callable[[Any, jax.Array], Any]  # (gradients [K, ...], key) -> gradient


def home(part: str) -> str:
    """The config group of a part's options."""
    if part == "lpg":
        return "lpg"
    if part in OPERATORS:
        return f"operators.{part}"
    at_parameters = SHARPNESS | CONFLICTS | META | SECOND_STAGES | CO_TEACHING
    return f"descent.{part}" if part in at_parameters else f"losses.{part}"


def options(part: str, config: Config) -> list[tuple[str, Any]]:
    """The options of a part that are set."""
    fields: Any = config
    for name in home(part).split("."):
        fields = getattr(fields, name, {})
    items = fields.items() if hasattr(fields, "items") else vars(fields).items()
    return [(key, value) for key, value in items if value is not None]


def _with_fields(part: str, factory: Callable[..., Any]) -> Callable[[Context], Any]:
    """A part whose options are the fields of its group."""
    return lambda context: factory(**dict(options(part, context.config)))


def _with_counts(part: str, factory: Callable[..., Any]) -> Callable[[Context], Any]:
    """The same for a factory that begins with the class counts."""
    return lambda context: factory(context.counts, **dict(options(part, context.config)))


# -- losses -----------------------------------------------------------------------------------------------------------


def _ldam(context: Context) -> losses.StatefulLoss:
    head = "features", "head_kernel", "head_bias"
    return losses.stateless(_with_counts("ldam", losses.ldam)(context), *head)


def _transition(part: str, context: Context) -> np.ndarray:
    """T of config.losses.PART.transition: "noise", or a file."""
    source = getattr(context.config.losses, part).transition
    if source != "noise":
        if not Path(source).is_file():
            raise ValueError(f"transition={source!r}: must be 'noise' or a .npy file with T [C, C]")
        try:
            matrix = np.load(source, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"transition={source!r}: is no .npy file of numbers: {error}") from error
        if matrix.shape != (context.counts.size,) * 2:
            raise ValueError(f"transition={source!r}: has shape {matrix.shape}; must be {(context.counts.size,) * 2}")
        return matrix
    if not len(context.confusion):
        raise ValueError("transition='noise': has no effect without label noise; set data.noise or give a .npy file")
    return np.asarray(context.confusion)


LOSSES: dict[str, Callable[[Context], Any]] = {
    "mae": lambda context: losses.mean_absolute_error,
    "gce": _with_fields("gce", losses.generalized_cross_entropy),
    "sce": _with_fields("sce", losses.symmetric_cross_entropy),
    "focal": _with_fields("focal", losses.focal),
    "smooth": _with_fields("smooth", losses.label_smoothing),
    "la": _with_counts("la", losses.logit_adjusted),
    "ldam": _ldam,
    "forward": lambda context: losses.forward_correction(_transition("forward", context)),
    "backward": lambda context: losses.backward_correction(_transition("backward", context)),
}


def _lpl(context: Context, base: Any) -> losses.StatefulLoss:
    fields = dict(options("lpl", context.config))
    kind, num_head = fields.pop("bounds"), fields.pop("num_head", None)
    if kind == "longtail":
        if num_head is None:
            num_head = round(0.4 * context.counts.size)
        split, bound = losses.lpl_long_tail(context.counts, num_head, fields.pop("epsilon"), fields.pop("slope"))
    elif kind == "accuracy":
        if num_head is not None:
            raise ValueError(f"num_head={num_head}: only read by bounds='longtail'; leave it unset")
        split, bound = lpg_jax.by_accuracy(), lpg_jax.varied(fields.pop("epsilon"), fields.pop("slope"))
    else:
        raise ValueError(f"bounds={kind!r}: must be 'accuracy' or 'longtail'")
    return losses.lpl(split, bound, base=base, **fields)


def _isda(context: Context, base: Any) -> losses.StatefulLoss:
    total = context.config.train.epochs * context.steps_per_epoch
    return losses.isda(total, base=base, **dict(options("isda", context.config)))


SHIFTS: dict[str, Callable[[Context, Any], losses.StatefulLoss]] = {
    "lpl": _lpl,
    "isda": _isda,
    "gcl": lambda context, base: losses.gaussian_clouded(
        context.counts, base=base, **dict(options("gcl", context.config))
    ),
}


def _mixing(part: str, mix: Callable[..., Any]) -> Callable[[Context], Any]:
    def make(context: Context) -> Callable[..., Any]:
        alpha = dict(options(part, context.config))["alpha"]
        if not alpha > 0:
            raise ValueError(f"alpha={alpha}: must be > 0")
        return lambda key, inputs, targets, mask: mix(key, inputs, targets, alpha, mask=mask)

    return make


MIXING: dict[str, Callable[[Context], Any]] = {
    "mixup": _mixing("mixup", losses.mixup),
    "cutmix": _mixing("cutmix", losses.cutmix),
}

# -- what predicts ----------------------------------------------------------------------------------------------------


def _cosines(part: str) -> Callable[[Context], Readout]:
    def make(context: Context) -> Readout:
        scale = dict(options(part, context.config))["scale"]

        def read(logits: jax.Array, features: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
            del logits, bias
            return scale * losses.cosine_logits(features, kernel)

        return read

    return make


def _posthoc(context: Context) -> Readout:
    tau = dict(options("posthoc", context.config))["tau"]
    if not tau > 0:
        raise ValueError(f"tau={tau}: must be > 0")
    return lambda logits, features, kernel, bias: losses.adjust_logits(logits, context.counts, tau)


READOUTS: dict[str, Callable[[Context], Readout]] = {
    "ldam": _cosines("ldam"),
    "gcl": _cosines("gcl"),
    "posthoc": _posthoc,  # post-hoc logit adjustment of whatever was trained
}

# -- parameters -------------------------------------------------------------------------------------------------------

SHARPNESS: dict[str, Callable[[Context], descent.Sharpness]] = {
    "sam": _with_fields("sam", descent.sam),
    "asam": _with_fields("asam", descent.asam),
    "gsam": _with_fields("gsam", descent.gsam),
    "looksam": _with_fields("looksam", descent.looksam),
}


def _conflict(part: str, combine: Callable[[Any, jax.Array], Any]) -> Callable[[Context], Conflict]:
    def make(context: Context) -> Conflict:
        return Conflict(descent.class_groups(context.counts, **dict(options(part, context.config))), combine)

    return make


CONFLICTS: dict[str, Callable[[Context], Conflict]] = {
    "pcgrad": _conflict("pcgrad", descent.pcgrad),
    "graddrop": _conflict("graddrop", descent.graddrop),
}

# -- what is learnt from the validation part --------------------------------------------------------------------------


class Meta(NamedTuple):
    """A controller of logit gradients that looks at the validation loss."""

    init: Callable[[jax.Array, jax.Array], Any]  # key, template of one row [C] -> state
    update: Callable[[descent.VirtualStep, Any], tuple[jax.Array, Any]]  # -> (what the transformation takes, state)
    argument: str  # under this name
    tx: optax.GradientTransformation
    batch_size: int  # examples of the validation part per step


def _meta_options(part: str, context: Context) -> tuple[int, dict[str, Any]]:
    """The size of a batch of the validation part (default: a quarter of a batch), and the other options."""
    held_out = context.config.data
    if not (held_out.validation > 0 or held_out.validation_per_class > 0):
        raise ValueError(
            f"data.validation={held_out.validation}: must be > 0, or data.validation_per_class; this method learns "
            "from the validation part"
        )
    if context.config.train.micro_batches > 1:
        value = context.config.train.micro_batches
        raise ValueError(f"train.micro_batches={value}: must be 1 for a method that tries the whole step out")
    fields = dict(options(part, context.config))
    size = fields.pop("batch_size", -(-context.config.train.batch_size // 4))
    if size < 1:
        raise ValueError(f"batch_size={size}: must be >= 1")
    return size, fields


def _reweighting(part: str, factory: Callable[..., descent.Reweighting]) -> Callable[[Context], Meta]:
    def make(context: Context) -> Meta:
        size, fields = _meta_options(part, context)
        controller = factory(**fields)

        def init(key: jax.Array, row: jax.Array) -> Any:
            return controller.init(key, row.dtype)

        return Meta(init, controller.update, "class_weights", transforms.class_level_reweighting(), size)

    return make


def _learned_lpg(context: Context) -> Meta:
    size, fields = _meta_options("learned_lpg", context)
    rate = fields.pop("learning_rate")
    if not rate > 0:
        raise ValueError(f"learning_rate={rate}: must be > 0")
    controller = descent.learned_bound(fields.pop("epsilon_max"), optimizer=optax.adam(rate), **fields)

    def init(key: jax.Array, row: jax.Array) -> Any:
        del key
        return controller.init(row.size, row.dtype)

    return Meta(init, controller.update, "class_epsilon", transforms.given_epsilon(), size)


META: dict[str, Callable[[Context], Meta]] = {
    "gdw": _reweighting("gdw", descent.gdw),
    "mwnet": _reweighting("mwnet", descent.mw_net),
    "learned_lpg": _learned_lpg,
}

# -- the head, when the rest is trained -------------------------------------------------------------------------------

SECOND_STAGES: dict[str, Callable[[Context], second_stage.Stage]] = {
    "crt": _with_counts("crt", second_stage.classifier_retraining),
    "lws": _with_counts("lws", second_stage.learnable_weight_scaling),
    "tau_norm": _with_fields("tau_norm", second_stage.tau_normalization),
}

# -- two networks, each of which learns from what the other finds easy ------------------------------------------------


def _co_teaching(context: Context) -> Callable[[jax.Array], jax.Array]:
    """Steps so far -> the share of a batch that is learnt from."""
    if context.config.train.micro_batches > 1:
        value = context.config.train.micro_batches
        raise ValueError(f"train.micro_batches={value}: must be 1 for a method that chooses among the whole batch")
    fields = dict(options("coteach", context.config))
    if "rate" not in fields and context.noise_rate == 0:
        raise ValueError("rate=None: defaults to the share of wrong labels, which is 0 or not known; set it to a guess")
    schedule = functools.partial(co_teaching.kept_share, **{"rate": context.noise_rate} | fields)
    schedule(0)  # names what is out of range
    return lambda step: schedule(step // context.steps_per_epoch)


CO_TEACHING: dict[str, Callable[[Context], Any]] = {"coteach": _co_teaching}

# -- logits -----------------------------------------------------------------------------------------------------------


def _class_balanced(context: Context) -> Any:
    fields = context.config.operators.cb
    if fields.start_epoch < 0:
        raise ValueError(f"start_epoch={fields.start_epoch}: must be >= 0")
    return transforms.class_balanced(context.counts, fields.beta, round(fields.start_epoch * context.steps_per_epoch))


def _equal_norm(context: Context, keep: str) -> Any:
    """LPG at the total norm of plain training ("norm"), or plain rows at the total norm of LPG ("direction")."""
    return transforms.equal_norm(lpg_preset.from_config(context.config.lpg, context.counts), keep=keep)


def _random_lpg(context: Context) -> Any:
    """The margins of config.lpg's split, handed to other classes."""
    lpg, counts = context.config.lpg, context.counts
    lpg_preset.from_config(lpg, counts)  # names what is wrong with them
    like = lpg_preset.split_from_config(lpg, counts)
    split = transforms.random_split(context.config.operators.random_lpg.key, like=like)
    return lpg_preset.from_config(lpg, counts, split)


def _sample_lpg(context: Context) -> Any:
    fields = dict(options("sample_lpg", context.config))
    bound = lpg_jax.varied(fields.pop("epsilon"), fields.pop("slope"))
    return transforms.sample_lpg(bound, **fields)


OPERATORS: dict[str, Callable[[Context], Any]] = {
    "lpg": lambda context: lpg_preset.from_config(context.config.lpg, context.counts),
    "sample_lpg": _sample_lpg,
    "gr": _with_fields("gr", transforms.gradient_rescaling),
    "imae": _with_fields("imae", transforms.imae),
    "ogc": _with_fields("ogc", transforms.optimized_gradient_clipping),
    "phuber": _with_fields("phuber", transforms.probability_clip),
    "cb": _class_balanced,
    "eql": _with_fields("eql", transforms.equalization),
    "ghm": _with_fields("ghm", transforms.density_harmonizing),
    "row_clip": _with_fields("row_clip", transforms.row_clip),
    "row_noise": _with_fields("row_noise", transforms.row_noise),
    "zero_sum": lambda context: transforms.zero_sum(),
    "equal_lpg": lambda context: _equal_norm(context, "norm"),
    "scaled_ce": lambda context: _equal_norm(context, "direction"),
    "random_lpg": _random_lpg,
}

HEADS: dict[str, Any] = {**READOUTS, **SECOND_STAGES}  # a second stage is for a head that is read as it is
# At most one of each. Two networks that teach each other go with none that takes a step, or a head, of its own.
EXCLUSIVE: tuple[dict[str, Any], ...] = (
    LOSSES,
    SHIFTS,
    MIXING,
    HEADS,
    SHARPNESS | CO_TEACHING,
    CONFLICTS | CO_TEACHING,
    META | CO_TEACHING,
    SECOND_STAGES | CO_TEACHING,
)
KNOWN = tuple(dict.fromkeys(part for table in (OPERATORS, *EXCLUSIVE) for part in table))
NO_BASE = ("ldam",)  # a loss with loss_args of its own, around which no shift goes
OF_HEAD = ("ldam", "isda", "gcl")  # losses that read features and the head's kernel
OF_LPG = ("equal_lpg", "scaled_ce", "random_lpg")  # that read config.lpg
INTEGER_LABELS = ("smooth", "isda")
