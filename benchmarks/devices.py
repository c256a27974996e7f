"""Part "devices": one device against several. Virtual CPU devices share the same cores, so it is the price of the
spreading that is measured: collectives, smaller batches per device, a wait after every step.
"""

import contextlib
import functools
from collections.abc import Callable

from benchmarks.process import Environment, devices, of_loop, process
from benchmarks.settings import Settings
from benchmarks.timing import Row, compare, interleave

NUMBERS = (1, 2, 8)
BATCH = 128


def measure(settings: Settings, launch: Environment) -> list[Row]:
    """Runs in the parent process; one process per number of devices, taking turns."""
    rows = []
    for model in ("mlp",) if settings.quick else ("mlp", "resnet8"):
        options = {"path": settings.images, "model": model, "method": "lpg", "batch": BATCH}
        with contextlib.ExitStack() as stack:
            measures: dict[str, Callable[[], float]] = {}
            for number in NUMBERS:
                call = stack.enter_context(process({**launch, **devices(number)}))
                ask = functools.partial(call, of_loop, "benchmarks.ours", options)
                for _ in range(2):
                    ask("loss")
                measures[_name(number)] = functools.partial(ask, "seconds", 3 if settings.quick else 20)
            seconds = interleave(measures, settings.rounds(15))
        rows += compare("devices", f"{model} B={BATCH}", seconds, _name(1))
    return rows


def _name(number: int) -> str:
    return f"{number} device{'s' if number > 1 else ''}"
