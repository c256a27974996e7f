"""What LPG does to each class over training: margin and signed epsilon, mean over seeds.

Final runs may log their last epoch only. A study of `evaluate.every_epochs` is there to see more, and comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from lpg_jax.report import records, style
from lpg_jax.report.classes import class_order
from lpg_jax.report.evidence import Result, Scenario
from lpg_jax.report.figures import marks

LABELS = ("lpg", "lpg-varied")
FIELD = "evaluate.every_epochs"  # of a study that logs more often; it changes nothing else
_FIRST = 0.25  # of training: what is logged later than that is no course
_PANELS = {"margin": "margin (> 0: amplified)", "epsilon": "signed epsilon"}


class Course(NamedTuple):
    """One entry over training, averaged over its seeds; NaN: a class never seen."""

    steps: np.ndarray  # [T]
    margin: np.ndarray  # [T, C]
    epsilon: np.ndarray  # [T, C] signed: > 0 amplified, < 0 dampened
    counts: np.ndarray  # [C] training examples, mean over seeds
    n: int  # seeds


def save(scenarios: Sequence[Scenario], out: Path) -> list[Path]:
    """OUT/margins-TIER-NAME.png of every scenario whose LPG runs have logged all of training."""
    made = []
    for scenario in scenarios:
        figure = draw(scenario)
        if figure is not None:
            made.append(style.save_png(figure, out / f"margins-{scenario.tier}-{scenario.name}.png"))
    return made


def course(results: dict[int, Result], method: str) -> Course | None:
    """Mean over seeds at the steps that all have; None where the first quarter of training is not among them."""
    read = {seed: records.read_history(r.home, method, len(r.class_counts)) for seed, r in sorted(results.items())}
    histories = [history for history in read.values() if history is not None]
    if not histories:
        return None
    steps = np.array(sorted(set.intersection(*({int(step) for step in h.steps} for h in histories))))
    if len(steps) < 2 or steps[0] > _FIRST * steps[-1]:
        return None
    margin, epsilon = (
        np.ma.masked_invalid([getattr(h, name)[np.isin(h.steps, steps)] for h in histories]).mean(axis=0).filled(np.nan)
        for name in ("margin", "signed_epsilon")
    )
    counts = np.mean([result.class_counts for result in results.values()], axis=0)
    return Course(steps, margin, epsilon, counts, len(histories))


def courses(scenario: Scenario) -> dict[str, Course]:
    """Label of `LABELS` -> its course, from a study of `FIELD` or else from the final runs."""
    found = {}
    for label in LABELS:
        studied = [study.results[study.values[0]] for study in scenario.studies.values()
                   if study.label == label and study.field == FIELD]  # fmt: skip
        for results in (*studied, scenario.results.get(label)):
            its = course(results, scenario.entries[label].method) if results else None
            if its is not None:
                found.setdefault(label, its)
    return found


def draw(scenario: Scenario) -> Figure | None:
    """Margins above, epsilons below, a column per entry; None where there are none. Call it in `style.context()`."""
    shown = courses(scenario)
    if not shown:
        return None
    figure = Figure(figsize=(style.WIDTH, 4.9), layout="constrained")
    number = sorted({its.n for its in shown.values()})
    caption = (
        f"{scenario.scale}. Means over {' to '.join(map(str, number))} seed{'s' * (number != [1])}; one curve per "
        "class, dark: most training examples (the first class where all have as many). Above zero amplified, below "
        "dampened."
    )
    style.frame(figure, f"{scenario.title} ({scenario.tier}): margins and bounds over training", caption)
    every = figure.subplots(2, len(shown), squeeze=False, sharex=True)
    for column, (label, its) in enumerate(shown.items()):
        order = class_order(its.counts)
        for axes, (name, text) in zip(every[:, column], _PANELS.items(), strict=True):
            _curves(axes, its, getattr(its, name), order)
            axes.set_ylabel(text)
        every[0, column].set_title(marks.title_of(scenario, label))
        every[1, column].set_xlabel("training step")
    its = next(iter(shown.values()))
    _bar(figure, list(every.flat), its.counts, class_order(its.counts))
    return figure


def _curves(axes: Axes, its: Course, values: np.ndarray, order: np.ndarray) -> None:
    axes.axhline(0, color=style.INK, linewidth=0.8)
    width = 1.3 if len(order) <= 20 else 0.7
    for colour, index in zip(style.class_colours(len(order)), order, strict=True):
        axes.plot(its.steps, values[:, index], color=colour, linewidth=width, label=str(index))


def _bar(figure: Figure, axes: list[Axes], counts: np.ndarray, order: np.ndarray) -> None:
    """The first and the last class in the order of colours, with their training examples."""
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, len(counts) - 1), style.class_map()), ax=axes, aspect=30, pad=0.01
    )
    bar.set_ticks([0, len(counts) - 1], labels=[f"class {order[i]}\nn {counts[order[i]]:,.0f}" for i in (0, -1)])
    bar.ax.invert_yaxis()
