"""Figure 3 of the paper: accuracy against the share of wrong labels, and what each method gains over cross-entropy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lpg_jax.report import choice, style
from lpg_jax.report.evidence import Scenario
from lpg_jax.report.figures import marks
from lpg_jax.report.intervals import Estimate

_NAME = re.compile(r"(?:^|_)(symmetric|asymmetric|human)(\d*)$")
_TITLES = {"baseline": "Baselines", "lpg": "LPG", "control": "Controls", "combination": "Methods with LPG"}
_MOST = 7  # curves in one panel beside cross-entropy
_GAP = 20.0  # from one place on the x axis to the next beyond the rates


Table: TypeAlias = dict[str, dict[str, marks.Row]]  # scenario -> label -> row


class Place(NamedTuple):
    """Where a scenario stands on the x axis."""

    x: float  # the rate in %, or a place to the right of all rates
    text: str
    on_curve: bool


def save(scenarios: Sequence[Scenario], out: Path) -> list[Path]:
    """OUT/noise-TIER-DATA.png and noise-gain-TIER-DATA.png where at least two scenarios of the data have noise."""
    made = []
    for (tier, data), group in groups(scenarios).items():
        for prefix, base in (("noise", None), ("noise-gain", "ce")):
            figure = draw(group, base)
            if figure is not None:
                made.append(style.save_png(figure, out / f"{prefix}-{tier}-{data}.png"))
    return made


def groups(scenarios: Sequence[Scenario]) -> dict[tuple[str, str], list[Scenario]]:
    """(tier, data) -> scenarios with noise, where there are at least two."""
    found: dict[tuple[str, str], list[Scenario]] = {}
    for scenario in scenarios:
        if scenario.kind == "noisy" and _NAME.search(scenario.name):
            found.setdefault((scenario.tier, scenario.data), []).append(scenario)
    return {key: group for key, group in found.items() if len(group) > 1}


def places(scenarios: Sequence[Scenario]) -> list[Place]:
    """Symmetric noise at its rate, other kinds of noise to the right of it, in one order with the scenarios."""
    kinds = [match.groups() if (match := _NAME.search(scenario.name)) else ("", "") for scenario in scenarios]
    others = sorted({kind for kind in kinds if kind[0] != "symmetric"})
    last = max((float(rate) for kind, rate in kinds if kind == "symmetric"), default=0.0)
    made = []
    for kind, rate in kinds:
        if kind == "symmetric":
            made.append(Place(float(rate), f"{rate} %", True))
        else:
            text = "human" if kind == "human" else f"asym.\n{rate} %"
            made.append(Place(last + _GAP * (1 + others.index((kind, rate))), text, False))
    return made


def draw(scenarios: Sequence[Scenario], base: str | None) -> Figure | None:
    """Panels of curves: accuracies of the best of each scenario, for curves of all would hide each other, or with
    `base` paired differences of all to it; call it inside `style.context()`."""
    table = {s.name: {row.label: row for row in marks.rows(s, "overall", base)} for s in scenarios}
    panels = _panels(scenarios, table) if base else _few(scenarios, table)
    if not panels:
        return None
    where = dict(zip((s.name for s in scenarios), places(scenarios), strict=True))
    columns = min(len(panels), 2)
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(style.WIDTH, (5.5 / columns) * lines + 0.7), layout="constrained")
    first = scenarios[0]
    what = "test accuracy" if base is None else "gain over cross-entropy"
    seeds = marks.seeds_text(row.value for rows in table.values() for row in rows.values())
    rule = marks.INTERVAL if base is None else marks.PAIRED
    caption = (
        f"{first.scale}. {seeds.capitalize()}; {rule}. Lines join symmetric noise; other noise stands apart on the "
        "right. Legends in the order of the curves at the highest symmetric rate; dots are moved aside a little."
    )
    style.frame(figure, f"{_name(scenarios)} ({first.tier}): {what} under wrong labels", caption)
    every = figure.subplots(lines, columns, squeeze=False, sharey=True, sharex=True)
    floor = _floor(table, base)
    for axes, (title, labels) in zip(every.flat, panels, strict=False):
        axes.set_title(title)
        _panel(axes, labels, table, where, base, floor)
        axes.tick_params(labelbottom=True, labelleft=True)
        axes.set_ylabel("test accuracy (%)" if base is None else "points over cross-entropy")
    every[0, 0].set_ylim(bottom=floor)
    for axes in every[-1]:
        axes.set_xlabel("symmetric noise, share of labels   |   other noise")
    for axes in every.flat[len(panels) :]:
        axes.set_axis_off()
    return figure


def _name(scenarios: Sequence[Scenario]) -> str:
    """What the titles begin with, such as "CIFAR-10" of "CIFAR-10, human labels"; the data where they differ."""
    names = {scenario.title.partition(",")[0] for scenario in scenarios}
    return names.pop() if len(names) == 1 else scenarios[0].data


def _few(scenarios: Sequence[Scenario], table: Table) -> list[tuple[str, list[str]]]:
    """One panel: LPG, and of every scenario the best baseline and the best with LPG in it, by held-out scores."""
    found = [of(scenario) for of in (choice.best_baseline, choice.best_with_lpg) for scenario in scenarios]
    labels = [label for label in dict.fromkeys(["lpg", *found]) if label and label != "ce"]
    title = "the best of each problem (by held-out scores), in all of them"
    return [(title, labels)] if any(table.values()) else []


def _panels(scenarios: Sequence[Scenario], table: Table) -> list[tuple[str, list[str]]]:
    """(title, labels) by role, in parts of at most `_MOST`."""
    by_role: dict[str, list[str]] = {}
    for scenario in scenarios:
        for label, row in table[scenario.name].items():
            labels = by_role.setdefault(row.role, [])
            if label != "ce" and label not in labels:
                labels.append(label)
    made = []
    for role in style.ROLES:
        labels = by_role.get(role, [])
        number = -(-len(labels) // _MOST)
        for index, part in enumerate(np.array_split(labels, number) if number else []):
            count = f" ({index + 1} of {number})" if number > 1 else ""
            made.append((f"{_TITLES[role]}{count}", [str(label) for label in part]))
    return made


def _panel(
    axes: Axes, labels: Sequence[str], table: Table, where: dict[str, Place], base: str | None, floor: float
) -> None:
    if base is not None:
        axes.axhline(0, color=style.INK, linewidth=0.9)
    shown = [*(["ce"] if base is None else []), *labels]
    ranked = []
    for index, label in enumerate(shown):
        found = {name: rows[label].value for name, rows in table.items() if label in rows}
        if found:
            shift = 3.2 * (index / max(len(shown) - 1, 1) - 0.5)
            look = style.line_look(index if base is None else index + 1)
            _curve(axes, label, found, where, shift, look)
            lost = all(marks.percent(value)[0] < floor for value in found.values())
            handle = Line2D(
                [], [], markersize=4, linewidth=1, label=f"{label} (off the axis)" if lost else label, **look
            )
            ranked.append((-_last(found, where), index, handle))
    axes.legend(
        handles=[handle for *_, handle in sorted(ranked, key=lambda item: item[:2])], loc="upper left",
        bbox_to_anchor=(1, 1.02), fontsize=6.8, handlelength=2.4, borderaxespad=0.2,
    )  # fmt: skip
    marked = sorted(set(where.values()))
    axes.set_xticks([place.x for place in marked], [place.text for place in marked])


def _floor(table: Table, base: str | None) -> float:
    """Where the y axis ends below, in percent; the reference is cross-entropy where it is lowest."""
    gains, plain = [(0.0, 0.0)], []
    for rows in table.values():
        values = {label: marks.percent(row.value) for label, row in rows.items()}
        if values:
            reference = 0.0 if base else values.get("ce", max(values.values()))[0]
            gains += [(mean - reference, half) for mean, half in values.values()]
            plain.append(reference)
    return marks.floor(gains, 0.0) + min(plain) - 0.5


def _curve(
    axes: Axes, label: str, found: dict[str, Estimate], where: dict[str, Place], shift: float, look: dict[str, Any]
) -> None:
    """A line through the rates and free dots beyond."""
    for joined in (True, False):
        chosen = sorted((where[name].x, marks.percent(value)) for name, value in found.items() if
                        where[name].on_curve == joined)  # fmt: skip
        if not chosen:
            continue
        x, (mean, half) = [place + shift for place, _ in chosen], zip(*(value for _, value in chosen), strict=True)
        line = look if joined else dict(look, linestyle="none")
        axes.errorbar(x, mean, half, label=label, markersize=4, linewidth=1, capsize=1.5, **line)


def _last(found: dict[str, Estimate], where: dict[str, Place]) -> float:
    """The mean at the highest rate, which orders the legend."""
    return found[max(found, key=lambda name: (where[name].on_curve, where[name].x))].mean
