"""SIGTERM and SIGINT as a wish that the loop grants at its next stop, the same one in every process."""

import signal
import threading
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

CAUGHT = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Between enter and exit SIGTERM and SIGINT only set `received`; use as a context manager.

    | event | what happens |
    |---|---|
    | SIGTERM or SIGINT | `received` is its number |
    | another one, other than SIGINT after SIGINT | `received` is that of the first |
    | SIGINT again | KeyboardInterrupt at once |
    | entered outside the main thread | nothing is caught, `received` stays 0 |
    | exit, also by an exception | the handlers from before are back |

    Attributes:
      received: number of the first signal, 0 if there was none.

    Example:
      >>> with Signals() as signals:
      ...     signal.raise_signal(signal.SIGTERM)
      ...     signals.received
      15
    """

    def __init__(self) -> None:
        self.received = 0
        self._interrupted = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():  # Python allows no other to set handlers
            self._before = {number: signal.signal(number, self._receive) for number in CAUGHT}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not set from Python

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
        self.received = self.received or number


class Interrupted(Exception):
    """A run ended by a signal after it saved a checkpoint.

    Args:
      signum: number of the signal.
      step: of the checkpoint.

    Example:
      >>> print(Interrupted(signal.SIGTERM, 40))
      SIGTERM: a checkpoint was saved at step 40; the same command resumes from there
    """

    def __init__(self, signum: int, step: int):
        name = signal.Signals(signum).name
        super().__init__(f"{name}: a checkpoint was saved at step {step}; the same command resumes from there")
        self.signum, self.step = int(signum), step

    @property
    def exit_code(self) -> int:
        """What a shell reports of a process that died of the signal: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signum


def agreed(received: int, step: int = 0) -> int:
    """The signal to act on, the same in every process: the largest number that any of them received.

    With several processes all must call this equally often; each waits for the others.

    Args:
      received: `Signals.received` of this process, 0 for none.
      step: at which it asks, to notice processes that are not at the same one.

    Returns:
      A signal number, 0 for none.

    Raises:
      RuntimeError: the processes are not at the same step.

    Example:
      >>> agreed(0, step=40)
      0
    """
    if jax.process_count() == 1:
        return received
    gathered = np.asarray(multihost_utils.process_allgather(np.array([received, step], np.int32)))
    steps = gathered[:, 1].tolist()
    if len(set(steps)) > 1:
        raise RuntimeError(f"the processes are at different steps, {steps}: start all with the same config and workdir")
    return int(gathered[:, 0].max())
