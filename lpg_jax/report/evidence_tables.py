"""The tables of the evidence: one per scenario in Markdown, CSV and LaTeX; a line per run; where it all came from."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lpg_jax.report import published
from lpg_jax.report.choice import best_baseline, by_role
from lpg_jax.report.evidence import ROLES, Result, Scenario
from lpg_jax.report.intervals import Estimate, difference, estimate, metric_of
from lpg_jax.report.records import SCORES, TRAINING
from lpg_jax.report.wording import fields_text, plus_minus, run_command, scenario_command, seeds_text

HELD_OUT = "digits 15 %, CIFAR 10,000 images of the training set, with right labels, not trained on when choosing"
CHOICE = "chosen by balanced accuracy on held-out training data, not by test figures"
_HEADERS = {"nll": "NLL", "ece": "ECE", "train_memorised": "memorised", "train_recovered": "recovered"}
_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "–": "--",
}


class Row(NamedTuple):
    """An entry with its figures."""

    label: str
    cells: dict[str, Estimate]  # score -> estimate
    to_ce: Estimate
    to_best: Estimate  # to the best baseline
    n: int


def shown_scores(scenario: Scenario) -> list[str]:
    """The scores that have a column: those of groups under a long tail, of the training set under noise."""
    results = [result for by_seed in scenario.results.values() for result in by_seed.values()]
    measured = {name for result in results for name, value in result.scores.items() if math.isfinite(value)}
    groups = ["head", "tail"] if not {"medium", "few"} & measured else ["many", "medium", "few"]
    if results and len(results[0].per_class) <= 20:
        groups = ["head", "tail"]
    kind = {"longtail": groups, "noisy": ["train_memorised", "train_recovered"], "balanced": []}[scenario.kind]
    names = ["balanced", "overall"] if scenario.kind == "longtail" else ["overall"]
    return [name for name in (*names, *kind, "nll", "ece") if name in measured]


def rows(scenario: Scenario) -> list[Row]:
    """Every entry with at least one run, by role, then in the order of scenario.json."""
    metric, reference, names = metric_of(scenario), best_baseline(scenario), (*SCORES, *TRAINING)
    made = []
    for label in by_role(scenario, ROLES):
        results = scenario.results[label]
        if results:
            to_ce, to_best = (
                difference(results, scenario.results.get(other or "", {}), metric) for other in ("ce", reference)
            )
            cells = {name: estimate(results, name) for name in names}
            made.append(Row(label, cells, to_ce, to_best, len(results)))
    return made


def save(scenarios: Sequence[Scenario], out: Path) -> list[Path]:
    """Write OUT/tables/TIER-NAME.{md,csv,tex} and the files below; existing ones are replaced, none is empty.

    Args:
      scenarios: read by `evidence.read`.
      out: the directory; made if absent.

    Returns:
      The paths.

    | file | what is in it |
    |---|---|
    | tables/*.md, *.tex | a row per entry: accuracies and ECE in %, NLL in nats, mean ± 95 % half-width over seeds |
    | tables/*.csv | the same in fractions and all scores, chosen fields, trials, `began` (1: what was chosen is |
    | | one of the trials, as many for each entry, with which tuning began), and the command of the first run |
    | runs.csv | a row per run: figures, seconds |
    | studies.csv | a row per run of a study: its field, the value, figures |
    | trials.csv | a row per setting that was tried, as far as that is known: fields, score on what was held out |
    | measures.csv | a row per seed of what was measured on trained heads |
    | evidence.json | per scenario: command, revision, versions, machine, seeds, runs that are there, runs that failed |

    The command of a run is that of its entry in tables/*.csv with another config.seed, and with the same number as
    config.operators.random_lpg.key where that stands in it.
    """
    (out / "tables").mkdir(parents=True, exist_ok=True)
    paths = []
    for scenario in scenarios:
        made, stem = rows(scenario), f"{scenario.tier}-{scenario.name}"
        for suffix, write in ((".md", markdown), (".tex", latex)):
            path = out / "tables" / f"{stem}{suffix}"
            path.write_text(write(scenario, made), encoding="utf-8")
            paths.append(path)
        paths += _write_csv(out / "tables" / f"{stem}.csv", _table_lines(scenario, made))
    for name, lines in (
        ("runs", _run_lines), ("studies", _study_lines), ("measures", _measure_lines), ("trials", _trial_lines)
    ):  # fmt: skip
        paths += _write_csv(out / f"{name}.csv", lines(scenarios))
    paths.append(out / "evidence.json")
    paths[-1].write_text(json.dumps(_origin(scenarios), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return paths


def markdown(scenario: Scenario, made: Sequence[Row]) -> str:
    """The table of a scenario."""
    header, body = _cells(scenario, made)
    lines = [f"# {scenario.title} ({scenario.tier} {scenario.name})", "", *notes(scenario, made), ""]
    lines += _markdown_rows([header, ["---"] * len(header), *body])
    return "\n".join([*lines, "", *_chosen(scenario, made)]) + "\n"


def latex(scenario: Scenario, made: Sequence[Row]) -> str:
    """The same for LaTeX: a plain tabular that needs no package, with its origin in comments."""
    header, body = _cells(scenario, made)
    comments = [
        f"% {scenario.title} ({scenario.tier} {scenario.name})",
        *(f"% {note}" for note in notes(scenario, made)),
    ]
    lines = [" & ".join(map(escape, row)) + r" \\" for row in (header, *body)]
    lines = [r"\begin{tabular}{" + "ll" + "r" * (len(header) - 2) + "}", r"\hline", lines[0], r"\hline", *lines[1:]]
    return "\n".join([*comments, *lines, r"\hline", r"\end{tabular}"]) + "\n"


def escape(text: str) -> str:
    """Text for LaTeX.

    >>> escape("50 % ± 1")
    '50 \\\\% $\\\\pm$ 1'
    """
    return "".join(_LATEX.get(character, character) for character in text)


def notes(scenario: Scenario, made: Sequence[Row]) -> list[str]:
    """What a reader must know of the table: units, n, scale, origin."""
    seeds = {seed for by_seed in scenario.results.values() for seed in by_seed}
    reference, counts = best_baseline(scenario), sorted({row.n for row in made}) or [0]
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    failed = [f"{label}, {error}" for label, entry in scenario.entries.items() for error in entry.errors]
    return [
        f"- scale: {scenario.scale}{_size(scenario)}",
        f"- n = {number} seeds ({seeds_text(seeds)}): mean ± 95 % half-width (Student's t); differences are paired "
        "over seeds, which share data, noise, initial parameters and order",
        f"- accuracies and ECE in %, NLL in nats, differences in points of {metric_of(scenario)} accuracy",
        f"- best baseline: {reference or 'none with trials'}, {CHOICE} ({HELD_OUT}); settings of all entries likewise",
        f"- command: {scenario_command(scenario) or 'unknown'}",
        f"- revision {scenario.revision or 'unknown'}; {scenario.machine or 'machine unknown'}; {_versions(scenario)}",
        *([f"- {published.NOTE}"] if scenario.name in published.PAPER | published.PUBLISHED else []),
        *(f"- a run that failed, and is in no figure: {text}" for text in failed),
    ]


def _versions(scenario: Scenario) -> str:
    return ", ".join(f"{name} {scenario.versions[name]}" for name in sorted(scenario.versions))


def _size(scenario: Scenario) -> str:
    images = sorted({int(r.class_counts.sum()) for by_seed in scenario.results.values() for r in by_seed.values()})
    numbers = " to ".join(f"{number:,}" for number in dict.fromkeys([*images[:1], *images[-1:]]))
    return f"; {numbers} training examples" if numbers else ""


def _cells(scenario: Scenario, made: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    names, reference = shown_scores(scenario), best_baseline(scenario)
    others = {
        title: table[scenario.name]
        for title, table in (("paper", published.PAPER), ("published", published.PUBLISHED))
        if scenario.name in table
    }
    told = {row.label: (scenario.entries[row.label].knows,) for row in made}
    told = told if any(knows for (knows,) in told.values()) else {}
    header = ["entry", "role", *(_HEADERS.get(name, name) for name in names), "− ce", f"− {reference or 'best'}", "n"]
    body = []
    for row in made:
        scores = [plus_minus(row.cells[name], *((1.0, 3) if name == "nll" else (100.0, 1))) for name in names]
        gaps = ["" if row.label == other else plus_minus(gap, sign=True)
                for other, gap in (("ce", row.to_ce), (reference, row.to_best))]  # fmt: skip
        cells = [row.label, scenario.entries[row.label].role, *scores, *gaps, str(row.n)]
        body.append([*cells, *(table.get(row.label, "") for table in others.values()), *told.get(row.label, ())])
    return [*header, *others, *(["is told"] if told else [])], body


def _chosen(scenario: Scenario, made: Sequence[Row]) -> list[str]:
    """Titles, and what was chosen among how many trials with which score."""
    lines = [
        "## Entries and their settings",
        "",
        f"For all, chosen for ce: {fields_text(scenario.base) or 'as in the config'}.",
        "",
    ]
    if scenario.tier == "T3":
        lines[2] = (
            f"For all, over the config: {fields_text(scenario.base)}. Options of methods are those chosen for a head "
            "on features of the same images; trials and scores are the head's."
        )
    elif known := {label: entry.began for label, entry in scenario.entries.items() if entry.began is not None}:
        others, number = [label for label, began in known.items() if not began], len(known)
        lines[2] += (
            f" The tuning of all others began with the same number of trials; {number - len(others)} of {number} would "
            f"be chosen the same from those alone{'; not so: ' if others else ''}{', '.join(others)}."
        )
    table = [["entry", "title", "fields", "trials", "held-out balanced accuracy"], ["---"] * 5]
    for row in made:
        entry = scenario.entries[row.label]
        trial = next((trial for trial in entry.trials if trial.chosen), None)
        score = plus_minus(Estimate(trial.mean, trial.half, trial.n)) + f" (n = {trial.n})" if trial else "–"
        table.append([row.label, entry.title, fields_text(entry.fields), str(entry.tried or "–"), score])
    return lines + _markdown_rows(table)


def _markdown_rows(table: Iterable[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]


def _table_lines(scenario: Scenario, made: Sequence[Row]) -> list[dict[str, Any]]:
    lines, reference = [], best_baseline(scenario)
    for row in made:
        entry, trial = scenario.entries[row.label], _numbers("held_out", Estimate(math.nan, math.nan, 0))
        for chosen in (trial for trial in entry.trials if trial.chosen):
            trial = _numbers("held_out", Estimate(chosen.mean, chosen.half, chosen.n))
        line = {"tier": scenario.tier, "scenario": scenario.name, "label": row.label, "title": entry.title}
        line |= {"role": entry.role, "n": row.n, "seeds": seeds_text(scenario.results[row.label])}
        for name, value in {**row.cells, "minus_ce": row.to_ce, "minus_best_baseline": row.to_best}.items():
            line |= _numbers(name, value)
        line |= {"best_baseline": reference or "", **trial, "trials": entry.tried, "knows": entry.knows}
        line |= {"began": "" if entry.began is None else int(entry.began)}
        line |= {
            name: of_others.get(scenario.name, {}).get(row.label, "")
            for name, of_others in (("paper", published.PAPER), ("published", published.PUBLISHED))
        }
        line |= {"fields": json.dumps({**scenario.base, **entry.fields}, sort_keys=True)}
        seed = min(scenario.results[row.label])
        revisions = sorted({result.revision for result in scenario.results[row.label].values()} - {""})
        origin = {"revision": ", ".join(revisions) or scenario.revision, "machine": scenario.machine}
        origin |= {"versions": _versions(scenario)}
        lines.append({**line, "command": run_command(scenario, row.label, seed), **origin})
    return lines


def _run_lines(scenarios: Sequence[Scenario]) -> list[dict[str, Any]]:
    return [
        {"tier": scenario.tier, "scenario": scenario.name, "label": label, **_figures(result)}
        for scenario in scenarios
        for label in by_role(scenario, ROLES)
        for _, result in sorted(scenario.results[label].items())
    ]  # fmt: skip


def _study_lines(scenarios: Sequence[Scenario]) -> list[dict[str, Any]]:
    return [
        {"tier": scenario.tier, "scenario": scenario.name, "label": study.label, "field": study.field, "value": value,
         **_figures(result)}
        for scenario in scenarios
        for study in scenario.studies.values()
        for value in study.values
        for _, result in sorted(study.results[value].items())
    ]  # fmt: skip


def _figures(result: Result) -> dict[str, Any]:
    scores = {name: _digits(result.scores[name]) for name in (*SCORES, *TRAINING)}
    seconds = "" if math.isnan(result.seconds) else f"{result.seconds:.2f}"
    return {"seed": result.seed, **scores, "seconds": seconds, "revision": result.revision}


def _measure_lines(scenarios: Sequence[Scenario]) -> list[dict[str, Any]]:
    return [
        {"tier": scenario.tier, "scenario": scenario.name, "measure": name, "seed": seed, "value": _digits(value),
         "command": measure.command}
        for scenario in scenarios
        for name, measure in scenario.measures.items()
        for seed, value in measure.values.items()
    ]  # fmt: skip


def _trial_lines(scenarios: Sequence[Scenario]) -> list[dict[str, Any]]:
    return [
        {"tier": scenario.tier, "scenario": scenario.name, "label": label, "trials": entry.tried,
         "fields": json.dumps(trial.fields, sort_keys=True), "n": trial.n, "chosen": int(trial.chosen),
         **_numbers("held_out", Estimate(trial.mean, trial.half, trial.n))}
        for scenario in scenarios
        if scenario.tier != "T3"  # whose trials are those of T2
        for label, entry in scenario.entries.items()
        for trial in entry.trials
    ]  # fmt: skip


def _numbers(name: str, value: Estimate) -> dict[str, str]:
    return {name: _digits(value.mean), f"{name} ci95": _digits(value.half)}


def _digits(value: float) -> str:
    return str(round(value, 6)) if math.isfinite(value) else ""


def _write_csv(path: Path, lines: Sequence[dict[str, Any]]) -> list[Path]:
    if not lines:  # a header would have no columns
        path.unlink(missing_ok=True)
        return []
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return [path]


def _origin(scenarios: Sequence[Scenario]) -> dict[str, Any]:
    return {
        f"{scenario.tier}/{scenario.name}": {
            "title": scenario.title,
            "scale": scenario.scale,
            "config": scenario.config,
            "base": scenario.base,
            "command": scenario_command(scenario),
            "revision": scenario.revision,
            "versions": scenario.versions,
            "machine": scenario.machine,
            "seeds": list(scenario.seeds),
            "entries": len(scenario.entries),
            "runs": sum(map(len, scenario.results.values())),
            "study_runs": sum(len(of) for study in scenario.studies.values() for of in study.results.values()),
            "failed": {label: list(entry.errors) for label, entry in scenario.entries.items() if entry.errors},
        }
        for scenario in scenarios
    }
