"""Part "step": the whole training step of each method over the plain one."""

import jax

from benchmarks.ours import METHODS, Loop
from benchmarks.settings import Settings
from benchmarks.timing import Row, compare, interleave, timed

BATCH = 128
ROUNDS = {"mlp": 60, "resnet8": 30, "resnet20": 15, "resnet32": 25}  # most where the bars are
ACCELERATED = {"resnet110": 30, "wrn28_10": 30}  # minutes a step on a CPU


def measure(settings: Settings) -> list[Row]:
    """Runs in a process of its own."""
    rounds = {"mlp": 3} if settings.quick else dict(ROUNDS)
    if jax.default_backend() != "cpu" and not settings.quick:
        rounds |= ACCELERATED
    return [row for model, number in rounds.items() for row in of_model(settings, model, number)]


def of_model(settings: Settings, model: str, rounds: int) -> list[Row]:
    """All methods on one model, taking turns."""
    batch = 16 if settings.quick else BATCH
    loops = {method: Loop(settings.images, model, method, batch) for method in METHODS}
    least = 0.0 if settings.quick else 0.05
    measures = {method: timed(loop.step, jax.block_until_ready, least) for method, loop in loops.items()}
    return compare("step", f"{model} B={batch}", interleave(measures, rounds), "plain")
