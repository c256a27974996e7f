"""T3: a ResNet-8 on the images: the few methods that matter, three seeds.

Methods have the options that T2 chose on features of these images; learning rate and weight decay are the network's,
the same for all, since what suits a head of one layer says nothing about them.
"""

from pathlib import Path
from typing import Any

from rich.console import Console

from evidence import entries, plan
from evidence.entries import Entry
from evidence.scenarios import SCENARIOS, Scenario
from evidence.scribe import FILE, Scribe
from lpg_jax.report.choice import READINGS
from lpg_jax.training import workdir

RIVALS = ("gce", "la")


def entries_of(tuned: dict[str, Any]) -> list[Entry]:
    """Cross-entropy, the rivals, the best reading of LPG by scores on what was held out, and its equal-norm control.

    Args:
      tuned: scenario.json of the same problem on features.

    Returns:
      Entries without trials.

    Example:
      >>> found = dict.fromkeys(("ce", "gce", "la"), {"role": "baseline"}) | {"lpg": {"role": "lpg"}}
      >>> trial = {"mean": 0.5, "chosen": True}
      >>> rows = {k: v | {"title": k, "method": k, "fields": {}, "trials": [trial]} for k, v in found.items()}
      >>> [entry.label for entry in entries_of({"entries": rows})]
      ['ce', 'gce', 'la', 'lpg', 'equal-lpg']
    """
    rows = tuned["entries"]
    best = max(
        filter(rows.__contains__, READINGS), key=lambda label: max(trial["mean"] for trial in rows[label]["trials"])
    )
    made = [
        Entry(label, rows[label]["title"], rows[label]["role"], rows[label]["method"], fixed=_options(rows[label]))
        for label in ("ce", *RIVALS, best)
    ]
    control = Entry(f"equal-{best}", f"{rows[best]['title']}, at the gradient norm of cross-entropy", entries.CONTROL,
                    "equal_lpg", inherits=(best,))  # fmt: skip
    return [*made, control]


def _options(row: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in row["fields"].items() if not field.startswith("train.")}


def run(scenario: Scenario, home: Path, runs: Path, command: str, console: Console) -> None:
    """Trains a scenario of T3; that of T2 must be there.

    Args:
      scenario: of T3.
      home: its directory.
      runs: directory of the evidence.
      command: how this was started.
      console: where a line for each entry goes.

    Raises:
      ValueError: what T2 chose is not known yet.
    """
    source = SCENARIOS[f"{scenario.data}_{scenario.problem}"]
    path = plan.home_of(runs, source) / FILE
    before = f"start `python -m evidence run {source.name}` before"
    if not path.exists():
        raise ValueError(f"{path}: not there; {before}")
    scribe, base = Scribe(scenario, home, command, console), dict(scenario.fields)
    tuned = workdir.read_json(path, dict)
    if missing := entries.of_kind(source.kind, tuned["base"], source.held_out).keys() - tuned["entries"].keys():
        raise ValueError(f"{path}: nothing is chosen yet for {', '.join(sorted(missing))}; {before}")
    for entry in entries_of(tuned):
        scribe.entry(entry, base)
        if entry.role != entries.CONTROL:
            its = tuned["entries"][entry.label]  # by which it was chosen
            scribe.made[entry.label] |= {"trials": its["trials"], "tried": its.get("tried", len(its["trials"]))}
        scribe.write(base)
