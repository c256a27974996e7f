"""What to use, per scenario: the best baseline, LPG alone, and the best entry with LPG in it, by held-out scores."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lpg_jax.report.choice import best_baseline, best_with_lpg, resolve
from lpg_jax.report.evidence import Scenario
from lpg_jax.report.intervals import Estimate, difference, metric_of
from lpg_jax.report.wording import fields_text, plus_minus

_NONE = Estimate(math.nan, math.nan, 0)


class Advice(NamedTuple):
    """Of one scenario; labels are None where there is nothing to choose from. Differences are paired over seeds."""

    scenario: Scenario
    baseline: str | None
    alone: str | None  # the best reading of the paper's LPG, `choice.READINGS`
    with_lpg: str | None  # of all entries with LPG in them
    baseline_over_ce: Estimate
    alone_over_ce: Estimate
    lpg_over_ce: Estimate  # with_lpg - ce
    lpg_over_baseline: Estimate  # with_lpg - baseline
    lpg_over_rate: Estimate  # with_lpg - ce with a learning rate chosen again
    lpg_over_random: Estimate  # with_lpg - LPG on random classes, beside the same method, by the same split
    lpg_over_strongest: Estimate  # with_lpg - `strongest`
    strongest: str | None  # the baseline that is best on the test part, whatever was chosen

    @property
    def helps(self) -> bool:
        """LPG is above the best baseline, also by test scores, and, where they were run, above ce with a learning rate
        chosen again and above itself on random classes."""
        if self.lpg_over_rate.low <= 0 or self.lpg_over_random.low <= 0:
            return False
        return min(self.lpg_over_baseline.low, self.lpg_over_strongest.low) > 0


def advise(scenario: Scenario) -> Advice:
    """Choose by held-out scores, compare on the test part."""
    baseline, alone, with_lpg = best_baseline(scenario), resolve(scenario, "@lpg"), best_with_lpg(scenario)

    def gap(a: str | None, b: str | None) -> Estimate:
        if a is None or b is None:
            return _NONE
        return difference(scenario.results[a], scenario.results.get(b, {}), metric_of(scenario))

    told_no_more = [label for label, entry in scenario.entries.items() if entry.role == "baseline" and not entry.knows]
    over_each = {label: gap(with_lpg, label) for label in told_no_more if scenario.results[label]}
    strongest = min(over_each, key=lambda label: over_each[label].mean, default=None)
    return Advice(
        scenario, baseline, alone, with_lpg, gap(baseline, "ce"), gap(alone, "ce"), gap(with_lpg, "ce"),
        gap(with_lpg, baseline), gap(with_lpg, "ce-lr"), gap(with_lpg, _on_random_classes(scenario, with_lpg)),
        over_each.get(strongest or "", _NONE), strongest,
    )  # fmt: skip


def _on_random_classes(scenario: Scenario, label: str | None) -> str | None:
    """The control with its split that draws its classes by chance, tuned by itself; None: there is none."""
    if label is None or "+lpg" in label:
        return label and label.replace("+lpg", "+random-lpg")
    split = scenario.entries[label].fields.get("lpg.split")
    for name, entry in scenario.entries.items():
        if split and entry.method == "random_lpg" and not entry.inherits and entry.fields.get("lpg.split") == split:
            return name
    return None


def recommended(scenarios: Sequence[Scenario]) -> dict[str, dict[str, Any]]:
    """The best entry with LPG in it of every scenario that has one: {name: its config over the scenario's, its gains}.

    The config of a head has the learning rate and weight decay that were chosen for it; nothing was for a network (T3).
    `over_ce`, `over_baseline`, `over_rate` (ce, learning rate chosen again), `over_random` (LPG on random classes) and
    `over_strongest` (the baseline that is best on the test part) are differences on the test part in points with n,
    and `helps` is that of `Advice`: where it is false, use the baseline instead.
    """
    made = {}
    for advice in map(advise, scenarios):
        if advice.with_lpg is None:
            continue
        scenario, entry = advice.scenario, advice.scenario.entries[advice.with_lpg]
        gaps = {
            "over_ce": advice.lpg_over_ce,
            "over_baseline": advice.lpg_over_baseline,
            "over_rate": advice.lpg_over_rate,
            "over_random": advice.lpg_over_random,
            "over_strongest": advice.lpg_over_strongest,
        }
        made[scenario.name] = {
            "label": entry.label,
            "config": {"method": entry.method, **({} if scenario.tier == "T3" else scenario.base), **entry.fields},
            "baseline": advice.baseline,
            "strongest": advice.strongest,
            "helps": advice.helps,
            **{name: _in_points(gap) for name, gap in gaps.items()},
        }
    return made


def _in_points(gap: Estimate) -> dict[str, float | int | None]:
    def rounded(value: float) -> float | None:
        return round(100 * value, 2) if math.isfinite(value) else None

    return {"mean": rounded(gap.mean), "ci95": rounded(gap.half), "n": gap.n}


def save(scenarios: Sequence[Scenario], out: Path) -> list[Path]:
    """Write OUT/recommended.json, which `configs/presets.py` reads; returns its path."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "recommended.json"
    path.write_text(json.dumps(recommended(scenarios), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return [path]


def section(scenarios: Sequence[Scenario]) -> list[str]:
    """Markdown: a table, and a sentence for each scenario."""
    lines = [
        "Entries and settings are chosen by balanced accuracy on held-out training data; gains over cross-entropy "
        "(− ce) are on the test part, in points, mean ± 95 % half-width, paired over n seeds. LPG alone is the best "
        'reading of the paper\'s; "with LPG" may be a combination, a split of ours or signs reversed. LPG helps where '
        "that is above the best baseline (the chosen one, and the one that is best on the test part), and above ce "
        "with a learning rate chosen again (ce-lr, perhaps the same one), and above the same margins on random "
        "classes, where those were run: for the paper's split, under noise also for accuracy, and beside another "
        "method. Entries that are told more than others are no choice.",
        "",
        "| scenario | best baseline, − ce | LPG alone, − ce | with LPG, − ce | − best baseline | LPG helps | n |",
        "|" + " --- |" * 7,
    ]
    every = [advise(scenario) for scenario in scenarios]
    lines += [_row(advice) for advice in every]
    return [*lines, "", *(f"- **{a.scenario.title}** ({a.scenario.tier}): {sentence(a)}" for a in every)]


def _row(advice: Advice) -> str:
    pairs = (
        (advice.baseline, advice.baseline_over_ce),
        (advice.alone, advice.alone_over_ce),
        (advice.with_lpg, advice.lpg_over_ce),
    )
    cells = [f"{advice.scenario.tier} {advice.scenario.name}"]
    cells += ["–" if label is None else f"{label} {_gain(gap)}" for label, gap in pairs]
    gap = advice.lpg_over_baseline
    return f"| {' | '.join([*cells, _gain(gap), 'yes' if advice.helps else 'no', str(gap.n)])} |"


def _gain(gap: Estimate) -> str:
    return plus_minus(gap, digits=2, sign=True)


def sentence(advice: Advice) -> str:
    """In plain words."""
    if advice.with_lpg is None or advice.baseline is None or not math.isfinite(advice.lpg_over_baseline.half):
        return "Too few runs to say anything."
    gap, rate = advice.lpg_over_baseline, advice.lpg_over_rate
    chosen, baseline = _setting(advice, advice.with_lpg), _setting(advice, advice.baseline)
    gains = f"{chosen} differs by {_points(advice.lpg_over_ce)} from ce and by {_points(gap)} from the best baseline"
    if advice.helps:
        end = "" if advice.lpg_over_random.n else "; the same on random classes was not run"
        return f"LPG helps: {gains}, {baseline}{end}."
    if gap.low > 0:
        if advice.lpg_over_random.low <= 0:
            text = f"LPG does not help here beyond random classes: {gains}, {baseline}"
            return f"{text}, but by {_points(advice.lpg_over_random)} from the same margins on random classes."
        if rate.low <= 0:
            text = f"LPG does not help here beyond a learning rate chosen again: {gains}, {baseline}"
            return f"{text}, but by {_points(rate)} from ce with a learning rate chosen again (`ce-lr`)."
        text = f"LPG does not help here beyond every baseline: {gains}, {baseline}"
        return f"{text}, but by {_points(advice.lpg_over_strongest)} from the one that is best on the test part."
    end = "which is better" if gap.high < 0 else "an interval that covers zero"
    return f"LPG does not help here beyond the best baseline: its best form, {gains}, {baseline}, {end}."


def _points(gap: Estimate) -> str:
    return f"{_gain(gap)} points (n = {gap.n})"


def _setting(advice: Advice, label: str) -> str:
    fields = fields_text(advice.scenario.entries[label].fields)
    return f"`{label}` ({fields})" if fields else f"`{label}`"
