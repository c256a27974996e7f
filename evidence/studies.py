"""How much a hyper-parameter of LPG matters: one is varied, the others stay as they were chosen (Figure 6)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evidence import plan
from evidence.entries import Entry, Fields
from evidence.scenarios import Scenario
from lpg_jax.training import sweep


class Study(NamedTuple):
    """One hyper-parameter of one entry."""

    name: str
    label: str
    field: str
    values: tuple[Any, ...]
    title: str


EPSILON = Study("epsilon", "lpg", "lpg.epsilon", (0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0), "bound eps")
SHARES = Study("threshold", "lpg", "lpg.threshold", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), "threshold tau")
STEPS = Study("pgd_steps", "lpg-pgd", "lpg.pgd_steps", (1, 2, 3, 5, 10), "PGD steps T")
COURSE = Study("course", "lpg", "evaluate.every_epochs", (1,), "margins and bounds over time")

STUDIES = {
    "digits_longtail50": (EPSILON, SHARES, STEPS, COURSE),
    "digits_balanced": (EPSILON, SHARES, COURSE),
    "digits_symmetric40": (EPSILON, COURSE),
    "cifar10_longtail100": (EPSILON, SHARES, STEPS, COURSE),
    "cifar100_longtail100": (EPSILON, SHARES, STEPS),
    "cifar10_balanced": (EPSILON, SHARES, COURSE),
    "cifar10_symmetric50": (EPSILON, COURSE),
}


def of_scenario(scenario: Scenario) -> Sequence[Study]:
    """The studies that are made on it."""
    return STUDIES.get(scenario.name, ())


def runs_of(study: Study, scenario: Scenario, entry: Entry, fields: Fields, home: Path) -> list[sweep.Run]:
    """Every value with every seed."""
    config = plan.final_config(scenario, entry, fields, scenario.seeds[0])
    return sweep.expand(config, {study.field: study.values, "seed": scenario.seeds}, home / "study" / study.name)
