"""Ctrl-C and SIGTERM: raised where a run can end, and never lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from monai_ifim.data.signals import StopSignals, Terminated

NUMBERS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """Signals as Python has them, and a free alarm clock; the runner's come back afterwards."""
    timer = signal.setitimer(signal.ITIMER_REAL, 0)
    wanted = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGALRM: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    yield
    for number, handler in wanted.items():
        assert signal.getsignal(number) is handler, "not given back"
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    for number, former in before.items():
        signal.signal(number, former)
    signal.setitimer(signal.ITIMER_REAL, *timer)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


class Finalized:
    """Sends itself a signal when it is thrown away, where Python ignores every error."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        send(self.number)


@NUMBERS
@pytest.mark.parametrize("patience", [0.0, 3.0])
def test_a_signal_in_a_finalizer_is_not_lost(number: int, patience: float, monkeypatch) -> None:
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: ignored.append(error.exc_type))
    signals = StopSignals(patience)
    signals.catch()
    Finalized(number)
    assert len(ignored) == (0 if patience else 1)
    with pytest.raises(KeyboardInterrupt) as raised:
        signals.check()
    assert isinstance(raised.value, Terminated) == (number == signal.SIGTERM)
    signals.release()


@NUMBERS
def test_a_signal_waits_for_the_end_of_what_is_in_work(number: int) -> None:
    signals = StopSignals()
    signals.catch()
    signals.check()
    send(number)
    assert sum(range(10)) == 45  # the work goes on
    with pytest.raises(KeyboardInterrupt):
        signals.check()
    signals.release()


@NUMBERS
def test_after_its_patience_it_is_raised_anywhere(number: int) -> None:
    signals, began = StopSignals(patience=0.5), time.monotonic()
    signals.catch()
    send(number)
    with pytest.raises(KeyboardInterrupt):
        time.sleep(20)
    assert time.monotonic() - began < 10
    signals.release()


@NUMBERS
def test_a_second_one_is_raised_at_once(number: int) -> None:
    signals = StopSignals(patience=60)
    signals.catch()
    send(number)
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
    signals.release()


def test_what_the_first_one_makes_us_write_is_not_cut_off() -> None:
    signals = StopSignals(patience=0)
    signals.catch()
    with pytest.raises(Terminated):
        send(signal.SIGTERM)
    send(signal.SIGTERM)
    signals.release()


@NUMBERS
def test_one_that_comes_after_the_last_image_is_raised_at_the_end(number: int) -> None:
    signals = StopSignals()
    signals.catch()
    send(number)
    with pytest.raises(KeyboardInterrupt):
        signals.release()
    signals.release()
    signals.check()


@NUMBERS
def test_where_the_alarm_clock_is_taken_it_does_not_wait(number: int) -> None:
    signals = StopSignals(patience=60)
    mine = signal.signal(signal.SIGALRM, lambda number, frame: None)
    signals.catch()
    with pytest.raises(KeyboardInterrupt):
        send(number)
    signals.release()
    signal.signal(signal.SIGALRM, mine)


def test_signals_that_others_take_are_left_to_them() -> None:
    seen: list[int] = []
    handlers = [signal.signal(n, lambda number, frame: seen.append(number)) for n in (2, 15)]
    signals = StopSignals()
    signals.catch()
    send(signal.SIGINT)
    send(signal.SIGTERM)
    signals.check()
    signals.release()
    assert seen == [signal.SIGINT, signal.SIGTERM]
    for number, handler in zip((2, 15), handlers, strict=True):
        signal.signal(number, handler)


@NUMBERS
def test_a_forked_process_ends_as_if_nobody_had_taken_them(number: int) -> None:
    code = f"""
import os, signal, time
from monai_ifim.data.signals import StopSignals
signals = StopSignals(patience=60)
signals.catch()
child = os.fork()
if child == 0:
    try:
        os.kill(os.getpid(), {int(number)})
        time.sleep(20)
    except KeyboardInterrupt:
        os._exit(130)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
signals.check()
signals.release()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == (130 if number == signal.SIGINT else -signal.SIGTERM)
