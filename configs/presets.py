"""The options of every method, by problem: what `--config.method=NAME` means in each file of this directory.

    python launch.py --config=configs/baselines.py --config.method=ldam                        # prints ldam (scale ...)
    python launch.py --config=configs/baselines.py --config.method=ldam --config.losses.ldam.scale=20.0

A preset is {field: value} over configs/default.py, which holds what a paper says where that fits all problems; a run
prints the options of its methods. CIFAR's are those of the papers (architecture: a ResNet). Those of the digits were
chosen by `python -m configs.tune`, as described there, four trials for each method; results/presets/digits.csv has
every trial with its mean, 95 % interval and number of data seeds, and a test compares the two. Not chosen: split and
threshold of lpg (`digits_longtail.py` says how those were), gdw, mwnet, learned_lpg, the methods for long tails where
classes are equally frequent, and the operators; they are as in configs/default.py.

`recommended` are the settings with LPG in them that did best in the evidence: for a head on fixed features with
learning rate and weight decay, for a network the method and its options only.
"""

import json
import warnings
from pathlib import Path
from typing import Any, TypeAlias

from configs import default

Preset: TypeAlias = dict[str, Any]


def lpl(bounds: str, step_size: float, steps: int, num_head: int | None = None) -> Preset:
    """LPL by its longest walk: `steps` of step_size, a quarter of them for every class, the rest by slope."""
    fields: Preset = {"bounds": bounds, "step_size": step_size}
    fields |= {"epsilon": 0.25 * steps * step_size, "slope": 0.75 * steps * step_size}
    fields |= {} if num_head is None else {"num_head": num_head}
    return {f"losses.lpl.{name}": value for name, value in fields.items()}


def _lpg(split: str, threshold: float | str, epsilon: float | None = None) -> Preset:
    fields = {"lpg.split": split, "lpg.threshold": threshold}
    return fields if epsilon is None else fields | {"lpg.epsilon": epsilon}


def _sharpness(rho: float, rho_of_asam: float) -> Preset:
    return {f"descent.{name}.rho": rho for name in ("sam", "gsam", "looksam")} | {"descent.asam.rho": rho_of_asam}


# what `python -m configs.tune` prints
DIGITS: dict[str, Preset] = {
    "longtail": {
        "lpg.epsilon": 0.05,
        "losses.focal.gamma": 1.0,
        "losses.smooth.alpha": 0.1,
        "losses.mixup.alpha": 0.2,
        "descent.sam.rho": 0.2,
        "losses.gce.q": 0.3,
        "losses.sce.alpha": 1.0,
        "losses.sce.beta": 0.3,
        "losses.ldam.scale": 30.0,
        "losses.isda.strength": 0.1,
        "losses.gcl.scale": 30.0,
        "losses.cutmix.alpha": 1.0,
        "descent.asam.rho": 1.0,
        "descent.gsam.rho": 0.1,
        "descent.looksam.alpha": 0.7,
        "descent.pcgrad.num_groups": 2,
        "descent.graddrop.num_groups": 3,
        "losses.la.tau": 1.5,
        "losses.posthoc.tau": 1.5,
        "descent.crt.learning_rate": 0.1,
        "descent.lws.learning_rate": 0.3,
        "descent.tau_norm.tau": 1.0,
        **lpl("longtail", 0.15, 10),
    },
    "noisy": {
        "lpg.epsilon": 0.1,
        "losses.focal.gamma": 2.0,
        "losses.smooth.alpha": 0.1,
        "losses.mixup.alpha": 0.2,
        "descent.sam.rho": 0.2,
        "losses.gce.q": 0.7,
        "losses.sce.alpha": 0.1,
        "losses.sce.beta": 1.0,
        "losses.ldam.scale": 5.0,
        "losses.isda.strength": 0.5,
        "losses.gcl.scale": 5.0,
        "losses.cutmix.alpha": 0.1,
        "descent.asam.rho": 1.0,
        "descent.gsam.rho": 0.2,
        "descent.looksam.alpha": 0.5,
        "descent.pcgrad.num_groups": 3,
        "descent.graddrop.num_groups": 2,
        "descent.coteach.ramp_epochs": 10,
        **lpl("accuracy", 0.01, 40),
    },
    "balanced": {
        "lpg.epsilon": 0.05,
        "losses.focal.gamma": 1.0,
        "losses.smooth.alpha": 0.1,
        "losses.mixup.alpha": 0.2,
        "descent.sam.rho": 0.05,
    },
}

CIFAR10 = {"losses.sce.alpha": 0.1, "losses.sce.beta": 1.0} | _sharpness(0.05, 0.5)
CIFAR100 = {"losses.sce.alpha": 6.0, "losses.sce.beta": 0.1} | _sharpness(0.1, 1.0)
DRW = {"operators.cb.start_epoch": 160.0}  # of 200: ldam+cb is LDAM-DRW
SMALL = {"operators.ogc.queue_size": 256}  # less than an epoch

