"""From a run's files to a table and a figure.

    import lpg_jax.report
    lpg_jax.report.show("runs/digits")     # in the terminal
    lpg_jax.report.write("runs/digits")    # runs/digits/table.csv, runs/digits/classes.png

or `python -m lpg_jax.report runs/digits` for both. Of many runs, those of `python -m evidence`:

    lpg_jax.report.evidence_report("runs/evidence", "results")    # tables, figures, the ledger of claims

or `python -m lpg_jax.report runs/evidence --out results`, and of runs that are gone the last two words alone. This room
reads files only.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from lpg_jax.report import classes, records, table

__all__ = ["evidence_report", "show", "write"]


def write(workdir: str | Path) -> list[Path]:
    """Write WORKDIR/table.csv and WORKDIR/classes.png from the files of a finished run; existing ones are replaced.

    `table.csv`: one row per method with overall, balanced, head, tail, many, medium, few, nll and ece of the last step;
    where measured train_clean, train_memorised, train_recovered, and the scores again under "mean_last_five",
    "best_by_validation" and "validation" ("mean_last_five overall", ...); then one accuracy per class, with its
    training count in the header. Each is followed by its 95 % half-width over seeds (empty with one seed). All are
    fractions in [0, 1] but nll, in nats; empty is "not measured". `classes.png`: per-class accuracy of every method,
    and for LPG methods signed epsilon, margins and effective gradient ratios.

    Args:
      workdir: directory of a finished run.

    Returns:
      The two paths.

    Raises:
      ValueError: summary.json or a metrics.jsonl is missing or damaged; names file, line, value and the fix.

    Example:
      >>> paths = lpg_jax.report.write("runs/digits")  # doctest: +SKIP
    """
    workdir = Path(workdir)
    run = records.read_run(workdir)
    read = {m.name: records.read_history(workdir, m.name, len(run.class_counts)) for m in run.methods}
    paths = [workdir / "table.csv", workdir / "classes.png"]
    table.write_csv(run, paths[0])
    classes.save(run, {name: history for name, history in read.items() if history is not None}, paths[1])
    return paths


def show(workdir: str | Path, console: Console | None = None) -> None:
    """Print a finished run as tables in percent, mean ± 95 % half-width over seeds.

    With more than 20 classes many, medium and few take the place of head and tail. Runs with a validation part get a
    table of the last step, the mean of the last five, and the best step by validation; runs with wrong labels a line on
    what was learnt of the training set. Classes become columns, with their training counts in the header, in as many
    blocks as the terminal needs; above 20 classes only each method's best and worst classes are printed.

    Args:
      workdir: directory of a finished run.
      console: rich Console to print on; None is a new one on standard output.

    Raises:
      ValueError: summary.json is missing or damaged; names file, line or key, value and the fix.

    Example:
      >>> lpg_jax.report.show("runs/digits")  # doctest: +SKIP
    """
    table.print_tables(records.read_run(workdir), console or Console())


def evidence_report(runs: str | Path | None, out: str | Path) -> list[Path]:
    """Write the tables, the ledger of claims and the figures of the evidence runs; existing files are replaced.

    What a report reads of a run is kept with it (OUT/runs), so that it can be written again without the runs, and grows
    by scenarios that were trained elsewhere: `runs` need hold only those that are new.

    | file under OUT | what is in it |
    |---|---|
    | runs/TIER-SCENARIO.tar.xz | what the rest is made of: plan, choices, final figures of every run, by class |
    | tables/TIER-SCENARIO.md, .csv, .tex | every entry with mean and 95 % interval, and its paired differences |
    | runs.csv, studies.csv, measures.csv | one line per run; per run of a study; per measured number |
    | trials.csv | one line per setting that was tried and is known, with its score on what was held out |
    | evidence.json | where everything comes from |
    | claims.md, claims.csv | every claim of the paper: comparisons, intervals, verdict; what failed; what to use |
    | claims_by_seed.csv | the values behind the intervals |
    | recommended.json | the best setting with LPG in it, per scenario, and what it gains; read by `configs/heads.py` |
    | figures/*.png | see `lpg_jax.report.figures` |

    The same runs give the same files, to the byte.

    Args:
      runs: the directory of `python -m evidence`, with TIER/SCENARIO/scenario.json; unfinished scenarios are reported
        as far as they are, if OUT/runs has no more of them. None: there are no new ones.
      out: made if absent; OUT/cost/cost.csv of `python -m benchmarks` is read where it is.

    Returns:
      The paths, in the order of writing.

    Raises:
      ValueError: no scenario in `runs`; a file is damaged; OUT/runs has runs of a scenario that its directory lacks
        (finish it first), or OUT has tables of one of which neither is there. Names the file and the fix; what OUT/runs
        keeps of that scenario stays.

    Example:
      >>> paths = lpg_jax.report.evidence_report("runs/evidence", "results")  # doctest: +SKIP
    """
    from lpg_jax.report import advice, archive, evidence, evidence_tables, figures, ledger

    out, given = Path(out), () if runs is None else evidence.read(runs)
    archive.check(given, out)
    with archive.unpacked(out, but=[archive.path_of(scenario, out) for scenario in given]) as kept:
        if not (given or kept):
            raise ValueError(f"{out / archive.DIRECTORY}: no *{archive.SUFFIX} in it; give the runs, too")
        scenarios = sorted((*given, *kept), key=lambda scenario: (scenario.tier, scenario.name))
        paths = evidence_tables.save(scenarios, out)
        paths += [*ledger.save(scenarios, out), *advice.save(scenarios, out), *figures.save_all(scenarios, out)]
    return [*paths, *(archive.pack(scenario, out) for scenario in given)]
