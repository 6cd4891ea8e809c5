"""Ctrl-C and SIGTERM: raised where a run can end, and never lost."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from _helpers.signals import NUMBERS, send, usual_signals
from monai_ifim.data.signals import StopSignals, Terminated


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    with usual_signals():
        yield


def caught(patience: float = 60) -> StopSignals:
    signals = StopSignals(patience)
    signals.catch()
    return signals


def end(signals: StopSignals, error: BaseException) -> None:
    assert signals.reason_for(error) is error
    signals.release()


class Finalized:
    """Sends itself a signal when it is thrown away, where Python ignores every error."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        send(self.number)


@NUMBERS
@pytest.mark.parametrize("patience", [0.0, 3.0])
@pytest.mark.parametrize("last", [False, True])
def test_a_signal_in_a_finalizer_is_not_lost(number, patience, last, monkeypatch) -> None:
    """Neither by the next ``check`` nor, after the last one, by ``release``."""
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", lambda error: ignored.append(error.exc_type))
    signals = caught(patience)
    Finalized(number)
    assert len(ignored) == (0 if patience else 1)
    with pytest.raises(KeyboardInterrupt) as raised:
        (signals.release if last else signals.check)()
    assert isinstance(raised.value, Terminated) == (number == signal.SIGTERM)
    end(signals, raised.value)


@NUMBERS
def test_after_one_that_was_lost_the_next_one_is_raised(number, monkeypatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda error: None)
    signals = caught(0)
    Finalized(number)
    with pytest.raises(KeyboardInterrupt) as raised:
        send(number)
    end(signals, raised.value)


@NUMBERS
def test_a_signal_waits_for_the_end_of_what_is_in_work(number) -> None:
    signals = caught()
    signals.check()
    send(number)
    assert sum(range(10)) == 45  # the work goes on
    with pytest.raises(KeyboardInterrupt) as raised:
        signals.check()
    end(signals, raised.value)


@NUMBERS
def test_after_its_patience_it_is_raised_anywhere(number) -> None:
    signals, began = caught(0.5), time.monotonic()
    send(number)
    with pytest.raises(KeyboardInterrupt) as raised:
        time.sleep(20)
    assert time.monotonic() - began < 10
    end(signals, raised.value)


@NUMBERS
def test_a_second_one_is_raised_at_once(number) -> None:
    signals = caught()
    send(number)
    with pytest.raises(KeyboardInterrupt) as raised:
        send(signal.SIGINT)
    end(signals, raised.value)


@NUMBERS
def test_what_the_first_one_makes_us_write_is_cut_off_by_two_more_alone(number) -> None:
    signals = caught(0)
    with pytest.raises(KeyboardInterrupt) as raised:
        send(number)
    signals.reason_for(raised.value)
    with signals.ending():
        send(number)
    signals.catch()
    with signals.writing():
        send(number)
        with pytest.raises(KeyboardInterrupt) as raised:
            send(number)
    end(signals, raised.value)


@NUMBERS
@pytest.mark.parametrize("patience", [0.0, 3.0])
def test_the_first_one_while_another_error_is_written_is_raised_afterwards(number, patience):
    signals, written = caught(patience), []
    signals.reason_for(RuntimeError("no luck"))

    def write() -> None:
        with signals.ending():
            send(number)
            written.append("table")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert written == ["table"]


@NUMBERS
def test_one_between_the_error_and_the_writing_is_raised_afterwards(number):
    signals = caught()
    signals.reason_for(RuntimeError("no luck"))
    send(number)
    with pytest.raises(KeyboardInterrupt):
        signals.release()


def test_release_comes_also_when_writing_fails() -> None:
    signals = caught()
    with pytest.raises(OSError, match="full"), signals.ending():
        raise OSError("full")


@NUMBERS
def test_one_that_comes_after_the_last_image_is_raised_at_the_end(number) -> None:
    signals = caught()
    send(number)
    with pytest.raises(KeyboardInterrupt):
        signals.release()
    signals.release()
    signals.check()


@NUMBERS
def test_a_signal_is_why_a_run_ends_that_an_error_of_its_processes_ends(number) -> None:
    """SIGTERM to a group of processes also ends those that load images."""
    signals, error = caught(), RuntimeError("DataLoader worker is killed by signal: Terminated")
    assert signals.reason_for(error) is error
    send(number)
    found = signals.reason_for(error)
    assert isinstance(found, Terminated if number == signal.SIGTERM else KeyboardInterrupt)
    assert found.__cause__ is error
    signals.release()


@NUMBERS
def test_of_runs_inside_each_other_the_outer_one_keeps_them(number) -> None:
    outer, inner = caught(), caught()
    send(number)
    with pytest.raises(KeyboardInterrupt) as raised:
        inner.check()
    inner.reason_for(raised.value)
    inner.release()
    assert signal.getsignal(number) is not signal.default_int_handler
    outer.release()


@NUMBERS
def test_a_new_run_forgets_one_that_was_never_released(number) -> None:
    signals = caught()
    send(number)
    signals.catch()
    signals.check()
    signals.release()


@NUMBERS
def test_where_the_alarm_clock_is_taken_it_does_not_wait(number) -> None:
    mine = signal.signal(signal.SIGALRM, lambda number, frame: None)
    signals = caught()
    with pytest.raises(KeyboardInterrupt) as raised:
        send(number)
    end(signals, raised.value)
    signal.signal(signal.SIGALRM, mine)


@NUMBERS
def test_without_an_alarm_clock_it_does_not_wait(number, monkeypatch) -> None:
    monkeypatch.delattr(signal, "setitimer")
    signals = caught()
    with pytest.raises(KeyboardInterrupt) as raised:
        send(number)
    end(signals, raised.value)


def test_signals_that_others_take_are_left_to_them() -> None:
    seen: list[int] = []
    handlers = [signal.signal(n, lambda number, frame: seen.append(number)) for n in (2, 15)]
    signals = caught()
    send(signal.SIGINT)
    send(signal.SIGTERM)
    signals.check()
    signals.release()
    assert seen == [signal.SIGINT, signal.SIGTERM]
    for number, handler in zip((2, 15), handlers, strict=True):
        signal.signal(number, handler)


@NUMBERS
def test_a_handler_that_was_set_during_the_run_stays(number) -> None:
    signals, seen = caught(), []
    former = signal.getsignal(number)

    def mine(number: int, frame: object) -> None:
        seen.append(number)

    signal.signal(number, mine)
    signals.release()
    assert signal.getsignal(number) is mine
    signal.signal(number, former)
    signals.catch()
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signals.release()


def test_other_threads_neither_catch_nor_raise() -> None:
    signals, raised = caught(), []

    def work() -> None:
        try:
            caught().release()
            signals.check()
        except BaseException as error:
            raised.append(error)

    send(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert raised == []
    with pytest.raises(Terminated):
        signals.release()


@NUMBERS
@pytest.mark.parametrize("own", [False, True])
def test_a_forked_process_ends_as_if_nobody_had_taken_them(number, own) -> None:
    """One that has a run of its own keeps them for that."""
    code = f"""
import os, signal, time
from monai_ifim.data.signals import StopSignals
signals = StopSignals(patience=60)
signals.catch()
child = os.fork()
if child == 0:
    try:
        if {own}:
            mine = StopSignals(patience=60)
            mine.catch()
        os.kill(os.getpid(), {int(number)})
        if {own}:
            mine.check()
        time.sleep(20)
    except KeyboardInterrupt:
        os._exit(130)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
signals.check()
signals.release()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = 130 if number == signal.SIGINT or own else -signal.SIGTERM
    assert int(done.stdout) == expected
