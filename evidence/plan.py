"""From a scenario to runs: what is tried, what is chosen, what is trained at the end, in how many hours."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from configs import heads
from evidence.entries import Entry, Fields, of_kind
from evidence.scenarios import Scenario
from lpg_jax.training import sweep, workdir
from lpg_jax.training.sweep import Outcome, Run

TUNE_SEED, TUNE_SEEDS = 100, 3  # another data seed than those of the final runs; initial parameters and data orders
BASE = {"train.learning_rate": (0.02, 0.05, 0.1, 0.2, 0.4), "train.weight_decay": (5e-4, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2)}
SECONDS = {  # of a trial's program, of a run
    ("T1", "digits"): (4.0, 1.0),
    ("T2", "cifar10"): (7.0, 3.0),
    ("T2", "cifar100"): (8.0, 4.0),
    ("T3", "cifar10"): (0.0, 600.0),
}


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


def final_runs(scenario: Scenario, entry: Entry, fields: Fields, home: Path) -> list[Run]:
    """One run per seed."""
    at = home / "final" / entry.label
    return [
        Run({"seed": seed}, final_config(scenario, entry, fields, seed), at / f"seed={seed}") for seed in scenario.seeds
    ]


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


def hours(scenarios: Sequence[Scenario]) -> float:
    """Of everything, from the start, on one core."""
    total = 0.0
    for scenario in scenarios:
        trial, run = SECONDS[scenario.tier, scenario.data]
        if scenario.tier == "T3":
            total += run * len(scenario.seeds) * 4
            continue
        wanted = of_kind(scenario.kind, dict.fromkeys(BASE, 0.1), scenario.held_out).values()
        total += sum(trial * len(entry.trials) + run * len(scenario.seeds) for entry in wanted)
    return total / 3600
