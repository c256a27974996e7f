"""Which entry is taken as the best: by scores on held-out training data, never by those on the test part."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable

from lpg_jax.report.evidence import Entry, Scenario, Trial

# Of the paper's LPG, with the paper's split; the last only under a long tail.
READINGS = ("lpg", "lpg-varied", "lpg-mean", "lpg-scale", "lpg-scale-varied", "lpg-pgd", "lpg-rare")
LPG = "@lpg"  # in a claim: the reading that does best on held-out training data
EQUAL = "@equal"  # in a claim: LPG at the gradient norm of cross-entropy, the first there is

DECAY = "train.weight_decay"
FIRST_VALUES = 6  # of its hyper-parameters that every method tries; more while the last is the best
FIRST_DECAYS = (0.5, 1.0, 2.0)  # times the weight decay of cross-entropy, with each value; more while one at an end is


def best(scenario: Scenario, wanted: Callable[[Entry], bool]) -> str | None:
    """The label with the highest selection score among those wanted; the first of equals; None: there is none.

    An entry without trials has no score, one without runs no figures, and one that is told more than the others is no
    fair choice: none of them is taken.
    """
    scores = {
        label: entry.selection
        for label, entry in scenario.entries.items()
        if wanted(entry) and not entry.knows and scenario.results.get(label) and math.isfinite(entry.selection)
    }
    return max(scores, key=lambda label: scores[label]) if scores else None


def best_baseline(scenario: Scenario) -> str | None:
    """The best entry without LPG that is no control."""
    return best(scenario, lambda entry: entry.role == "baseline")


def has_lpg(entry: Entry) -> bool:
    """Alone, beside another method, or with signs reversed; the other controls change nothing class by class."""
    return entry.role in ("lpg", "combination") or bool(entry.fields.get("lpg.opposite"))


def best_with_lpg(scenario: Scenario) -> str | None:
    """The best entry with LPG in it."""
    return best(scenario, has_lpg)


def resolve(scenario: Scenario, label: str) -> str | None:
    """The label itself, or that of what "@lpg" or "@equal" stand for; None where there is none with runs."""
    if label == LPG:
        return best(scenario, lambda entry: entry.label in READINGS)
    if label == EQUAL:
        label = next((each for each in scenario.entries if each.startswith("equal-")), "")
    return label if scenario.results.get(label) else None


def by_role(scenario: Scenario, roles: Iterable[str]) -> list[str]:
    """Labels in the order of the roles, then of scenario.json."""
    order = {role: place for place, role in enumerate(roles)}
    return sorted(scenario.entries, key=lambda label: order[scenario.entries[label].role])


def at_first(scenario: Scenario, label: str) -> tuple[Trial, ...]:
    """The trials with which the tuning of an entry began, as many for each: 18, if it was tuned by itself.

    Cross-entropy has none: its grid gave all others their learning rate. What is added to another method was tried
    with what had been chosen for that one among all of its trials.

    Args:
      scenario: of T1 or T2.
      label: of an entry.

    Returns:
      Trials in the order of the entry; () where nothing was to be chosen, or not every trial is known.
    """
    entry = scenario.entries[label]
    if label == "ce" or len(entry.trials) < entry.tried:
        return ()
    decays = [round(scenario.base.get(DECAY, math.nan) * factor, 8) for factor in FIRST_DECAYS]
    values = list(dict.fromkeys(_value(trial) for trial in entry.trials))[:FIRST_VALUES]
    return tuple(trial for trial in entry.trials if trial.fields.get(DECAY) in decays and _value(trial) in values)


def _value(trial: Trial) -> str:
    """The setting without the weight decay."""
    return json.dumps({field: value for field, value in trial.fields.items() if field != DECAY}, sort_keys=True)


def by_more_trials(scenario: Scenario) -> dict[str, bool]:
    """Whether trials beyond those with which all begin changed what was chosen, of every entry where that is known."""
    firsts = {label: at_first(scenario, label) for label in scenario.entries}
    return {label: not max(its, key=lambda trial: trial.mean).chosen for label, its in firsts.items() if its}
