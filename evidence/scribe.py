"""Trains a scenario, entry by entry, and notes in scenario.json what was tried and chosen."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from benchmarks import output
from evidence import entries, plan, studies
from evidence.chosen import Choice, Chosen
from evidence.scenarios import Scenario
from lpg_jax.training import sweep, workdir
from lpg_jax.training.summary import provenance

FILE = "scenario.json"


class Scribe:
    """One scenario while it is trained: remembers what was chosen, in scenario.json."""

    def __init__(
        self,
        scenario: Scenario,
        home: Path,
        command: str,
        console: Console,
        keep: bool = False,
        chosen: Chosen | None = None,
    ):
        self.scenario, self.home, self.command, self.console = scenario, home, command, console
        self.chosen = chosen  # what needs no tuning any more
        of_chosen = chosen.entries if chosen else {}
        self.fields = {label: choice.fields for label, choice in of_chosen.items()}  # fixed and chosen fields
        self.base_trials: tuple[plan.Trial, ...] = ()  # of cross-entropy: learning rates and weight decays
        home.mkdir(parents=True, exist_ok=True)
        # without `keep` nothing of another plan stays; what is trained is read again from the runs
        before = workdir.read_json(home / FILE, dict) if keep and (home / FILE).exists() else {}
        self.before = before.get("base")  # that of the entries that are kept
        self.made: dict[str, Any] = before.get("entries", {})
        self.fields |= {label: made["fields"] for label, made in self.made.items()}
        self.trials: dict[str, Sequence[plan.Trial]] = {
            label: [plan.Trial(**trial) for trial in made["trials"]] for label, made in self.made.items()
        }
        self.studies: dict[str, Any] = before.get("studies", {})

    def train(self, runs: Sequence[sweep.Run]) -> list[sweep.Outcome]:
        """Trains what is not trained yet."""
        outcomes = sweep.run_local(runs, command=self.command)
        jax.clear_caches()  # hundreds of programs would fill the memory
        return outcomes

    def base(self) -> entries.Fields:
        """Learning rate and weight decay, chosen for cross-entropy.

        Raises:
          ValueError: they are not those of the entries that are there already; names both.
        """
        if self.chosen:
            base = self.chosen.base
        else:
            plain, settings = entries.Entry("ce", "", entries.BASELINE, "ce"), plan.base_settings()
            self.base_trials = plan.base_trials(self.tune(settings, {}, plain, {}, "base"))
            base = plan.chosen(self.base_trials)
        if self.before not in (None, base):
            raise ValueError(
                f"{self.home / FILE}: its entries have {self.before}, now it is {base}; leave --only out, or give "
                "another --workdir"
            )
        return base

    def tune(
        self,
        settings: list[entries.Fields],
        base: entries.Fields,
        entry: entries.Entry,
        inherited: entries.Fields,
        name: str,
    ) -> tuple[plan.Trial, ...]:
        """Trains and scores every setting of an entry."""
        runs = plan.trial_runs(self.scenario, settings, base, entry, inherited, self.home / "tune" / name)
        return plan.trials_of(settings, runs, self.train([run for its in runs for run in its]))

    def widely(self, base: entries.Fields, entry: entries.Entry, inherited: entries.Fields) -> tuple[plan.Trial, ...]:
        """Tunes an entry, with more as long as the best lies at an end of what was tried."""
        tried, trials = [], ()
        more = plan.at_first(entry)
        while more != tried:
            tried = more
            trials = self.tune(plan.settings_of(entry, base, tried), base, entry, inherited, entry.label)
            more = plan.wider(entry, base, tried, trials)
        return trials

    def choose(self, entry: entries.Entry, base: entries.Fields) -> Choice:
        """The fields of an entry, by which trials they were chosen, and how many there were."""
        if self.chosen and entry.label in self.chosen.entries:
            return self.chosen.entries[entry.label]
        if missing := [label for label in entry.inherits if label not in self.fields]:
            raise ValueError(
                f"{entry.label}: keeps what was chosen for {missing[0]}, which is not there; run that before"
            )
        inherited = {k: v for label in entry.inherits for k, v in self.fields[label].items()}
        trials = self.widely(base, entry, inherited) if entry.trials else ()
        best = plan.chosen(trials) if trials else {}
        if entry.among and len(self.trials[entry.among]) < self.made[entry.among].get("tried", 0):
            raise ValueError(
                f"{entry.label}: is the best of the trials of {entry.among}, of which only the chosen one is known; "
                "give --chosen again"
            )
        if entry.among:
            best = plan.best_at(self.trials[entry.among], inherited[entries.DECAY])
        if entry.label == "ce":
            trials = (*(trial._replace(chosen=False) for trial in self.base_trials), *trials)
        return Choice({**inherited, **entry.fixed, **best}, tuple(trials), len(trials))

    def entry(self, entry: entries.Entry, base: entries.Fields) -> None:
        """Tunes an entry, trains it on every seed, and notes both.

        Raises:
          ValueError: an entry whose settings it keeps is not there yet.
          RuntimeError: a run ended by something else than training; names it.
        """
        began = time.perf_counter()
        fields, trials, tried = self.choose(entry, base)
        self.fields[entry.label], self.trials[entry.label] = fields, trials
        outcomes = self.train(plan.final_runs(self.scenario, entry, {**base, **fields}, self.home))
        errors = {str(outcome.run.point["seed"]): outcome.error for outcome in outcomes if outcome.error}
        for seed, error in errors.items():
            if not plan.diverged(error):
                raise RuntimeError(f"{self.scenario.name} {entry.label} seed {seed}: {error}")
        self.made[entry.label] = {
            "title": entry.title,
            "role": entry.role,
            "method": entry.method,
            "fields": fields,
            "inherits": entry.inherits,
            "knows": entry.knows,
            "seeded": entry.seeded,
            "trials": [trial._asdict() for trial in trials],
            "tried": tried,
            "errors": errors,
            "revisions": sorted({_revision(outcome.run) for outcome in outcomes}),
        }
        seconds = time.perf_counter() - began
        self.console.print(
            f"{self.scenario.name} {entry.label}: {fields} {errors or ''} {seconds:.0f} s", highlight=False
        )

    def write(self, base: entries.Fields) -> None:
        """What is known so far."""
        scenario, config = self.scenario, self.scenario.config()
        if scenario.tier != "T3":
            planned = entries.of_kind(scenario.kind, base, scenario.held_out)
            known = {label: self.made[label] for label in planned if label in self.made}
            for label, made in known.items():
                made["began"] = plan.began(planned[label], base, made["fields"])
            self.made = known | self.made  # in the order of the plan
        model = f"an MLP with {config.model.hidden[0]} units" if config.model.name == "mlp" else config.model.name
        content = {
            **{name: getattr(scenario, name) for name in ("tier", "kind", "data", "title")},
            "scenario": scenario.name,
            "scale": f"{config.train.epochs} epochs of {model}",
            "config": scenario.file,
            "base": base,
            "seeds": scenario.seeds,
            "entries": self.made,
            "studies": self.studies,
            **provenance(self.command),
            "git_revision": ", ".join(sorted({r for made in self.made.values() for r in made.get("revisions", ())})),
            "machine": output.cpu_name(),
        }
        workdir.write_json(self.home / FILE, content)


def _revision(run: sweep.Run) -> str:
    """Of the program that trained a run."""
    return str(workdir.read_json(run.home / workdir.RUN, dict)["git_revision"])[:12]


def run(
    scenario: Scenario,
    home: Path,
    command: str,
    console: Console,
    only: Sequence[str] = (),
    chosen: Chosen | None = None,
) -> None:
    """Everything of one scenario of heads: tunes, trains, notes; what is trained already is only read.

    Args:
      scenario: of T1 or T2.
      home: its directory.
      command: how this was started.
      console: where a line for each entry goes.
      only: labels; (): all, and the studies.
      chosen: None: everything is tuned; otherwise what is not in it, if anything.
    """
    scribe = Scribe(scenario, home, command, console, keep=bool(only), chosen=chosen)
    base = scribe.base()
    console.print(f"{scenario.name}: {base}", highlight=False)
    wanted = entries.of_kind(scenario.kind, base, scenario.held_out)
    for entry in wanted.values():
        if not only or entry.label in only:
            scribe.entry(entry, base)
            scribe.write(base)
    for study in studies.of_scenario(scenario) if not only else ():
        runs = studies.runs_of(study, scenario, wanted[study.label], {**base, **scribe.fields[study.label]}, home)
        scribe.train(runs)
        scribe.studies[study.name] = study._asdict()
        scribe.write(base)
