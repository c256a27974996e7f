"""The evidence: every method of `entries.py` on every problem of `scenarios.py`, tuned alike, ten seeds each.

    python -m evidence prepare --data_dir=DIR --human_labels=FILE     # runs/features: once
    python -m evidence run T1                                         # or T2, T3, or names of scenarios
    python -m evidence measure                                        # propositions, gradients, wrong labels
    python -m lpg_jax.report runs/evidence --out results              # tables, figures, the ledger of claims

    python -m evidence run T1 --chosen=results                        # the same table again, without tuning

`run` prints the hours first, continues where it was cut short, and may be started several times at once for different
scenarios; on a CPU one process for each core gets on faster than one with all of them (Linux: `taskset -c 0 python`
and so on). For each scenario:

1. learning rate and weight decay are chosen for cross-entropy, 56 pairs: the middle one of the rates that do as well
   as the best (half a point), away from collapse and from training that does not come far;
2. every method tries six values of its hyper-parameters at that learning rate, and more while the best is the last;
   each with half, once and twice that weight decay, and with less or more while the best lies at an end; so does
   cross-entropy. Both are trained on a part of the training set and chosen by balanced accuracy on the rest of it,
   with right labels there; mean over three (T2: two) seeds, each another part;
3. what is chosen is trained on seeds 0 to 9, each another subset, noise, initialisation and data order (whatever of
   these the problem has), the same for every method, and tested on the test set. Every run of this is one of
   `launch.py`, to the bit. Trials, and the runs of a study of one number, are trained as populations, which round
   otherwise: those are repeated by a sweep of the same values, not by a run alone.

T3 trains a ResNet-8 on the images with what T2 chose (`networks.py`); where the images lie is TFDS_DATA_DIR's to say.
Its convolutions sum in another order on another number of cores: to repeat one of its rows to the bit, take as many.

RUNS/TIER/SCENARIO/scenario.json says what was tried and chosen; final/LABEL/seed=K are work directories.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from rich.console import Console

from configs import heads
from evidence import chosen, entries, measures, networks, plan, scribe
from evidence.prepare import prepare
from evidence.scenarios import SCENARIOS, Scenario

MEASURED = tuple(
    scenario.name for scenario in SCENARIOS.values() if scenario.kind in ("longtail", "noisy") and scenario.tier != "T3"
)


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
    trained.add_argument(
        "--only", default="", help="labels, with commas, tuned where --chosen lacks them; default: all, and the studies"
    )
    trained.add_argument("--chosen", type=Path, help="directory of a report (results): take what was chosen there")
    measured = commands.add_parser("measure", help="on the heads that were trained")
    measured.add_argument("names", nargs="*", help="scenarios, or tiers; default: what claims need and is finished")
    measured.add_argument("--workdir", type=Path, default=Path("runs/evidence"))
    return parser


def _prepare(options: argparse.Namespace, command: str, console: Console) -> None:
    del command
    for path in prepare(options.names, Path(heads.FEATURES), options.data_dir, options.human_labels):
        console.print(path)


def _measure(options: argparse.Namespace, command: str, console: Console) -> None:
    del command
    for scenario in scenarios_of(options.names or MEASURED):
        again = f"python -m evidence measure {scenario.name}"
        try:
            written = list(measures.measure(scenario, plan.home_of(options.workdir, scenario), again))
        except ValueError as error:
            if scenario.name in options.names:
                raise
            console.print(f"left out: {error}")
            continue
        for path in written:
            console.print(path)


def _run(options: argparse.Namespace, command: str, console: Console) -> None:
    todo = scenarios_of(options.names)
    console.print(
        f"{len(todo)} scenarios, about {plan.hours(todo, not options.chosen):.1f} hours on one core from the start"
    )
    share_programs(options.workdir / "compiled")
    only = list(filter(None, options.only.split(",")))
    for scenario in todo:
        if only and scenario.tier == "T3":
            raise ValueError(
                f"only={only[0]!r}: {scenario.name} has few entries, and all are trained; leave --only out"
            )
        known = entries.of_kind(scenario.kind, {entries.RATES: 0.0}, scenario.held_out)
        if unknown := [label for label in only if label not in known]:
            raise ValueError(f"only={unknown[0]!r}: {scenario.name} has {', '.join(known)}")
    heads_of = [scenario for scenario in todo if scenario.tier != "T3"]
    if options.chosen and not heads_of:
        raise ValueError(f"chosen={options.chosen}: T3 takes what the scenario.json of T2 says; leave --chosen out")
    before = {each.name: chosen.read(options.chosen, each, only) for each in heads_of if options.chosen}
    for scenario in todo:
        home = plan.home_of(options.workdir, scenario)
        if scenario.tier == "T3":
            networks.run(scenario, home, options.workdir, command, console)
        else:
            scribe.run(scenario, home, command, console, only, before.get(scenario.name))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns its exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    command = shlex.join(["python", "-m", "evidence", *(sys.argv[1:] if argv is None else argv)])
    try:
        {"prepare": _prepare, "measure": _measure, "run": _run}[options.task](options, command, Console())
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
