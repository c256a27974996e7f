"""The same numbers twice: table.csv for machines (fractions, full precision), a terminal table for people (percent)."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from lpg_jax.report.records import SCORES, Method, Run

MAX_COLUMNS = 20  # with more classes than this, single classes are shown by their extremes only
_EXTREMES = 3


def write_csv(run: Run, path: Path) -> None:
    """Write one row per method; classes keep their index order and carry their training count in the header."""
    classes = [f"{name} (n={count:g})" for name, count in zip(run.class_names, run.class_counts, strict=True)]
    header = ["method", "seeds", *(name + suffix for name in (*SCORES, *classes) for suffix in ("", " ci95"))]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for method in run.methods:
            means = [*method.scores.values(), *method.per_class]
            halves = [*method.scores_ci.values(), *method.per_class_ci]
            cells = [value for pair in zip(means, halves, strict=True) for value in pair]
            writer.writerow([method.name, method.num_seeds, *("" if math.isnan(v) else repr(float(v)) for v in cells)])


def print_tables(run: Run, console: Console) -> None:
    """Print overall scores, then per-class accuracy: one column per class, or the extremes where there are many."""
    counts = run.class_counts
    console.print(Text(f"Test accuracy in %, mean ± 95 % interval ({describe(run)})", style="bold"))
    scores = scores_table(run)
    if Measurement.get(console, console.options.update(max_width=10_000), scores).maximum > console.width:
        scores = scores_table(run, "\n±")
    console.print(scores)
    if len(counts) > MAX_COLUMNS:
        title = (
            f"Best and worst of {len(counts)} classes in % (n = training examples: {counts.min():g}-{counts.max():g})"
        )
        console.print(Text(title, style="bold"))
        console.print(extremes_table(run))
        return
    console.print(Text("Test accuracy per class in % (n = training examples)", style="bold"))
    for block in _blocks(run, console.width):
        console.print(classes_table(run, block))


def describe(run: Run) -> str:
    """What was run, in one line: data set, seeds, steps, and the noise rate where there is noise."""
    counts = sorted({method.num_seeds for method in run.methods})
    seeds = "-".join(str(count) for count in counts)
    parts = [run.dataset, f"{seeds} seed" + ("s" if counts != [1] else ""), f"{run.steps:,} steps"]
    if run.noise_rate > 0:
        parts.append(f"label noise rate {100 * run.noise_rate:.3g} %")
    return ", ".join(part for part in parts if part)


def scores_table(run: Run, separator: str = " ± ") -> Table:
    """One row per method: accuracies in percent and NLL in nats, mean and 95 % half-width."""
    table = _table()
    for name in SCORES:
        table.add_column("NLL" if name == "nll" else name, justify="right", no_wrap=True)
    for method in run.methods:
        percents = [_percent(method.scores[name], method.scores_ci[name], separator) for name in SCORES[:-1]]
        nll = _cell(method.scores["nll"], method.scores_ci["nll"], 3, separator)
        table.add_row(Text(method.name), *percents, nll)
    return table


def classes_table(run: Run, classes: list[int]) -> Table:
    """One column per class of `classes`; the header's second line is its number of training examples."""
    table = _table(Text("class\nn", justify="right"))
    for index in classes:
        header = Text(f"{run.class_names[index]}\n{run.class_counts[index]:g}")
        table.add_column(header, justify="right", no_wrap=True)
    for method in run.methods:
        cells = (_percent(method.per_class[i], method.per_class_ci[i], separator="\n±") for i in classes)
        table.add_row(Text(method.name), *cells)
    return table


def extremes_table(run: Run) -> Table:
    """The best and the worst classes of each method, for sets with too many classes for columns."""
    table = _table()
    for head in ("best", "worst"):
        table.add_column(head)
    for method in run.methods:
        ranked = [int(i) for i in np.argsort(-method.per_class, kind="stable") if not math.isnan(method.per_class[i])]
        best, worst = ranked[:_EXTREMES], ranked[: -_EXTREMES - 1 : -1]
        table.add_row(
            Text(method.name), *(Text("\n".join(_line(run, method, i) for i in part)) for part in (best, worst))
        )
    return table


def _line(run: Run, method: Method, index: int) -> str:
    accuracy = _percent(method.per_class[index], method.per_class_ci[index])
    return f"{accuracy}  {run.class_names[index]} (n {run.class_counts[index]:g})"


def _table(corner: str | Text = "method") -> Table:
    table = Table()
    table.add_column(corner, no_wrap=True)
    return table


def _blocks(run: Run, width: int) -> list[list[int]]:
    """Split the classes into runs of columns that fit the terminal; each column costs its text, two blanks, a rule."""
    room = width - 4 - max(len("method"), *(len(method.name) for method in run.methods))
    blocks: list[list[int]] = [[]]
    used = 0
    for index, (name, count) in enumerate(zip(run.class_names, run.class_counts, strict=True)):
        cost = max(len(name), len(f"{count:g}"), len("±12.3")) + 3
        if blocks[-1] and used + cost > room:
            blocks.append([])
            used = 0
        blocks[-1].append(index)
        used += cost
    return blocks


def _percent(mean: float, half: float, separator: str = " ± ") -> str:
    return _cell(100 * mean, 100 * half, 1, separator)


def _cell(mean: float, half: float, digits: int, separator: str = " ± ") -> str:
    if math.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" + ("" if math.isnan(half) else f"{separator}{half:.{digits}f}")
