"""Part "memory": peak temporary bytes, as the compiler plans them (`compiled.memory_analysis()`). Nothing is run."""

from typing import Any

from benchmarks import head
from benchmarks.ours import METHODS, Loop
from benchmarks.settings import Settings
from benchmarks.timing import Row, row

MEGA = 1e6
FLOAT = 4  # bytes


def temporary(compiled: Any) -> int:
    """Bytes beside arguments and results."""
    return compiled.memory_analysis().temp_size_in_bytes


def measure(settings: Settings) -> list[Row]:
    """Runs in a process of its own."""
    cases = head.QUICK[:1] if settings.quick else head.SMALL + head.LARGE
    rows = []
    for case in cases:
        array = FLOAT * case.batch * case.num_classes
        for name, (function, operands) in head.programs(case).items():
            size = temporary(function.lower(*operands).compile())  # pyright: ignore
            rows.append(row("memory", f"head {case.name}", name, "MB", size / MEGA))
            rows.append(row("memory", f"head {case.name}", f"{name} / [B, C] array", "x", size / array))
    for model in ("mlp",) if settings.quick else ("mlp", "resnet32"):
        batch = 16 if settings.quick else 128
        sizes = {name: temporary(Loop(settings.images, model, name, batch).lowered().compile()) for name in METHODS}
        case = f"step {model} B={batch}"
        rows += [row("memory", case, name, "MB", size / MEGA) for name, size in sizes.items()]
        rows += [row("memory", case, f"{name} / plain", "x", size / sizes["plain"]) for name, size in sizes.items()]
    return rows
