"""Part "loops": our step against a hand-written Flax loop and PyTorch, each in a process of its own, taking turns."""

import contextlib
import functools
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

from benchmarks.process import DEFAULT, Environment, of_loop, process
from benchmarks.settings import Settings
from benchmarks.timing import Row, interleave, row

TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}  # as a share of the loss
BASE = "flax"
_PAUSE = 0.05  # seconds; idle threads of OpenMP spin for a while after their turn


class Contestant(NamedTuple):
    """A loop, and how it is started."""

    module: str
    options: Mapping[str, Any]
    environment: Environment


def contestants(settings: Settings, model: str, launch: Environment) -> dict[str, Contestant]:
    """Who takes part; PyTorch only where it is installed."""
    options = {"path": settings.images, "model": model, "batch": 16 if settings.quick else 128}
    bfloat16 = {**options, "dtype": "bfloat16"}
    found = {
        BASE: Contestant("benchmarks.flax_loop", options, DEFAULT),
        "ours": Contestant("benchmarks.ours", options, launch),
        "ours bfloat16": Contestant("benchmarks.ours", bfloat16, launch),
        "ours untuned": Contestant("benchmarks.ours", options, DEFAULT),
    }
    if find_spec("torch") is None:
        print("loops: PyTorch is not installed (extra 'benchmarks'), so it is left out")
        return found
    torch = "benchmarks.torch_loop"
    return found | {
        "torch": Contestant(torch, options, DEFAULT),
        "torch channels_last": Contestant(torch, {**options, "channels_last": True}, DEFAULT),
        "torch bfloat16": Contestant(torch, {**bfloat16, "channels_last": True}, DEFAULT),
    }


def check_agreement(losses: Mapping[str, list[float]], dtypes: Mapping[str, str]) -> None:
    """Raises ValueError unless all loops see the same losses, step by step, from the same weights and batches."""
    for name, values in losses.items():
        limit = TOLERANCE[dtypes[name]]
        for number, (value, expected) in enumerate(zip(values, losses[BASE], strict=True)):
            if not abs(value - expected) <= limit * abs(expected):
                raise ValueError(
                    f"{name}: loss {value} in step {number}, but {expected} in {BASE}: must agree "
                    f"to a share of {limit}, or the loops do not do the same work"
                )


def measure(settings: Settings, launch: Environment) -> list[Row]:
    """Runs in the parent process, which computes nothing itself."""
    model = "resnet8" if settings.quick else "resnet32"
    loops = contestants(settings, model, launch)
    with contextlib.ExitStack() as stack:
        ask: dict[str, Callable[..., Any]] = {}
        for name, loop in loops.items():
            call = stack.enter_context(process(loop.environment))
            ask[name] = functools.partial(call, of_loop, loop.module, loop.options)
        weights = ask["ours"]("weights")
        for name, loop in loops.items():
            if loop.module != "benchmarks.ours":  # ours begin from the same key, which the first loss shows
                ask[name]("load", weights)
        dtypes = {name: loop.options.get("dtype", "float32") for name, loop in loops.items()}
        losses = {name: [call("loss") for _ in range(2)] for name, call in ask.items()}
        check_agreement(losses, dtypes)
        measures = {name: functools.partial(_turn, call, 1 if settings.quick else 2) for name, call in ask.items()}
        seconds = interleave(measures, settings.rounds(9))
    case = f"{model} B={loops[BASE].options['batch']}"
    rows = [row("loops", case, name, "ms", 1e3 * values) for name, values in seconds.items()]
    pairs = [(BASE, name) for name in seconds if name != BASE]
    pairs += [(name, "ours") for name in seconds if name.startswith("torch")]
    pairs += [(name, "ours bfloat16") for name in seconds if name.startswith("torch")]
    rows += [row("loops", case, f"{slow} / {name}", "x", seconds[slow] / seconds[name]) for slow, name in pairs]
    return rows + [row("loops", case, f"first loss of {name}", "nats", values[0]) for name, values in losses.items()]


def _turn(call: Callable[..., float], steps: int) -> float:
    time.sleep(_PAUSE)
    return call("seconds", steps)
