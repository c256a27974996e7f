"""Verdicts: every comparison of a claim as an interval beside the values that the claim allows."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from scipy import stats

from lpg_jax.report.choice import resolve
from lpg_jax.report.claims import Claim, Compactness, Contrast, Cost, Measure, Region, Term, Test
from lpg_jax.report.evidence import Results, Scenario
from lpg_jax.report.figures.features import feature_values
from lpg_jax.report.intervals import SETS, Estimate, interval, metric_of, of_seeds

SUPPORTED, CONTRADICTED, OPEN, UNTESTED = "supported", "contradicted", "not supported", "untested at this scale"
_COST = "python -m benchmarks --out=results/cost"  # where the runs do not say
_COST_COLUMNS = ("part", "case", "what", "value", "unit", "low", "high", "n")
_MEDIAN = 1.253 / 1.349  # its standard error over (distance of the quartiles / sqrt(n)), of normal values


class Finding(NamedTuple):
    """One comparison with its outcome."""

    scenario: str  # "T1 digits_longtail50", or the file a measurement comes from
    what: str
    mean: float
    low: float
    high: float
    n: int
    of: str  # what n counts
    points: bool  # fractions, shown as percentage points
    region: Region
    command: str
    test: int = 0  # which of the claim's
    values: Mapping[int, float] = MappingProxyType({})  # by seed; {}: the interval is not over seeds

    @property
    def sign(self) -> str:
        """ "+": the interval lies wholly where the claim says; "-": wholly elsewhere; "0": neither."""
        (low, high), (least, most) = (self.low, self.high), self.region
        if least < low and high < most:
            return "+"
        return "-" if high < least or low > most else "0"


class Sources(NamedTuple):
    """All that claims are tested on."""

    scenarios: tuple[Scenario, ...]
    cost: list[dict[str, str]]  # rows of cost.csv
    features: dict[str, dict[str, dict[int, dict[str, float]]]]  # scenario -> label -> seed -> name -> value
    cost_command: str = _COST


def read_sources(scenarios: Sequence[Scenario], out: Path) -> Sources:
    """Features of the scenarios, and OUT/cost/cost.csv, each empty where it is missing.

    Raises:
      ValueError: a table is damaged; names the file and the fix.
    """
    features = {_title(each): feature_values(each) for each in scenarios}
    return Sources(
        scenarios=tuple(scenarios),
        cost=_rows(out / "cost" / "cost.csv", _COST_COLUMNS),
        features={name: found for name, found in features.items() if found},
        cost_command=_command(out / "cost" / "machine.json", _COST).replace(str(out.resolve()), "results"),
    )


def _title(scenario: Scenario) -> str:
    return f"{scenario.tier} {scenario.name}"


def _command(path: Path, otherwise: str) -> str:
    """The command that a run noted, or what is known without it."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("command") or otherwise)
    except FileNotFoundError:
        return otherwise
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: {error}; remove it and measure again") from error


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = set(columns) - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path}: no column {sorted(missing)[0]!r}; write the file anew")
        return list(reader)


def verdict(findings: Sequence[Finding], universal: bool = False) -> str:
    """The rule: all "+" is supported; half or more "-" and no "+" is contradicted, of a universal claim also one test
    that is "-" on every scenario, of two or more; nothing is untested; the rest is open. One "-" alone of many would
    come by chance too often."""
    signs = [finding.sign for finding in findings]
    if not signs:
        return UNTESTED
    if set(signs) == {"+"}:
        return SUPPORTED
    of_test = [[each.sign for each in findings if each.test == test] for test in {each.test for each in findings}]
    refuted = universal and any(set(its) == {"-"} and len(its) > 1 for its in of_test)
    return CONTRADICTED if refuted or (2 * signs.count("-") >= len(signs) and "+" not in signs) else OPEN


def findings(claim: Claim, sources: Sources) -> list[Finding]:
    """Every comparison of a claim for which there are runs; those without an interval (n < 2) are left out.

    Two with the same value for every seed are of the same runs (entries for which the same was chosen), and count once.
    """
    found: dict[object, Finding] = {}
    for number, test in enumerate(claim.tests):
        for finding in _of_test(test, sources):
            if math.isfinite(finding.mean) and math.isfinite(finding.high - finding.low):
                runs = tuple(finding.values.items()) or number
                found.setdefault((finding.scenario, finding.region, runs), finding._replace(test=number))
    return list(found.values())


def _of_test(test: Test, sources: Sources) -> Iterable[Finding]:
    match test:
        case Contrast():
            return [made for scenario in sources.scenarios if (made := _contrast(test, scenario))]
        case Measure():
            return _measure(test, sources)
        case Cost():
            return _cost(test, sources)
        case Compactness():
            return _compactness(test, sources)


