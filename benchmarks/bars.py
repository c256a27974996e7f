"""The bars that this project set itself before measuring, beside what was measured."""

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.timing import Row


class Bar(NamedTuple):
    """A limit on one row."""

    text: str
    part: str
    case: str
    what: str
    limit: float
    below: bool = True  # or above
    unit: str = "x"


class Verdict(NamedTuple):
    """A bar and its row; None where that was not measured (another part, a quick run)."""

    bar: Bar
    row: Row | None

    @property
    def met(self) -> bool | None:
        """Whether the median keeps the limit."""
        if self.row is None:
            return None
        return self.row.value <= self.bar.limit if self.bar.below else self.row.value >= self.bar.limit


_HEAD, _STEP, _LOOP = "C=100 B=128", "resnet32 B=128", "resnet32 B=128"
_LARGE, _GROWTH = "C=131072 B=1024", "C=32768 B=1024 -> C=131072 B=1024"
_ADDED = "added to a resnet32 step by"

BARS = (
    Bar("closed form adds to a ResNet-32 step", "head", _HEAD, f"{_ADDED} sample", 0.02, unit="%"),
    Bar("PGD, 5 steps, adds to a ResNet-32 step", "head", _HEAD, f"{_ADDED} pgd head", 0.05, unit="%"),
    Bar("whole step, closed form", "step", _STEP, "lpg / plain", 1.005),
    Bar("whole step, PGD", "step", _STEP, "lpg_pgd / plain", 1.01),
    Bar("131,072 classes, class_scale", "head", _LARGE, "class_scale / plain", 1.35),
    Bar("131,072 classes, class_mean", "head", _LARGE, "class_mean / plain", 1.8),
    *(
        Bar(f"32,768 to 131,072 classes, {name}", "head", _GROWTH, f"growth of {name}", 4.4)
        for name in ("sample", "class_scale", "class_mean", "pgd head")
    ),
    Bar("dense PGD at 1000 classes", "head", "C=1000 B=128 rows", "dense pgd / pgd head", 15, below=False),
    Bar("its result differs by", "head", "C=1000 B=128 rows", "largest distance of the two", 1e-5, unit="1"),
    Bar("hand-written Flax loop, float32", "loops", _LOOP, "flax / ours", 1.4, below=False),
    Bar("hand-written Flax loop, bfloat16", "loops", _LOOP, "flax / ours bfloat16", 2.0, below=False),
    *(
        Bar(f"population of 16 {name}", "population", "digits mlp S=16", f"Python loop / {name}", 4, below=False)
        for name in ("seeds", "learning rates")
    ),
)


def verdicts(rows: Sequence[Row], bars: Sequence[Bar] = BARS) -> list[Verdict]:
    """Each bar of the parts that were measured, with its row."""
    parts = {row.part for row in rows}
    found = {(row.part, row.case, row.what, row.unit): row for row in rows}
    return [Verdict(bar, found.get((bar.part, bar.case, bar.what, bar.unit))) for bar in bars if bar.part in parts]
