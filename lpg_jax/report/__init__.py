"""From a run's files to a table and a figure.

    import lpg_jax.report
    lpg_jax.report.show("runs/digits")     # in the terminal
    lpg_jax.report.write("runs/digits")    # runs/digits/table.csv, runs/digits/classes.png

or `python -m lpg_jax.report runs/digits` for both. This room reads files only: summary.json and METHOD/metrics.jsonl.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from lpg_jax.report import classes, records, table

__all__ = ["show", "write"]


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
