"""Signals as Python has them."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

WANTED = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGALRM: signal.SIG_DFL,
}
NUMBERS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def send(number: int) -> None:
    """To this process."""
    os.kill(os.getpid(), number)


def given_back() -> bool:
    """Whether nobody keeps signals or the alarm clock."""
    kept = [number for number, usual in WANTED.items() if signal.getsignal(number) is not usual]
    return not kept and signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@contextmanager
def usual_signals() -> Iterator[None]:
    """Without the test runner's alarm clock, which comes back afterwards."""
    timer = signal.setitimer(signal.ITIMER_REAL, 0)
    before = {number: signal.signal(number, handler) for number, handler in WANTED.items()}
    try:
        yield
        assert given_back()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, former in before.items():
            signal.signal(number, former)
        signal.setitimer(signal.ITIMER_REAL, *timer)
