"""The evidence: every method of `entries.py` on every problem of `scenarios.py`, tuned alike, ten seeds each.

    python -m evidence prepare --data_dir=DIR --human_labels=FILE     # runs/features: once
    python -m evidence run T1                                         # or T2, or names of scenarios
    python -m lpg_jax.report runs/evidence --out results              # tables, figures, the ledger of claims

`run` prints the hours first, continues where it was cut short, and may be started several times at once for different
scenarios. For each scenario:

1. learning rate and weight decay are chosen for cross-entropy, 30 pairs, and kept for all methods;
2. every method gets six trials of its hyper-parameters. Both are trained on a part of the training set and chosen by
   balanced accuracy on the rest of it, with right labels there: data seed 100, mean of 3 seeds;
3. what is chosen is trained on seeds 0 to 9, each another subset, noise, initialisation and data order, the same for
   every method, and tested on the test set. Every run of this is one of `launch.py`, to the bit.

RUNS/TIER/SCENARIO/scenario.json says what was tried and chosen; final/LABEL/seed=K are work directories.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from benchmarks import output
from configs import heads
from evidence import entries, plan, studies
from evidence.prepare import prepare
from evidence.scenarios import SCENARIOS, SEEDS, Scenario
from lpg_jax.training import sweep, workdir
from lpg_jax.training.summary import provenance

FILE = "scenario.json"


def scenarios_of(names: Sequence[str]) -> list[Scenario]:
    """The scenarios of these tiers or names, in the order of the plan.

    Raises:
      ValueError: a name that is neither.
    """
    known = {scenario.tier for scenario in SCENARIOS.values()} | SCENARIOS.keys()
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r}: must be one of {', '.join(sorted(known))}")
    return [scenario for scenario in SCENARIOS.values() if {scenario.tier, scenario.name} & set(names)]


class Scribe:
    """One scenario while it is trained: remembers what was chosen, in scenario.json."""

    def __init__(self, scenario: Scenario, home: Path, command: str, console: Console):
        self.scenario, self.home, self.command, self.console = scenario, home, command, console
        self.made: dict[str, Any] = {}
        self.fields: dict[str, entries.Fields] = {}  # label -> fixed and chosen fields
        home.mkdir(parents=True, exist_ok=True)

    def train(self, runs: Sequence[sweep.Run]) -> list[sweep.Outcome]:
        """Trains what is not trained yet."""
        outcomes = sweep.run_local(runs, command=self.command)
        jax.clear_caches()  # hundreds of programs would fill the memory
        return outcomes

    def base(self) -> entries.Fields:
        """Learning rate and weight decay, chosen for cross-entropy."""
        plain = entries.Entry("ce", "", entries.BASELINE, "ce")
        runs = plan.base_runs(self.scenario, plain, self.home)
        trials = plan.trials_of(runs, self.train(runs), [run.point for run in runs])
        self.base_trials = trials
        return plan.chosen(trials)

    def entry(self, entry: entries.Entry, base: entries.Fields) -> None:
        """Tunes an entry, trains it on every seed, and notes both."""
        began = time.perf_counter()
        inherited = {k: v for label in entry.inherits for k, v in self.fields[label].items()}
        trials: tuple[plan.Trial, ...] = self.base_trials if entry.label == "ce" else ()
        best: entries.Fields = {}
        if len(entry.trials) > 1:
            runs = plan.trial_runs(self.scenario, base, entry, inherited, self.home)
            trials = plan.trials_of(runs, self.train(runs), entry.trials)
            best = plan.chosen(trials)
        fields = {**inherited, **entry.fixed, **best}
        self.fields[entry.label] = fields
        outcomes = self.train(plan.final_runs(self.scenario, entry, {**base, **fields}, self.home))
        errors = {str(outcome.run.point["seed"]): outcome.error for outcome in outcomes if outcome.error}
        self.made[entry.label] = {
            "title": entry.title,
            "role": entry.role,
            "method": entry.method,
            "fields": fields,
            "inherits": entry.inherits,
            "knows": entry.knows,
            "seeded": entry.seeded,
            "trials": [trial._asdict() for trial in trials],
            "errors": errors,
        }
        seconds = time.perf_counter() - began
        self.console.print(
            f"{self.scenario.name} {entry.label}: {fields} {errors or ''} {seconds:.0f} s", highlight=False
        )

    def write(self, base: entries.Fields, done: dict[str, Any]) -> None:
        """What is known so far."""
        scenario, config = self.scenario, self.scenario.config()
        content = {
            **{name: getattr(scenario, name) for name in ("tier", "kind", "data", "title")},
            "scenario": scenario.name,
            "scale": f"{config.train.epochs} epochs of an MLP with {config.model.hidden[0]} units",
            "config": scenario.file,
            "base": base,
            "seeds": SEEDS,
            "entries": self.made,
            "studies": done,
            **provenance(self.command),
            "machine": output.cpu_name(),
        }
        workdir.write_json(self.home / FILE, content)


def run(scenario: Scenario, home: Path, command: str, console: Console, only: Sequence[str]) -> None:
    """Everything of one scenario."""
    scribe = Scribe(scenario, home, command, console)
    base = scribe.base()
    console.print(f"{scenario.name}: {base}", highlight=False)
    wanted = entries.of_kind(scenario.kind, base, scenario.held_out)
    for entry in wanted.values():
        if not only or entry.label in only:
            scribe.entry(entry, base)
            scribe.write(base, {})
    done = {}
    for study in studies.of_scenario(scenario) if not only else ():
        runs = studies.runs_of(study, scenario, wanted[study.label], {**base, **scribe.fields[study.label]}, home)
        scribe.train(runs)
        done[study.name] = study._asdict()
        scribe.write(base, done)


def share_programs(directory: Path) -> None:
    """Runs that differ in their data only are one program, which is compiled once."""
    jax.config.update("jax_compilation_cache_dir", str(directory.resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="task", required=True)
    made = commands.add_parser("prepare", help="features, held-out parts, noise")
    made.add_argument("names", nargs="*", default=["digits", "cifar10", "cifar100"])
    made.add_argument("--data_dir", default="", help="directory of TFDS sets; default: TFDS's own")
    made.add_argument("--human_labels", default="", help="file of CIFAR-10N and CIFAR-100N labels")
    trained = commands.add_parser("run", help="trains")
    trained.add_argument("names", nargs="+", help=f"tiers, or {', '.join(SCENARIOS)}")
    trained.add_argument("--workdir", type=Path, default=Path("runs/evidence"))
    trained.add_argument("--only", default="", help="labels, with commas; default: all, and the studies")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns its exit code."""
    parser, console = _parser(), Console()
    options = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "evidence", *(sys.argv[1:] if argv is None else argv)])
    try:
        if options.task == "prepare":
            for path in prepare(options.names, Path(heads.FEATURES), options.data_dir, options.human_labels):
                console.print(path)
            return 0
        todo = scenarios_of(options.names)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    base = dict.fromkeys(plan.BASE, 0.1)
    kinds = {each.name: list(entries.of_kind(each.kind, base, each.held_out).values()) for each in todo}
    console.print(f"{len(todo)} scenarios, about {plan.hours(todo, kinds):.1f} hours on one core from the start")
    share_programs(options.workdir / "compiled")
    only = list(filter(None, options.only.split(",")))
    for scenario in todo:
        run(scenario, plan.home_of(options.workdir, scenario), command, console, only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
