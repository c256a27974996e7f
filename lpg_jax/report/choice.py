"""Which entry is taken as the best: by scores on held-out training data, never by those on the test part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from lpg_jax.report.evidence import Entry, Scenario

# Of the paper's LPG, with the paper's split; the last only under a long tail.
READINGS = ("lpg", "lpg-varied", "lpg-mean", "lpg-scale", "lpg-scale-varied", "lpg-pgd", "lpg-rare")
LPG = "@lpg"  # in a claim: the reading that does best on held-out training data
EQUAL = "@equal"  # in a claim: LPG at the gradient norm of cross-entropy, the first there is


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
