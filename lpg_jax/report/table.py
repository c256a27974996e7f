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

from lpg_jax.report.records import SCORES, TRAINING, Method, Run, Scores

MAX_COLUMNS = 20  # with more classes than this, single classes are shown by their extremes only
_EXTREMES = 3
_HEADERS = {"nll": "NLL", "ece": "ECE %"}
_STEPS = {"last": "last", "mean_last_five": "mean of last five", "best_by_validation": "best by validation"}
_NO_SCORES = Scores(dict.fromkeys(SCORES, math.nan), dict.fromkeys(SCORES, math.nan))


def write_csv(run: Run, path: Path) -> None:
    """Write one row per method; classes keep their index order and carry their training count in the header."""
    classes = [f"{name} (n={count:g})" for name, count in zip(run.class_names, run.class_counts, strict=True)]
    measured = [_flat(method) for method in run.methods]
    names = list(dict.fromkeys(name for columns in measured for name in columns))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["method", "seeds", *(n + suffix for n in (*names, *classes) for suffix in ("", " ci95"))])
        for method, columns in zip(run.methods, measured, strict=True):
            pairs = [columns.get(name, (math.nan, math.nan)) for name in names]
            pairs += zip(method.per_class, method.per_class_ci, strict=True)
            cells = ["" if math.isnan(value) else repr(float(value)) for pair in pairs for value in pair]
            writer.writerow([method.name, method.num_seeds, *cells])


def print_tables(run: Run, console: Console) -> None:
    """Print overall scores, then per-class accuracy: one column per class, or the extremes where there are many."""
    counts = run.class_counts
    console.print(Text(f"Test accuracy in %, mean ± 95 % interval ({describe(run)})", style="bold"))
    scores = scores_table(run)
    if Measurement.get(console, console.options.update(max_width=10_000), scores).maximum > console.width:
        scores = scores_table(run, "\n±")
    console.print(scores)
    if any("best_by_validation" in method.selections for method in run.methods):
        console.print(Text("Test accuracy in % by how the reported step is chosen", style="bold"))
        console.print(steps_table(run))
    for line in training_lines(run):
        console.print(line)
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
    """One row per method: accuracies and ECE in percent, NLL in nats, mean and 95 % half-width."""
    names = score_names(run)
    table = _table()
    for name in names:
        table.add_column(_HEADERS.get(name, name), justify="right", no_wrap=True)
    for method in run.methods:
        table.add_row(Text(method.name), *(_score(method.last, name, separator) for name in names))
    return table


def score_names(run: Run) -> list[str]:
    """The scores worth a column: with many classes many, medium and few in place of head and tail; none unmeasured."""
    measured = {name for name in SCORES for method in run.methods if not math.isnan(method.last.mean[name])}
    groups = [name for name in ("many", "medium", "few") if name in measured]
    if len(run.class_counts) <= MAX_COLUMNS or not groups:
        groups = ["head", "tail"]
    return ["overall", "balanced", *groups, "nll", *(["ece"] if "ece" in measured else [])]


def steps_table(run: Run) -> Table:
    """Test accuracies of the last step, of the mean of the last five, and of the best step by validation."""
    table = _table()
    table.add_column("step", no_wrap=True)
    for name in ("overall", "balanced"):
        table.add_column(name, justify="right", no_wrap=True)
    for method in run.methods:
        for key, title in _STEPS.items():
            scores = method.last if key == "last" else method.selections.get(key, _NO_SCORES)
            first, final = key == "last", title == "best by validation"
            cells = (_score(scores, name) for name in ("overall", "balanced"))
            table.add_row(Text(method.name if first else ""), title, *cells, end_section=final)
    return table


def training_lines(run: Run) -> list[Text]:
    """How each method does on training examples with right and with wrong labels; none where labels are not noisy."""
    lines = []
    for method in run.methods:
        clean, memorised, recovered = (_score(method.last, name) for name in TRAINING)
        if {clean, memorised, recovered} != {"–"}:
            parts = (f"right labels learnt {clean}", f"wrong memorised {memorised}", f"true recovered {recovered}")
            lines.append(Text(f"  {method.name}: {', '.join(parts)}"))
    return [Text("Training examples in %", style="bold"), *lines] if lines else []


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


def _flat(method: Method) -> dict[str, tuple[float, float]]:
    """{column: (mean, half-width)} of all that this method has measured, and of all SCORES."""
    parts = {"": method.last, **{f"{key} ": scores for key, scores in method.selections.items()}}
    return {
        prefix + name: (mean, scores.half[name])
        for prefix, scores in parts.items()
        for name, mean in scores.mean.items()
        if prefix + name in SCORES or not math.isnan(mean)
    }


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


def _score(scores: Scores, name: str, separator: str = " ± ") -> str:
    mean, half = scores.mean[name], scores.half[name]
    return _cell(mean, half, 3, separator) if name == "nll" else _percent(mean, half, separator)


def _percent(mean: float, half: float, separator: str = " ± ") -> str:
    return _cell(100 * mean, 100 * half, 1, separator)


def _cell(mean: float, half: float, digits: int, separator: str = " ± ") -> str:
    if math.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" + ("" if math.isnan(half) else f"{separator}{half:.{digits}f}")
