"""claims.md and claims.csv: every claim of the paper with its comparisons, intervals and verdict."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

from lpg_jax.report import advice
from lpg_jax.report.claims import CLAIMS, POINT, Claim
from lpg_jax.report.evaluation import CONTRADICTED, OPEN, SUPPORTED, UNTESTED, Finding, findings, read_sources, verdict
from lpg_jax.report.evidence import Scenario
from lpg_jax.report.wording import REPORT, number, scenarios_command, seeds_text

RULE = f"""The rule was fixed before the runs, and so was a first test of most claims. Tests were changed, and some
claims added, when first results had been seen: each of them says so, and how ("Changed"). The plan of tuning changed,
too: weight decays for each value, values that go on, a weight decay chosen for ce, slopes by split, LPG with the varied
bound beside logit adjustment, and logit adjustment under noise came after first results; the runs that stand here are
all of the last plan. Each comparison has an interval (95 %, Student's t, paired over seeds, unless it says otherwise)
and a set of values that the claim allows. Its sign is

- `+` if the interval lies wholly among the values that the claim allows,
- `-` if it lies wholly among the others,
- `0` if it has both (for "a is above b": it covers zero).

A claim is **supported** if all its comparisons are `+`, **contradicted** if half of them or more are `-` and none is
`+`, **untested at this scale** if there is none, and **not supported** otherwise. A claim about *all* methods is
contradicted, too, if one of them is above on every scenario, of two or more (this part of the rule came after first
results). So "not supported" says no more than that: of a claim that holds in most comparisons, and of one that holds in
none; the columns tell which. A claim is tested on every scenario of its kind that has runs, or measurements on them.
With two comparisons one `-` and one `0` are enough for "contradicted". Intervals are *not* adjusted for the number of
comparisons: of twenty with no difference behind them, one will exclude zero by chance; and claims share runs (one about
all baselines has the comparisons of those about LPL and SAM), so that their number is not that of independent tests.
Two comparisons of a claim that are of the same runs count once. An interval speaks of other seeds (subset, noise,
initialisation, order), not of other test images: those are the same in every run. "No difference" and "marginal" mean
less than {100 * POINT:g} point of accuracy. "Implied" are statements without which the claim before them would be
empty, "ours" are not of the paper. Where the paper says "LPG" without more, it is the reading of it that does best on
held-out training data, of six or seven, each tuned as every baseline is: generous to the paper. The comparison names
it."""
COMMANDS = """Before any of the commands below, once: `python -m evidence prepare --data_dir=DIR --human_labels=FILE`
(DIR: where CIFAR-10 and CIFAR-100 lie as TFDS sets; FILE: an npz of the human labels of CIFAR-10N and CIFAR-100N,
arrays `c10_worse_label` and `c100_noisy_label`; without it there is no human problem). T3 takes its options from T2,
which has to be there. The commands choose all hyper-parameters again, with two or three seeds, so that another machine
can choose others; with `--chosen=results` they train T1 and T2 with those of the tables, in a quarter of the time.
Every row of `tables/*.csv` has the command of its first run, with revision, versions and machine; the other CSVs and
the figures are of the same runs, and `evidence.json` has those of each problem."""
_TRAIN, _MEASURE = "python -m evidence run ", "python -m evidence measure "
_COLUMNS = (
    *("claim", "where", "statement", "verdict", "scenario", "comparison", "n", "of", "mean", "low", "high"),
    *("allowed_above", "allowed_below", "sign", "paper", "published", "command"),
)


def save(scenarios: Sequence[Scenario], out: Path, claims: Sequence[Claim] = CLAIMS) -> list[Path]:
    """Write OUT/claims.md, OUT/claims.csv and, seed by seed, OUT/claims_by_seed.csv; existing ones are replaced.

    Args:
      scenarios: read by `evidence.read`, with measures.json where they are.
      out: with cost/cost.csv, where it is; made if absent.
      claims: what is tested.

    Returns:
      The paths.

    Raises:
      ValueError: a file of measurements is damaged; names the file and the fix.
    """
    out.mkdir(parents=True, exist_ok=True)
    sources = read_sources(scenarios, out)
    tested = [(number, claim, findings(claim, sources)) for number, claim in enumerate(claims, 1)]
    paths = [out / "claims.md", out / "claims.csv", out / "claims_by_seed.csv"]
    paths[0].write_text(markdown(scenarios, tested), encoding="utf-8")
    tables = (
        (_COLUMNS, [line for of_claim in tested for line in _csv_lines(*of_claim)]),
        (("claim", "scenario", "comparison", "seed", "value"), _by_seed(tested)),
    )
    for path, (columns, lines) in zip(paths[1:], tables, strict=True):
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *lines])
    return paths


def _by_seed(tested: Sequence[tuple[int, Claim, list[Finding]]]) -> list[tuple[object, ...]]:
    return [
        (number, each.scenario, each.what, seed, f"{value:.6g}")
        for number, _, found in tested
        for each in found
        for seed, value in each.values.items()
    ]


def markdown(scenarios: Sequence[Scenario], tested: Sequence[tuple[int, Claim, list[Finding]]]) -> str:
    """The ledger."""
    verdicts = [verdict(found, claim.universal) for _, claim, found in tested]
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in (SUPPORTED, CONTRADICTED, OPEN, UNTESTED))
    signs = [[each.sign for each in found] for *_, found in tested]
    mostly = sum(name == OPEN and 2 * its.count("+") > len(its) for its, name in zip(signs, verdicts, strict=True))
    lines = ["# Claims of the paper, and what our runs say", "", f"Written by `{REPORT}`; not edited by hand.", ""]
    number_of = sum(len(found) for _, _, found in tested)
    lines += [
        f"**{len(tested)} claims: {counts}.** {number_of} comparisons in all. Of the claims that are not supported "
        f"{mostly} hold in more than half of their comparisons.",
        "",
        "## How a verdict is reached",
        "",
        RULE,
        "",
    ]
    lines += ["## Verdicts", "", "| claim | section | statement | + | 0 | - | verdict |", "|" + " --- |" * 7]
    for (index, claim, _), name, its in zip(tested, verdicts, signs, strict=True):
        marks = " | ".join(str(its.count(sign)) for sign in "+0-")
        lines.append(f"| {index} | {claim.where} | {claim.text} | {marks} | {name} |")
    lines += ["", "## Claims that failed", "", *failures(tested), "", "## What to use", "", *advice.section(scenarios)]
    lines += ["", "## Scale of the runs", "", *_scales(scenarios), "", COMMANDS, "", "## Every claim", ""]
    return "\n".join(lines + [line for of_claim in tested for line in _detail(*of_claim)]).rstrip() + "\n"


def failures(tested: Sequence[tuple[int, Claim, list[Finding]]]) -> list[str]:
    """In plain words: what is contradicted, what is not shown, what was not tested."""
    parts = {
        name: [each for each in tested if verdict(each[2], each[1].universal) == name]
        for name in (CONTRADICTED, OPEN, UNTESTED)
    }
    lines = [
        "Contradicted: half of the intervals or more lie on the other side, and none on the side of the claim; or, of "
        "all methods, one is above on every scenario.",
        "",
    ]
    lines += [_failure(*each) for each in parts[CONTRADICTED]] or ["- none"]
    lines += ["", "Not supported: true in some comparisons and not in others, or too small to be seen.", ""]
    lines += [_failure(*each) for each in parts[OPEN]] or ["- none"]
    lines += ["", "Untested at this scale: no run of ours can say.", ""]
    untested = [f"- {index}. {claim.text} {claim.note}".rstrip() for index, claim, _ in parts[UNTESTED]]
    return lines + (untested or ["- none"])


def _failure(index: int, claim: Claim, found: Sequence[Finding]) -> str:
    signs = [finding.sign for finding in found]
    against = [finding for finding in found if finding.sign == "-"]
    worst = min(against or [each for each in found if each.sign == "0"], key=_margin)
    counts = f"{signs.count('+')} for it, {signs.count('-')} against, {signs.count('0')} open"
    shown = f"{worst.scenario}, {worst.what}: {interval_text(worst)}, n = {worst.n} {worst.of}"
    return f'- {index}. "{claim.text}" ({claim.where}): {counts}; furthest from it: {shown}.'


def _margin(finding: Finding) -> float:
    """How far inside the allowed values the estimate is; negative outside. Shares of a point and ratios do not mix."""
    return min(finding.mean - finding.region[0], finding.region[1] - finding.mean)


def interval_text(finding: Finding) -> str:
    """Estimate and interval, in points where they are accuracies.

    >>> region = (0.0, float("inf"))
    >>> interval_text(Finding("", "", 0.0123, 0.0101, 0.0145, 10, "seeds", True, region, ""))
    '+1.23 [+1.01, +1.45] points'
    """
    values = (finding.mean, finding.low, finding.high)
    if finding.points:
        digits = 2 if all(round(100 * abs(value), 2) or not value for value in values) else 3  # an end beside zero
        mean, low, high = (number(100 * value, digits, sign=True) for value in values)
        return f"{mean} [{low}, {high}] points"
    mean, low, high = (f"{value:.4g}".replace("-", "−") for value in values)
    return f"{mean} [{low}, {high}]"


def region_text(finding: Finding) -> str:
    """The values that the claim allows.

    >>> region_text(Finding("", "", 0, 0, 0, 2, "seeds", True, (-0.01, 0.01), ""))
    'between −1 and 1'
    """
    low, high = (f"{(100 if finding.points else 1) * bound:g}".replace("-", "−") for bound in finding.region)
    if math.isinf(finding.region[1]):
        return f"> {low}"
    return f"< {high}" if math.isinf(finding.region[0]) else f"between {low} and {high}"


def _detail(index: int, claim: Claim, found: Sequence[Finding]) -> list[str]:
    lines = [
        f"### {index}. {claim.text}",
        "",
        f"Section {claim.where}. Verdict: **{verdict(found, claim.universal)}**.",
        "",
    ]
    if claim.note:
        lines += [claim.note, ""]
    if claim.changed:
        lines += [f"Changed: {claim.changed}", ""]
    lines += [f"Paper: {claim.paper}. Published: {claim.published}.", ""]
    if found:
        lines += ["| runs | comparison | n | estimate, 95 % interval | claimed | sign |", "|" + " --- |" * 6]
        for each in found:
            cells = (
                each.scenario,
                each.what,
                f"{each.n} {each.of}",
                interval_text(each),
                region_text(each),
                f"`{each.sign}`",
            )
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    if claim.protocol:
        lines += [f"What there is here of the paper's own setting (T4), not run: `{claim.protocol}`", ""]
    return lines + [f"Command: `{command}`" for command in commands(found)] + [""]


def commands(found: Sequence[Finding]) -> list[str]:
    """What makes the runs behind some findings, measures them, and writes this report."""
    every = list(dict.fromkeys(each.command for each in found))
    trained, measured = (
        [command.removeprefix(start) for command in every if command.startswith(start)] for start in (_TRAIN, _MEASURE)
    )
    others = [command for command in every if not command.startswith((_TRAIN, _MEASURE))]
    return ([scenarios_command([*trained, *measured], measured)] if trained or measured else []) + others


def _scales(scenarios: Sequence[Scenario]) -> list[str]:
    lines = ["| scenario | title | scale | seeds | entries | revision | machine |", "|" + " --- |" * 7]
    for each in scenarios:
        seeds = {seed for by_seed in each.results.values() for seed in by_seed}
        number = sum(1 for by_seed in each.results.values() if by_seed)
        cells = (
            f"{each.tier} {each.name}",
            each.title,
            each.scale,
            f"n = {len(seeds)} ({seeds_text(seeds)})",
            str(number),
        )
        lines.append(f"| {' | '.join(cells)} | {each.revision or 'unknown'} | {each.machine or 'unknown'} |")
    failed = [
        f"- {s.tier} {s.name}, {label}, {text}"
        for s in scenarios
        for label in s.entries
        for text in s.entries[label].errors
    ]
    lines += ["", "Runs that failed, and are in no figure:", "", *failed] if failed else []
    missing = sorted({"T1", "T2", "T3", "T4"} - {scenario.tier for scenario in scenarios})
    return lines + (["", f"No runs of {', '.join(missing)}."] if missing else [])


def _csv_lines(index: int, claim: Claim, found: Sequence[Finding]) -> list[list[str]]:
    start = [str(index), claim.where, claim.text, verdict(found, claim.universal)]
    end = [claim.paper, claim.published]
    if not found:
        return [[*start, *[""] * 10, *end, ""]]
    lines = []
    for each in found:
        numbers = [f"{value:.6g}" for value in (each.mean, each.low, each.high)]
        numbers += ["" if math.isinf(bound) else f"{bound:g}" for bound in each.region]
        lines.append([*start, each.scenario, each.what, str(each.n), each.of, *numbers, each.sign, *end, each.command])
    return lines
