"""What is compared: for each kind of problem the methods, each with six values or more of its hyper-parameters.

Every method tries six values of its own, as LPG does of its eps, and more while the best is the last tried; each with
three weight decays or more (`plan.wider`), at the learning rate that is chosen for cross-entropy before.
A combination keeps the options chosen for its first part (not the weight decay) and tries LPG's eps in the same way,
under long tails beside logit adjustment its slope, too: there the varied bound is the best alone; its control, LPG on
random classes beside that part, keeps all of it. "equal-lpg" and "scaled-ce" keep the options of "lpg",
"equal-lpg-varied" those of "lpg-varied": what they change is what they control for. Under noise, where splits are
compared, LPG by accuracy has controls of its own. "lpg-decay", "random-decay" and "opposite-decay" show what LPG does
to classes where nothing else differs from cross-entropy; their eps is the best at its weight decay.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

Fields: TypeAlias = Mapping[str, Any]  # dotted field of a config -> value

BASELINE, LPG, CONTROL, COMBINATION = "baseline", "lpg", "control", "combination"
RATES, DECAY = "train.learning_rate", "train.weight_decay"


class Entry(NamedTuple):
    """A row of a table."""

    label: str
    title: str
    role: str  # BASELINE, LPG, CONTROL or COMBINATION
    method: str  # config.method
    trials: tuple[Fields, ...] = ()  # in the order in which they are tried; (): nothing is chosen for it
    fixed: Fields = MappingProxyType({})  # in every trial
    inherits: tuple[str, ...] = ()  # labels whose chosen fields are kept
    knows: str = ""  # what it is told beyond the training set
    seeded: tuple[str, ...] = ()  # fields that hold the number of the seed in the final runs
    among: str = ""  # label among whose trials the best at the inherited weight decay is taken


def one(field: str, *values: Any) -> tuple[Fields, ...]:
    """A trial for each value."""
    return tuple({field: value} for value in values)


EPSILONS = one("lpg.epsilon", 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
SLOPES = {  # eps = slope x margin; margins of frequency are about 0.3, of accuracy below 0.2, of variance 0.003 to 0.03
    "frequency": one("lpg.slope", 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4),
    "accuracy": one("lpg.slope", 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
    "gradient_variance": one("lpg.slope", 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0),
}
SMALL = one("lpg.epsilon", 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # beside another method
SMALL_SLOPES = tuple({"lpg.epsilon": 0.0, "lpg.slope": slope} for slope in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4))
RADII = one("descent.sam.rho", 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SEEDED = ("operators.random_lpg.key",)
TAUS = (0.5, 0.75, 0.9, 1.0, 1.2, 1.5, 2.0, 3.0)  # of logit adjustment
FACTORS = (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)  # of the learning rate


def _plain() -> list[Entry]:
    """Baselines of every kind of problem."""
    return [
        Entry("ce", "cross-entropy", BASELINE, "ce", (MappingProxyType({}),)),
        Entry(
            "smooth",
            "label smoothing",
            BASELINE,
            "smooth",
            one("losses.smooth.alpha", 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8),
        ),
        Entry("mixup", "mixup", BASELINE, "mixup", one("losses.mixup.alpha", 0.05, 0.1, 0.2, 0.4, 0.7, 1.0, 2.0)),
        Entry("focal", "focal loss", BASELINE, "focal", one("losses.focal.gamma", 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0)),
        Entry("sam", "SAM", BASELINE, "sam", RADII),
    ]


def _lpl(bounds: str, steps: int) -> Entry:
    """LPL by the length of its steps; a quarter of the walk for every class, the rest by slope."""
    trials = tuple(
        {
            "losses.lpl.bounds": bounds,
            "losses.lpl.step_size": size,
            "losses.lpl.epsilon": round(0.25 * steps * size, 6),
            "losses.lpl.slope": round(0.75 * steps * size, 6),
        }
        for size in (0.01, 0.05, 0.1, 0.3, 1.0, 2.0, 4.0)
    )
    return Entry("lpl", "LPL, varied bound", BASELINE, "lpl", trials)


def _la() -> Entry:
    return Entry("la", "logit adjustment", BASELINE, "la", one("losses.la.tau", *TAUS))


def _lpg(split: str, text: str, scale: Fields, held_out: Fields) -> list[Entry]:
    """LPG with the split that the paper has for this kind of problem, by example, with learnt bounds, and controls."""
    fixed = {"lpg.split": split, **scale}
    slopes = tuple({"lpg.epsilon": 0.0, **trial} for trial in SLOPES[split])
    learnt = one("descent.learned_lpg.epsilon_max", 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
    return [
        *_readings(text, fixed, slopes),
        _by_example("sample-lpg", "hard"),
        _by_example("sample-lpg-easy", "easy"),
        Entry("learned-lpg", "LPG with learnt bounds", LPG, "learned_lpg", learnt, held_out),
        *_controls(text, fixed),
    ]


def _readings(text: str, fixed: Fields, slopes: tuple[Fields, ...]) -> list[Entry]:
    """Every direction, with a fixed bound or the varied one of Eq. 21, and PGD."""
    mean, scale = ({**fixed, "lpg.direction": name} for name in ("class_mean", "class_scale"))
    pgd = {**fixed, "lpg.pgd_steps": 3, "lpg.metric": "head"}
    rows = (
        ("lpg", f"LPG by {text}, fixed bound", EPSILONS, fixed),
        ("lpg-varied", f"LPG by {text}, varied bound", slopes, fixed),
        ("lpg-mean", f"LPG by {text}, along the class mean", EPSILONS, mean),
        ("lpg-scale", f"LPG by {text}, class scale", EPSILONS, scale),
        ("lpg-scale-varied", f"LPG by {text}, class scale, varied bound", slopes, scale),
        ("lpg-pgd", f"LPG-PGD by {text}, head metric, T = 3", EPSILONS, pgd),
    )
    return [Entry(label, title, LPG, "lpg", trials, fields) for label, title, trials, fields in rows]


def _gce() -> Entry:
    return Entry("gce", "GCE", BASELINE, "gce", one("losses.gce.q", 0.1, 0.3, 0.5, 0.7, 0.9, 1.0))


def _by_example(label: str, amplified: str) -> Entry:
    trials = one("operators.sample_lpg.epsilon", 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
    fixed = {"operators.sample_lpg.statistic": "loss", "operators.sample_lpg.amplify": amplified}
    return Entry(label, f"LPG per example, by loss, {amplified} ones amplified", LPG, "sample_lpg", trials, fixed)


def _controls(text: str, fixed: Fields, of: str = "lpg") -> list[Entry]:
    """Of an entry: signs reversed, other classes, and the two halves of what it does: directions and step size."""
    reverse, name = {**fixed, "lpg.opposite": True}, "LPG" if of == "lpg" else f"LPG by {text}"
    made = [
        Entry(f"{of}-opposite", f"LPG by {text}, signs reversed", CONTROL, "lpg", EPSILONS, reverse),
        Entry(f"random-{of}", f"{name}, the same margins on random classes", CONTROL, "random_lpg", EPSILONS, fixed,
              seeded=SEEDED),
    ]  # fmt: skip
    halves = {
        f"equal-{of}": (f"{name} at the gradient norm of cross-entropy", "equal_lpg"),
        f"scaled-ce{of.removeprefix('lpg')}": (f"cross-entropy at the gradient norm of {name}", "scaled_ce"),
    }
    for label, (title, method) in halves.items():
        made.append(Entry(label, title, CONTROL, method, fixed=fixed, inherits=(of,)))
    return made


def _with_lpg(
    bases: Iterable[Entry], fixed: Fields, trials: tuple[Fields, ...] = SMALL, varied: bool = False
) -> list[Entry]:
    """Each with LPG beside it, and its control: the same margins, at the same settings, on random classes."""
    made, suffix, text = [], "-varied" * varied, ", varied bound" * varied
    for base in bases:
        title, label = f"{base.title} + LPG", f"{base.label}+lpg{suffix}"
        made += [
            Entry(label, f"{title}{text}", COMBINATION, f"{base.method}+lpg", trials, fixed, inherits=(base.label,)),
            Entry(f"{base.label}+random-lpg{suffix}", f"{title} on random classes{text}", CONTROL,
                  f"{base.method}+random_lpg", fixed=fixed, inherits=(label,), seeded=SEEDED),
        ]  # fmt: skip
    return made


def _also(split: str, text: str, label: str) -> Entry:
    """The same with another split."""
    fixed = {"lpg.split": split, "lpg.threshold": "mean"}
    return Entry(label, f"LPG by {text}, fixed bound", LPG, "lpg", EPSILONS, fixed)


def longtail(held_out: Fields) -> list[Entry]:
    """Of long tails; LPG splits by frequency at the geometric middle, the paper's median."""
    rare = tuple({"lpg.threshold": at, **trial} for at in (0.15, 0.3) for trial in one("lpg.epsilon", 0.05, 0.2, 0.5))
    scales = one("losses.ldam.scale", 10.0, 20.0, 30.0, 40.0, 60.0, 90.0, 130.0, 200.0)
    lpl, fixed = _lpl("longtail", 20), {"lpg.split": "frequency", "lpg.threshold": 0.5}
    la = _la()
    sam = _plain()[-1]
    return [
        *_plain(),
        la,
        Entry("posthoc", "logit adjustment, post hoc", BASELINE, "posthoc", one("losses.posthoc.tau", *TAUS)),
        Entry(
            "cb",
            "class-balanced weights",
            BASELINE,
            "cb",
            one("operators.cb.beta", 0.9, 0.99, 0.999, 0.9995, 0.9999, 0.99997, 0.99999),
            {"operators.cb.start_epoch": 0.0},
        ),
        Entry(
            "resample",
            "class-balanced sampling, deferred",
            BASELINE,
            "ce",
            one("train.sampler_start", 0.0, 0.2, 0.4, 0.6, 0.8, 0.9),
            {"train.sampler": "class_balanced"},
        ),
        Entry("ldam", "LDAM", BASELINE, "ldam", scales),
        Entry(
            "tau-norm",
            "tau-normalised head",
            BASELINE,
            "tau_norm",
            one("descent.tau_norm.tau", 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0),
        ),
        lpl,
        _gce(),
        *_lpg("frequency", "frequency", {"lpg.threshold": 0.5}, held_out),
        Entry(
            "equal-lpg-varied",
            "LPG, varied bound, at the gradient norm of cross-entropy",
            CONTROL,
            "equal_lpg",
            fixed=fixed,
            inherits=("lpg-varied",),
        ),
        Entry("lpg-rare", "LPG by frequency, threshold below the middle", LPG, "lpg", rare, {"lpg.split": "frequency"}),
        _also("accuracy", "accuracy", "lpg-accuracy"),
        _also("gradient_variance", "gradient variance", "lpg-variance"),
        *_with_lpg((la, lpl), fixed),
        *_with_lpg((sam,), fixed, EPSILONS),
        *_with_lpg((la,), fixed, SMALL_SLOPES, varied=True),
    ]