def _contrast(test: Contrast, scenario: Scenario) -> Finding | None:
    wanted = not test.names or any(name in scenario.name for name in test.names)
    if scenario.kind not in test.kinds or not wanted:
        return None
    parts = [_results(term, scenario) for term in test.terms]
    if not all(parts):
        return None
    metrics = [term.metric or metric_of(scenario) for term in test.terms]
    guides = next((part for part in parts if any(result.margin is not None for result in part.values())), None)
    if guides is None and SETS.keys() & set(metrics):  # amplified classes of methods without margins
        return None
    columns = [of_seeds(part, metric, guides) for part, metric in zip(parts, metrics, strict=True)]
    seeds = sorted(set.intersection(*(set(column) for column in columns)))
    weights = [term.weight for term in test.terms]
    values = [sum(w * column[seed] for w, column in zip(weights, columns, strict=True)) for seed in seeds]
    what = describe(test, scenario)
    if guides and SETS.keys() & set(metrics):
        drawn = {tuple(np.sign(result.margin)) for result in guides.values() if result.margin is not None}
        what += f" classes ({len(drawn)} set{'s' * (len(drawn) != 1)} of them)"
    command = f"python -m evidence run {scenario.name}"
    return _of_seeds(_title(scenario), what, dict(zip(seeds, values, strict=True)), test.region, command, points=True)


def _results(term: Term, scenario: Scenario) -> Results:
    if term.value is None:
        label = resolve(scenario, term.label)
        return scenario.results[label] if label else {}
    study = scenario.studies.get(term.label)
    return study.results.get(term.value, {}) if study else {}


def describe(test: Contrast, scenario: Scenario) -> str:
    """The sum of terms in words: "lpg − ce, overall"."""
    text = "".join(f" {'−' if term.weight < 0 else '+'} {_name(term, scenario, test)}" for term in test.terms)
    metrics = {term.metric for term in test.terms}
    shown = next(iter(metrics)) or metric_of(scenario)
    return text.removeprefix(" + ") + (f", {shown}" if len(metrics) == 1 else "")


def _name(term: Term, scenario: Scenario, test: Contrast) -> str:
    if term.value is not None:
        return f"{scenario.studies[term.label].field}={term.value:g}"
    label = resolve(scenario, term.label) or term.label
    return label if len({term.metric for term in test.terms}) == 1 else f"{label} {term.metric}"


def _finding(
    scenario: str, what: str, value: Estimate, of: str, region: Region, command: str, points: bool = False
) -> Finding:
    return Finding(scenario, what, value.mean, value.low, value.high, value.n, of, points, region, command)


def _of_seeds(
    scenario: str, what: str, values: Mapping[int, float], region: Region, command: str, points: bool = False
) -> Finding:
    found = _finding(scenario, what, interval(list(values.values())), "seeds", region, command, points)
    return found._replace(values=values)


def _measure(test: Measure, sources: Sources) -> list[Finding]:
    made = []
    for scenario in sources.scenarios:
        measure = scenario.measures.get(test.name)
        if measure:
            where, points = _title(scenario), test.points
            made.append(_of_seeds(where, test.name, measure.values, test.region, measure.command, points))
    return made


def _cost(test: Cost, sources: Sources) -> list[Finding]:
    wanted = ("step", test.case, test.what, "x")
    rows = [row for row in sources.cost if (row["part"], row["case"], row["what"], row["unit"]) == wanted]
    what = f"{test.what}, {test.case}, times"
    made = []
    for row in rows:
        (value, low, high), n = (float(row[name]) for name in ("value", "low", "high")), int(row["n"])
        half = float(stats.t.ppf(0.975, n - 1)) * _MEDIAN * (high - low) / math.sqrt(n) if n > 1 else math.nan
        median = Estimate(value, half, n)
        made.append(_finding("cost.csv", what, median, "rounds", test.region, sources.cost_command))
    return made


def _compactness(test: Compactness, sources: Sources) -> list[Finding]:
    made = []
    for scenario, of_label in sources.features.items():
        first, second = (of_label.get(label, {}) for label in (test.a, test.b))
        seeds = sorted(first.keys() & second.keys())
        values = {seed: first[seed][test.name] - second[seed][test.name] for seed in seeds}
        command = f"python -m evidence measure {scenario.split()[1]}"
        what = f"{test.a} − {test.b}, {test.name}"
        made.append(_of_seeds(scenario, what, values, test.region, command))
    return made
