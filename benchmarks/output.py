"""cost.csv, cost.png, machine.json, and tables on the terminal."""

import csv
import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.bars import Verdict
from benchmarks.timing import Row

CSV, PLOT, MACHINE = "cost.csv", "cost.png", "machine.json"


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line per row, under a header; floats in full precision."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(rows)


def read_csv(path: Path) -> list[Row]:
    """Undoes `write_csv`."""
    with path.open(newline="") as file:
        return [_row(line) for line in csv.DictReader(file)]


def _row(line: dict[str, str]) -> Row:
    numbers = {name: float(line[name]) for name in ("value", "low", "high")}
    return Row(**{**line, **numbers, "n": int(line["n"])})


def machine(command: str) -> dict[str, Any]:
    """Where and with what a run is made; imports jax, so it runs in a process of its own."""
    from lpg_jax.training.summary import provenance

    found = provenance(command)
    try:
        found["versions"]["torch"] = version("torch")
    except PackageNotFoundError:
        found["versions"]["torch"] = None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    cpu = {"name": cpu_name(), "cores": os.cpu_count(), "memory_bytes": memory}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"cpu": cpu, "system": platform.platform(), "load_before": load, **found}


def cpu_name() -> str:
    """As the system calls the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write_json(content: dict[str, Any], path: Path) -> None:
    """Indented JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n")


def table(title: str, rows: Sequence[Row]) -> Table:
    """Rows of one part."""
    made = Table(title=title, title_justify="left")
    for name in ("case", "what"):
        made.add_column(name)
    for name in ("median", "quartiles", "unit", "n"):
        made.add_column(name, justify="right")
    previous = ""
    for row in rows:
        spread = "" if row.n == 1 else f"{row.low:.4g} to {row.high:.4g}"
        case = row.case if row.case != previous else ""
        made.add_row(case, row.what, f"{row.value:.4g}", spread, row.unit, str(row.n))
        previous = row.case
    return made


def bar_table(verdicts: Sequence[Verdict]) -> Table:
    """The bars, what was measured, and whether it keeps them."""
    made = Table(title="bars", title_justify="left")
    for name in ("bar", "limit", "median", "quartiles", "met"):
        made.add_column(name, justify="left" if name == "bar" else "right")
    words = {True: "[green]yes[/]", False: "[red]no[/]", None: "not measured"}
    for verdict in verdicts:
        bar, row = verdict
        limit = f"{'<=' if bar.below else '>='} {bar.limit:g} {bar.unit}"
        figures = (f"{row.value:.4g}", f"{row.low:.4g} to {row.high:.4g}") if row else ("", "")
        made.add_row(bar.text, limit, *figures, words[verdict.met])
    return made


def show(rows: Sequence[Row], verdicts: Sequence[Verdict], console: Console) -> None:
    """All tables."""
    for part in dict.fromkeys(row.part for row in rows):
        console.print(table(part, [row for row in rows if row.part == part]))
    console.print(bar_table(verdicts))