PRESETS: dict[tuple[str, str], Preset] = {
    ("digits", "longtail"): SMALL | _lpg("frequency", 0.15) | DIGITS["longtail"],
    ("digits", "noisy"): SMALL | _lpg("gradient_variance", "mean") | DIGITS["noisy"],
    ("digits", "balanced"): SMALL | _lpg("accuracy", "mean") | DIGITS["balanced"],
    ("cifar10", "longtail"): CIFAR10 | DRW | _lpg("frequency", 0.5, 0.1) | lpl("longtail", 0.15, 10, num_head=4),
    ("cifar100", "longtail"): CIFAR100 | DRW | _lpg("frequency", 0.5, 0.1) | lpl("longtail", 0.01, 40, num_head=40),
    ("cifar10", "noisy"): CIFAR10 | _lpg("gradient_variance", "mean", 0.1) | lpl("accuracy", 0.01, 40),
    ("cifar100", "noisy"): CIFAR100 | _lpg("gradient_variance", "mean", 0.1) | lpl("accuracy", 0.01, 40),
    ("cifar10", "balanced"): CIFAR10 | _lpg("accuracy", "mean", 0.1) | lpl("accuracy", 0.01, 40),
    ("cifar100", "balanced"): CIFAR100 | _lpg("accuracy", "mean", 0.1) | lpl("accuracy", 0.01, 40),
    ("embeddings", "longtail"): _lpg("frequency", 0.5, 0.1),
    ("embeddings", "noisy"): _lpg("gradient_variance", "mean", 0.1),
}

METHODS = (*default.METHODS, "recommended")  # words for config.method where T3 of the evidence may have the problem
RECOMMENDED = Path(__file__).parents[1] / "results" / "recommended.json"  # by `python -m lpg_jax.report`


def recommended(scenario: str) -> Preset:
    """The best setting with LPG in it by scores on held-out data: method, options, and of heads what is trained with.

    Of a head ("cifar10_longtail100") learning rate and weight decay are part of it. Of a network
    ("cifar10_longtail100_resnet8") they are the network's own, the same for all methods, and no part of it.

    The file also says what it gains over cross-entropy and over the best baseline; where that is nothing, a warning
    says so.

    Args:
      scenario: as in `python -m evidence run SCENARIO`.

    Raises:
      ValueError: the evidence has no such scenario, or its file is not there.
    """
    if not RECOMMENDED.exists():
        raise ValueError(
            f"{RECOMMENDED.name}: not there; `python -m lpg_jax.report runs/evidence --out results` writes it"
        )
    known = json.loads(RECOMMENDED.read_text(encoding="utf-8"))
    if scenario not in known:
        raise ValueError(f"scenario={scenario!r}: {RECOMMENDED.name} has none; must be one of {', '.join(known)}")
    found = known[scenario]
    if not found.get("helps", True):
        others = {"ce": "over_ce", found["baseline"]: "over_baseline", found["strongest"]: "over_strongest"}
        others |= {"ce with a learning rate chosen again": "over_rate", "LPG on random classes": "over_random"}
        others = {name: found[key] for name, key in others.items() if name and key in found}
        gains = [f"{_gain(gap)} from {name}" for name, gap in others.items() if gap["ci95"] is not None]
        unknown = [name for name, gap in others.items() if gap["ci95"] is None]  # too few runs, or none
        text = f"{scenario}: LPG is not what helps here"
        text += f"; in points {found['label']} differs by {', by '.join(gains)}" * bool(gains)
        text += f"; not compared with {', '.join(unknown)}" * bool(unknown)
        warnings.warn(text, stacklevel=3)
    return found["config"]


def _gain(gap: dict[str, Any]) -> str:
    return f"{gap['mean']:+.2f} +- {gap['ci95']:.2f} (n = {gap['n']})"


def set_method(config: default.Config, word: str, scenario: str) -> default.Config:
    """Sets the methods that a word of METHODS stands for, and returns the config; options too with "recommended".

    Args:
      config: of a network, with the presets applied.
      word: of METHODS.
      scenario: of the evidence's T3, of which "recommended" speaks.

    Raises:
      ValueError: nothing is recommended for that scenario.
    """
    if word != "recommended":
        config.method = default.methods(word)
        return config
    config.update_from_flattened_dict(recommended(scenario))
    return config


def apply(config: default.Config, problem: str, scenario: str) -> default.Config:
    """Sets the fields of PRESETS[problem, scenario] in a config, and returns it.

    Raises:
      ValueError: no such preset.
    """
    if (problem, scenario) not in PRESETS:
        known = ", ".join(f"{name} {kind}" for name, kind in PRESETS)
        raise ValueError(f"preset={problem!r}, {scenario!r}: must be one of {known}")
    config.update_from_flattened_dict(PRESETS[problem, scenario])
    return config
