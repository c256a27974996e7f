"""From a scenario to runs: what is tried, what is chosen, what is trained at the end, in how many hours."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs import heads
from evidence.entries import Entry, Fields
from evidence.scenarios import SEEDS, Scenario
from lpg_jax.training import sweep, workdir
from lpg_jax.training.sweep import Outcome, Run

TUNE_SEED, TUNE_SEEDS = 100, 3  # another data seed than those of the final runs; initial parameters and data orders
BASE = {"train.learning_rate": (0.02, 0.05, 0.1, 0.2, 0.4), "train.weight_decay": (5e-4, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2)}
SECONDS = {"digits": (4.0, 3.0), "cifar10": (12.0, 5.0), "cifar100": (15.0, 6.0)}  # of a trial's program, of a run


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
    if config.data.noise.kind == "human":
        config.data.noise.path = f"{heads.FEATURES}/{scenario.data}_tune_human.npz"
    config.seed, config.num_seeds = TUNE_SEED, TUNE_SEEDS
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


def base_runs(scenario: Scenario, entry: Entry, home: Path) -> list[Run]:
    """The grid of learning rates and weight decays for cross-entropy."""
    return sweep.expand(tuning_config(scenario, {}, entry, {}), BASE, home / "tune" / "base")


def trial_runs(scenario: Scenario, base: Fields, entry: Entry, inherited: Fields, home: Path) -> list[Run]:
    """One run per trial of an entry, in their order."""
    config = tuning_config(scenario, base, entry, inherited)
    each = ({field: [value] for field, value in trial.items()} for trial in entry.trials)
    return list(itertools.chain(*(sweep.expand(config, grid, home / "tune" / entry.label) for grid in each)))


def final_runs(scenario: Scenario, entry: Entry, fields: Fields, home: Path, seeds: Sequence[int] = SEEDS) -> list[Run]:
    """One run per seed."""
    at = home / "final" / entry.label
    return [Run({"seed": seed}, final_config(scenario, entry, fields, seed), at / f"seed={seed}") for seed in seeds]


def trials_of(runs: Sequence[Run], outcomes: Sequence[Outcome], settings: Sequence[Fields]) -> tuple[Trial, ...]:
    """The runs as trials, the best of them chosen; one that diverged has accuracy 0."""
    found = [_scores(run, outcome.error) for run, outcome in zip(runs, outcomes, strict=True)]
    best = int(np.argmax([mean for mean, _, _ in found]))
    return tuple(
        Trial(fields, mean, half, n, number == best)
        for number, (fields, (mean, half, n)) in enumerate(zip(settings, found, strict=True))
    )


def _scores(run: Run, error: str) -> tuple[float, float, int]:
    """Mean, 95 % half-width over seeds, and number of seeds of the balanced accuracy on what is held out."""
    if error:
        return 0.0, math.nan, 0
    (entry,) = workdir.read_json(run.home / workdir.SUMMARY, dict)["methods"].values()
    n = len(entry["params_sha256"])
    half = entry["ci95"].get("balanced")
    return entry["balanced"], math.nan if half is None else half, n


def chosen(trials: Sequence[Trial]) -> Fields:
    """The setting that is taken."""
    return next(trial.fields for trial in trials if trial.chosen)


def hours(scenarios: Sequence[Scenario], entries: Mapping[str, Sequence[Entry]]) -> float:
    """Of everything, from the start, on one core."""
    total = 0.0
    for scenario in scenarios:
        trial, run = SECONDS[scenario.data]
        count = sum(len(entry.trials) if len(entry.trials) > 1 else 0 for entry in entries[scenario.name])
        total += trial * count + run * len(SEEDS) * len(entries[scenario.name])
    return total / 3600
