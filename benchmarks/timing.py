"""Paired measurement: everything that is compared takes its turn in every round, and ratios are taken within a round.

A machine that others use drifts by more than the differences at stake. A drift that lasts longer than a round cancels
in its ratios; the median over rounds forgets the rest.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Measure: TypeAlias = Callable[[], float]  # does the work once more and returns the seconds it took
Seconds: TypeAlias = Mapping[str, np.ndarray]  # by name [rounds]


class Row(NamedTuple):
    """One figure, a line of cost.csv."""

    part: str  # "head", "step", ...
    case: str  # "C=100 B=128", "resnet32", ...
    what: str  # "lpg", "lpg / plain", ...
    value: float  # median over the rounds
    unit: str  # "ms", "x", "%", "MB" or "s"
    low: float  # first quartile
    high: float  # third quartile
    n: int  # rounds


def row(part: str, case: str, what: str, unit: str, values: Any) -> Row:
    """The median of some values (a number, or one per round) between their quartiles.

    >>> row("head", "C=10", "lpg / plain", "x", [1.0, 2.0, 4.0]).value
    2.0
    """
    low, median, high = (float(value) for value in np.quantile(values, (0.25, 0.5, 0.75)))
    return Row(part, case, what, median, unit, low, high, np.size(values))


def order(names: Sequence[str], number: int) -> list[str]:
    """Whose turn it is in round `number`: another one begins each time, and when all have, they go backwards, so that
    nobody always comes before another.

    >>> order("abc", 1), order("abc", 3)
    (['b', 'c', 'a'], ['c', 'b', 'a'])
    """
    lap, start = divmod(number, len(names))
    turned = [*names[start:], *names[:start]]
    return turned[::-1] if lap % 2 else turned


def interleave(measures: Mapping[str, Measure], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each measure in each round [rounds]."""
    seconds: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds):
        for name in order(tuple(measures), number):
            seconds[name].append(measures[name]())
    return {name: np.asarray(values) for name, values in seconds.items()}


def seconds_of(
    function: Callable[[], Any], wait: Callable[[Any], Any], calls: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of one of so many calls in a row; `wait` blocks until the result of the last is there."""
    start, result = clock(), None
    for _ in range(calls):
        result = function()
    wait(result)
    return (clock() - start) / calls


def timed(
    function: Callable[[], Any],
    wait: Callable[[Any], Any],
    least: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Measure:
    """A measure of one call of the function: the mean over as many calls as take about `least` seconds.

    Args:
      function: the work; it is called twice here, so that it is compiled and its time is known.
      wait: blocks until a result is there, such as `jax.block_until_ready`.
      least: seconds; 0: one call.
      clock: in seconds.
    """
    seconds_of(function, wait, 1, clock)
    calls = max(1, math.ceil(least / max(seconds_of(function, wait, 1, clock), 1e-9)))
    return lambda: seconds_of(function, wait, calls, clock)


def compare(part: str, case: str, seconds: Seconds, base: str, ours: Sequence[str] = ()) -> list[Row]:
    """Milliseconds of all, and of `ours` (default: all but the base) the ratio to the base within each round."""
    times = [row(part, case, name, "ms", 1e3 * values) for name, values in seconds.items()]
    names = ours or [name for name in seconds if name != base]
    return times + [row(part, case, f"{name} / {base}", "x", seconds[name] / seconds[base]) for name in names]
