"""From a scenario to runs: what is tried, what is chosen, what is trained at the end, in how many hours."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from configs import heads
from evidence.entries import DECAY, RATES, Entry, Fields, of_kind
from evidence.scenarios import Scenario
from lpg_jax.training import sweep, workdir
from lpg_jax.training.sweep import Outcome, Run

TUNE_SEEDS = {"T1": (100, 101, 102), "T2": (100, 101)}  # other problems than those of the final runs
# Share of the training set on which hyper-parameters are chosen, with right labels, another one for each seed; of
# digits less, so that the rarest class of a long tail keeps two examples.
HELD_OUT = {"digits": 0.15, "cifar10": 0.2, "cifar100": 0.2}
# Times the weight decay that the grid gives cross-entropy, for every value of every method's hyper-parameters, and for
# cross-entropy: first the three in the middle, and while the best lies at an end of those tried, the next one.
DECAYS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
MIDDLE = slice(3, 6)
FIRST = 6  # values that every method tries; then the next one, while the best is the last tried
BASE = {
    "train.learning_rate": (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4),
    "train.weight_decay": (5e-4, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2),
}
NEAR = 0.005  # scores that are as good; of such learning rates the one in the middle is taken
SECONDS = {  # of an entry, tuned and trained on every seed, on one core; T3: of an entry with one seed
    ("T1", "digits"): 20.0,
    ("T2", "cifar10"): 90.0,
    ("T2", "cifar100"): 140.0,
    ("T3", "cifar10"): 380.0,
}
FINAL = 0.25  # of SECONDS: for the final runs of T1 and T2, without tuning
NETWORK = 5  # entries of a problem of T3, see networks.py


class Trial(NamedTuple):
    """A setting, and how it did on what was held out: balanced accuracy."""

    fields: Fields
    mean: float
    ci95: float
    n: int
    chosen: bool


def home_of(workdir: Path, scenario: Scenario) -> Path:
    """The directory of a scenario."""
    return workdir / scenario.tier / scenario.name


def tuning_config(scenario: Scenario, base: Fields, entry: Entry, inherited: Fields) -> Any:
    """A config that is trained on a part of the training set and scored on the rest of it."""
    config = scenario.config()
    config.data.path = f"{heads.FEATURES}/{scenario.data}_tune.npz"
    config.data.test_fraction = HELD_OUT[scenario.data]
    return _with(config, entry, {**base, **inherited, **entry.fixed})


def final_config(scenario: Scenario, entry: Entry, fields: Fields, seed: int) -> Any:
    """A config of the final comparison."""
    config = scenario.config()
    config.seed = seed
    return _with(config, entry, {**fields, **dict.fromkeys(entry.seeded, seed)})


def _with(config: Any, entry: Entry, fields: Fields) -> Any:
    config.method = entry.method
    config.update_from_flattened_dict(dict(fields))
    return config


def base_settings() -> list[Fields]:
    """The grid of learning rates and weight decays for cross-entropy."""
    return [dict(zip(BASE, values, strict=True)) for values in itertools.product(*BASE.values())]


def base_trials(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """The same, chosen among them the middle one of the learning rates that do as well, with its best weight decay.

    At the largest rate that does well training often collapses with a little less weight decay, which a method that
    wants less of it would pay for; at the smallest a loss with small gradients does not come far.
    """
    best = max(trial.mean for trial in trials)
    rates = sorted({trial.fields[RATES] for trial in trials if trial.mean >= best - NEAR})
    rate = rates[(len(rates) - 1) // 2]
    taken = max((trial for trial in trials if trial.fields[RATES] == rate), key=lambda trial: trial.mean)
    return tuple(trial._replace(chosen=trial is taken) for trial in trials)


def settings_of(entry: Entry, base: Fields, tried: Sequence[slice]) -> list[Fields]:
    """The first values of an entry, each with its part of `DECAYS`: a method that does best with less weight decay, or
    more, is not compared at what suits cross-entropy."""
    decays, values = _decays(base), entry.trials[: len(tried)]
    return [{**value, DECAY: decay} for value, part in zip(values, tried, strict=True) for decay in decays[part]]


def at_first(entry: Entry) -> list[slice]:
    """The parts of `DECAYS` with which tuning begins, one for each value."""
    return [MIDDLE] * len(entry.trials[:FIRST])


def began(entry: Entry, base: Fields, chosen: Fields) -> bool | None:
    """Whether what was chosen is one of the trials with which tuning began, as many for each entry; None: nothing was
    to be chosen, or for cross-entropy, from whose grid all have their learning rate."""
    if entry.label == "ce" or not entry.trials:
        return None
    return any(setting.items() <= dict(chosen).items() for setting in settings_of(entry, base, at_first(entry)))


def wider(entry: Entry, base: Fields, tried: Sequence[slice], trials: Sequence[Trial]) -> list[slice]:
    """What to try next: with each value one more weight decay where its best lies at an end, and one more value where
    the best of all is the last; what was tried where there is nothing more."""
    decays, values, found = _decays(base), entry.trials[: len(tried)], []
    for value, part in zip(values, tried, strict=True):
        best = max((trial for trial in trials if _value(trial.fields) == value), key=lambda trial: trial.mean)
        at = decays.index(best.fields[DECAY])
        found.append(slice(max(min(part.start, at - 1), 0), min(max(part.stop, at + 2), len(DECAYS))))
    last = _value(chosen(trials)) == values[-1]
    return found + [MIDDLE] * (last and FIRST <= len(tried) < len(entry.trials))


def best_at(trials: Sequence[Trial], decay: float) -> Fields:
    """The setting with the highest score of those with a weight decay; {}: none was tried with it."""
    tried = [trial for trial in trials if trial.fields[DECAY] == decay]
    return max(tried, key=lambda trial: trial.mean).fields if tried else {}


def _value(fields: Fields) -> Fields:
    """Without the weight decay."""
    return {field: value for field, value in fields.items() if field != DECAY}


def _decays(base: Fields) -> list[float]:
    return [round(base[DECAY] * factor, 8) for factor in DECAYS]


def trial_runs(
    scenario: Scenario, settings: Sequence[Fields], base: Fields, entry: Entry, inherited: Fields, home: Path
) -> list[list[Run]]:
    """The runs of each setting, one per seed."""
    config = tuning_config(scenario, base, entry, inherited)

    def run(setting: Fields, seed: int) -> Run:
        point = {**setting, **dict.fromkeys((*entry.seeded, "seed"), seed)}
        return sweep.expand(config, {field: [value] for field, value in point.items()}, home)[0]

    return [[run(setting, seed) for seed in TUNE_SEEDS[scenario.tier]] for setting in settings]


def final_runs(scenario: Scenario, entry: Entry, fields: Fields, home: Path) -> list[Run]:
    """One run per seed."""
    at = home / "final" / entry.label
    return [
        Run({"seed": seed}, final_config(scenario, entry, fields, seed), at / f"seed={seed}") for seed in scenario.seeds
    ]


def trials_of(
    settings: Sequence[Fields], runs: Sequence[Sequence[Run]], outcomes: Sequence[Outcome]
) -> tuple[Trial, ...]:
    """The settings with their scores, the best of them chosen; where a run diverged its accuracy is 0."""
    errors = {outcome.run.home: outcome.error for outcome in outcomes}
    scores = [[_score(run, errors[run.home]) for run in its] for its in runs]
    best = int(np.argmax(np.mean(scores, axis=1)))
    return tuple(
        Trial(fields, float(np.mean(its)), _half(its), len(its), number == best)
        for number, (fields, its) in enumerate(zip(settings, scores, strict=True))
    )


def diverged(error: str) -> bool:
    """Whether an error is an outcome of training, and no fault of the plan or the machine."""
    return "became NaN or infinite" in error


def _score(run: Run, error: str) -> float:
    """Balanced accuracy on what is held out."""
    if error and not diverged(error):
        raise RuntimeError(f"{run.home}: {error}")
    if error:
        return 0.0
    (entry,) = workdir.read_json(run.home / workdir.SUMMARY, dict)["methods"].values()
    return entry["balanced"]


def _half(scores: Sequence[float]) -> float:
    """95 % half-width (Student's t)."""
    return float(stats.t.ppf(0.975, len(scores) - 1) * np.std(scores, ddof=1) / len(scores) ** 0.5)


def chosen(trials: Sequence[Trial]) -> Fields:
    """The setting that is taken."""
    return next(trial.fields for trial in trials if trial.chosen)


def hours(scenarios: Sequence[Scenario], tuned: bool = True) -> float:
    """Of everything but the studies, from the start, on one core; `tuned`: with the tuning of T1 and T2."""
    total = 0.0
    for scenario in scenarios:
        number = len(of_kind(scenario.kind, dict.fromkeys(BASE, 0.1), scenario.held_out))
        if scenario.tier == "T3":
            number = NETWORK * len(scenario.seeds)
        share = 1.0 if tuned or scenario.tier == "T3" else FINAL
        total += number * share * SECONDS[scenario.tier, scenario.data]
    return total / 3600
