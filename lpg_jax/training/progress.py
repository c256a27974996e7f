"""One bar per method: steps, steps per second, time left, and the training figures since the last evaluation."""

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from lpg_jax.training.step import Window


class Bars:
    """The bars of a run; a context manager."""

    def __init__(self, console: Console):
        columns = (
            TextColumn("{task.description:<8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[figures]}"),
        )
        self._rich = RichProgress(*columns, console=console)

    def __enter__(self) -> "Bars":
        self._rich.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._rich.stop()

    def add(self, name: str, total: int) -> "Bar":
        """A new bar that counts to `total` steps."""
        return Bar(self._rich, name, total)


class Bar:
    """One bar."""

    def __init__(self, rich: RichProgress, name: str, total: int):
        self._rich = rich
        self._task = rich.add_task(name, total=total, start=False, speed="", figures="compiling")

    def begin(self, step: int) -> None:
        """Starts the clock at the step from which this process goes on."""
        self._rich.update(self._task, completed=step)
        self._rich.start_task(self._task)

    def advance(self, step: int, window: Window, steps_per_second: float | None) -> None:
        """Shows the step reached, the speed, and mean training loss and accuracy of all seeds."""
        loss, hits, count = (float(np.sum(figure)) for figure in window[:3])
        figures = f"loss {loss / count:.3f}  accuracy {100 * hits / count:.1f} %"
        speed = "" if steps_per_second is None else f"{steps_per_second:.{0 if steps_per_second >= 10 else 2}f} steps/s"
        self._rich.update(self._task, completed=step, speed=speed, figures=figures)