def noisy(held_out: Fields) -> list[Entry]:
    """Of wrong labels; LPG splits by gradient variance.

    Logit adjustment knows the counts of the labels as given: noise that is not symmetric makes some classes rarer.
    """
    sce = [(0.1, 1.0), (1.0, 1.0), (6.0, 0.1), (0.01, 1.0), (1.0, 0.3), (0.1, 5.0)]
    pairs = [(1.0, 0.0), (2.0, 0.0), (4.0, 0.5), (8.0, 0.5), (8.0, 1.0), (16.0, 1.0)]
    gce, accuracy = _gce(), _also("accuracy", "accuracy", "lpg-accuracy")
    lpl, fixed = _lpl("accuracy", 20), {"lpg.split": "gradient_variance", "lpg.threshold": "mean"}
    return [
        *_plain(),
        gce,
        Entry("sce", "SCE", BASELINE, "sce", tuple({"losses.sce.alpha": a, "losses.sce.beta": b} for a, b in sce)),
        Entry(
            "phuber",
            "probability clip (PHuber)",
            BASELINE,
            "phuber",
            one("operators.phuber.tau", 1.2, 1.5, 2.0, 4.0, 10.0, 30.0, 100.0, 300.0),
        ),
        Entry(
            "ogc",
            "optimized gradient clipping",
            BASELINE,
            "ogc",
            one("operators.ogc.target_ratio", 1.02, 1.05, 1.1, 1.2, 1.5, 2.0, 3.0, 5.0),
        ),
        Entry(
            "gr",
            "gradient rescaling (DM)",
            BASELINE,
            "gr",
            tuple({"operators.gr.beta": beta, "operators.gr.lam": lam} for beta, lam in pairs),
            {"operators.gr.normalizer": "integral"},
        ),
        Entry(
            "coteach",
            "co-teaching",
            BASELINE,
            "coteach",
            one("descent.coteach.ramp_epochs", 1, 2, 5, 10, 15, 20),
            knows="the noise rate",
        ),
        _la(),
        lpl,
        *_lpg("gradient_variance", "gradient variance", {"lpg.threshold": "mean"}, held_out),
        accuracy,
        *_controls("accuracy", accuracy.fixed, accuracy.label),
        *_with_lpg((gce, lpl), fixed),
        *_with_lpg(_plain()[-1:], fixed, EPSILONS),
    ]


