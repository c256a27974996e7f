"""Signals become a wish; a second Ctrl-C does not wait."""

import contextlib
import signal
import threading

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from lpg_jax.training import signals
from lpg_jax.training.signals import Interrupted, Signals, agreed


def handlers():
    return [signal.getsignal(number) for number in signals.CAUGHT]


@pytest.mark.parametrize("number", signals.CAUGHT)
def test_a_signal_is_noted_and_kills_nothing(number):
    before = handlers()
    with Signals() as caught:
        assert caught.received == 0
        signal.raise_signal(number)
        assert caught.received == number
    assert handlers() == before
    assert caught.received == number, "it can be asked afterwards"


def test_a_second_interrupt_does_not_wait():
    before = handlers()
    with Signals():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert handlers() == before


def test_the_first_signal_counts():
    with Signals() as caught:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
    assert caught.received == signal.SIGTERM


def test_handlers_of_others_come_back_after_an_error():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with contextlib.suppress(ZeroDivisionError), Signals():
            signal.raise_signal(signal.SIGTERM)
            raise ZeroDivisionError
        assert seen == []
        signal.raise_signal(signal.SIGTERM)
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_the_main_thread_nothing_is_caught():
    before, result = handlers(), []

    def body():
        with Signals() as caught:
            result.append((caught.received, handlers() == before))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert result == [(0, True)]
    assert handlers() == before


@pytest.mark.parametrize(("number", "name", "code"), [(2, "SIGINT", 130), (15, "SIGTERM", 143)])
def test_interrupted_says_how_to_go_on(number, name, code):
    error = Interrupted(number, 40)
    assert str(error) == f"{name}: a checkpoint was saved at step 40; the same command resumes from there"
    assert (error.signum, error.step, error.exit_code) == (number, 40, code)


@pytest.mark.parametrize("received", [0, 2, 15])
def test_one_process_decides_alone(received):
    assert agreed(received, 7) == received


@pytest.mark.parametrize(
    ("others", "decision"), [([[0, 7], [0, 7]], 0), ([[0, 7], [15, 7]], 15), ([[2, 7], [15, 7]], 15)]
)
def test_several_processes_decide_the_same(monkeypatch, others, decision):
    """What each of them has to say is gathered; here by a stand-in for the network."""
    monkeypatch.setattr(jax, "process_count", lambda: len(others))
    for mine in others:

        def gather(flags, mine=mine):
            np.testing.assert_array_equal(flags, mine)
            return np.array(others, np.int32)

        monkeypatch.setattr(multihost_utils, "process_allgather", gather)
        assert agreed(*mine) == decision


def test_processes_at_different_steps_are_an_error(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda flags: np.array([[0, 7], [0, 8]]))
    with pytest.raises(RuntimeError, match=r"the processes are at different steps, \[7, 8\]: start all with the same"):
        agreed(0, 7)
