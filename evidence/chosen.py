"""What was chosen before, as the tables of a report have it: with it a scenario is trained again without tuning."""

import csv
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from evidence import plan
from evidence.entries import DECAY, Entry, Fields, of_kind
from evidence.scenarios import Scenario


class Choice(NamedTuple):
    """Of an entry."""

    fields: Fields  # over config and base
    trials: tuple[plan.Trial, ...]  # the chosen one; (): nothing was to be chosen
    tried: int  # how many there were


class Chosen(NamedTuple):
    """Of a scenario."""

    base: Fields  # learning rate and weight decay
    entries: dict[str, Choice]  # by label


def read(results: Path, scenario: Scenario, only: Collection[str] = ()) -> Chosen:
    """Reads RESULTS/tables/TIER-NAME.csv and RESULTS/evidence.json, which `python -m lpg_jax.report` writes.

    An entry for which nothing is chosen (a control) need not be there: it keeps what it inherits. Nor need one that
    `only` names: it will be tuned, at the learning rate of the others.

    Args:
      results: directory of a report.
      scenario: of T1 or T2.
      only: labels that are asked for; (): all of the scenario.

    Raises:
      ValueError: a file or an entry is not there, or damaged; names the file and the fix.
    """
    path, origin = results / "tables" / f"{scenario.tier}-{scenario.name}.csv", results / "evidence.json"
    try:
        base = dict(json.loads(origin.read_text(encoding="utf-8"))[f"{scenario.tier}/{scenario.name}"]["base"])
        with path.open(newline="", encoding="utf-8") as file:
            rows = {row["label"]: row for row in csv.DictReader(file)}
        wanted = of_kind(scenario.kind, base, scenario.held_out)
        missing = [label for label in wanted if label not in rows and _is_chosen(wanted[label])]
        if missing and not only:
            raise ValueError(f"has no {missing[0]}")
        labels = [label for label in wanted if label in rows]  # also those that others inherit from
        return Chosen(base, {label: _choice(rows[label], base, wanted[label]) for label in labels})
    except OSError as error:
        text = f"{error.filename}: {error.strerror}; --chosen takes a directory that the report wrote"
        raise ValueError(text) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path}, {origin.name}: no choice for {scenario.name} ({error}); leave --chosen out to tune it"
        ) from error


def _is_chosen(entry: Entry) -> bool:
    """Whether it is not enough to know what was chosen for those it inherits from."""
    return bool(entry.trials or entry.among)


def _choice(row: dict[str, str], base: Fields, entry: Entry) -> Choice:
    every, tried = dict(json.loads(row["fields"])), int(row["trials"])
    own = {DECAY, *entry.fixed, *(name for trial in entry.trials for name in trial)}
    if missing := own - every.keys():
        raise ValueError(f"fields of {entry.label} lack {min(missing)}")
    fields = {name: value for name, value in every.items() if name in own or base.get(name) != value}
    if not tried:
        return Choice(fields, (), 0)
    score, half = float(row["held_out"]), float(row["held_out ci95"])
    if not (math.isfinite(score) and math.isfinite(half)):
        raise ValueError(f"held_out of {entry.label} is {score} ± {half}")
    return Choice(fields, (plan.Trial(fields, score, half, len(plan.TUNE_SEEDS[row["tier"]]), True),), tried)