def balanced(held_out: Fields) -> list[Entry]:
    """Of balanced classes with right labels; LPG splits by accuracy."""
    lpl, fixed = _lpl("accuracy", 20), {"lpg.split": "accuracy", "lpg.threshold": "mean"}
    mixup, sam = _plain()[2], _plain()[-1]
    noise = one("train.gradient_noise", 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    return [
        *_plain(),
        Entry("isda", "ISDA", BASELINE, "isda", one("losses.isda.strength", 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)),
        Entry("gradient-noise", "gradient noise", BASELINE, "ce", noise, {"train.gradient_noise_decay": 0.55}),
        lpl,
        *_lpg("accuracy", "accuracy", {"lpg.threshold": "mean"}, held_out),
        _also("gradient_variance", "gradient variance", "lpg-variance"),
        *_with_lpg((mixup, lpl), fixed),
        *_with_lpg((sam,), fixed, EPSILONS),
    ]


ENTRIES = {"longtail": longtail, "noisy": noisy, "balanced": balanced}


def of_kind(kind: str, base: Fields, held_out: Fields) -> dict[str, Entry]:
    """The entries of a kind of problem, by label, in order.

    Args:
      kind: "longtail", "noisy" or "balanced".
      base: with the learning rate that one control scales.
      held_out: fields of the validation part from which bounds are learnt.
    """
    scaled = one(RATES, *(round(base[RATES] * factor, 6) for factor in FACTORS))
    made = ENTRIES[kind](held_out)
    at = next(number for number, entry in enumerate(made) if entry.role != BASELINE)
    less = "cross-entropy without the examples from which bounds are learnt"
    made.insert(at, Entry("ce-less", less, CONTROL, "ce", fixed=held_out, inherits=("ce",)))
    made.insert(at, Entry("ce-lr", "cross-entropy, learning rate scaled", CONTROL, "ce", scaled))
    found = {entry.label: entry for entry in made}
    for source, label in (("lpg", "lpg-decay"), ("random-lpg", "random-decay"), ("lpg-opposite", "opposite-decay")):
        of = found[source]
        title = f"{of.title}, at the weight decay of cross-entropy"
        found[label] = Entry(
            label, title, CONTROL, of.method, fixed=of.fixed, inherits=(source, "ce"), seeded=of.seeded, among=source
        )
    return found
