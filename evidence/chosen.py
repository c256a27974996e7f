"""What was chosen before, as the tables of a report have it: with it a scenario is trained again without tuning."""

import csv
import json
from pathlib import Path
from typing import NamedTuple

from evidence import plan
from evidence.entries import DECAY, Fields
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


def read(results: Path, scenario: Scenario) -> Chosen:
    """Reads RESULTS/tables/TIER-NAME.csv and RESULTS/evidence.json, which `python -m lpg_jax.report` writes.

    Raises:
      ValueError: they are not there, or do not know the scenario; names the file.
    """
    path, origin = results / "tables" / f"{scenario.tier}-{scenario.name}.csv", results / "evidence.json"
    try:
        base = json.loads(origin.read_text(encoding="utf-8"))[f"{scenario.tier}/{scenario.name}"]["base"]
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return Chosen(base, {row["label"]: _choice(row, base) for row in rows})
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename}: not there; give a directory that the report wrote, or tune") from error
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} and {origin.name}: no choice of {scenario.name} in them ({error!r}); tune") from error


def _choice(row: dict[str, str], base: Fields) -> Choice:
    every, tried = json.loads(row["fields"]), int(row["trials"])
    fields = {name: value for name, value in every.items() if name == DECAY or base.get(name) != value}
    if not tried:
        return Choice(fields, (), 0)
    score, half = float(row["held_out"]), float(row["held_out ci95"])
    return Choice(fields, (plan.Trial(fields, score, half, len(plan.TUNE_SEEDS[row["tier"]]), True),), tried)
