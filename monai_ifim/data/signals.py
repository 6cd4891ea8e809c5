"""Ctrl-C and SIGTERM end a run where it can end: what is done is kept, the status says it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar, NoReturn

INTERRUPTED, TERMINATED = 130, 143  # statuses of a command that a signal has ended, as shells say


class Terminated(KeyboardInterrupt):
    """The process was asked to end, by a scheduler or by ``docker stop``.

    Attributes:
        status: of the command that it ends.
    """

    status = TERMINATED


class StopSignals:
    """Keeps Ctrl-C and SIGTERM until a run is where it can end, between two batches.

    Raised wherever it arrives, the error is lost where it arrives in a finalizer, and the run goes
    on; in a constructor it leaves half of an object behind, whose finalizer then complains. A
    signal therefore waits for the next ``check``. Who asks a second time, or has waited for
    ``patience``, is answered where the run is.

    In the main thread alone, and only for signals that nobody else takes. Of runs inside each other
    (a validation in a training) the outer one keeps them, for ``check`` of any.

    Args:
        patience: seconds that a signal waits for ``check``; 0 raises it at once, and so it is where
            the system has no alarm clock (Windows) or somebody else has set it.
    """

    _keeper: ClassVar[StopSignals | None] = None

    def __init__(self, patience: float = 3.0) -> None:
        self.patience = patience
        self._forget()

    def catch(self) -> None:
        """From now on, and what came before is forgotten."""
        if not _in_main_thread():
            return
        keeper = StopSignals._keeper
        if keeper is not None and keeper._pid == os.getpid() and keeper is not self:
            return
        if keeper is not None:
            keeper._give_back()  # of a run that has not ended, or of the process this was forked by
        self._forget()
        StopSignals._keeper = self
        for number, usual in _USUAL.items():
            if signal.getsignal(number) is usual:
                self._former[number] = usual
                signal.signal(number, self._arrive)

    def check(self) -> None:
        """Here the run can end.

        Raises:
            KeyboardInterrupt: a signal has arrived since ``catch``; ``Terminated`` for SIGTERM.
        """
        keeper = _keeper_here()
        if keeper is not None and keeper._asked is not None:
            keeper._raise()

    def reason_for(self, error: BaseException) -> BaseException:
        """Why a run ends: a signal that has arrived, or else the error that was raised.

        A signal to a group of processes also ends those that load images, which is then the error.

        Args:
            error: that ends the run.

        Returns:
            The signal's error, caused by the other one, or the error.
        """
        keeper = _keeper_here()
        if keeper is None:
            return error
        keeper._stop_waiting()
        keeper._told = True
        if keeper._asked is None or isinstance(error, KeyboardInterrupt):
            return error
        stop = keeper._error()
        stop.__cause__ = error
        return stop

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A signal does not cut off what is written, and waits for ``release``; a second one does.

        Yields:
            Nothing.
        """
        keeper = _keeper_here()
        if keeper is None:
            yield
            return
        before, keeper._spared = keeper._spared, 1
        try:
            yield
        finally:
            keeper._spared = before

    @contextmanager
    def ending(self) -> Iterator[None]:
        """``writing``, and then ``release``, also when that fails.

        Yields:
            Nothing.
        """
        try:
            with self.writing():
                yield
        finally:
            self.release()

    def release(self) -> None:
        """No longer.

        Raises:
            KeyboardInterrupt: a signal has arrived that ``reason_for`` was not asked about.
        """
        if StopSignals._keeper is not self:
            return
        StopSignals._keeper = None
        self._give_back()
        if self._asked is not None and not self._told:
            self._raise()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._asked: int | None = None  # the signal's number
        self._told = self._waits = False
        self._spared = 0  # signals that do not cut off what is written
        self._former = dict[int, Any]()

    def _give_back(self) -> None:
        self._stop_waiting()
        for number, former in self._former.items():
            if signal.getsignal(number) == self._arrive:  # nobody has taken it meanwhile
                signal.signal(number, former)
        self._former = {}

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a process that was forked meanwhile
            signal.signal(number, self._former.get(number, signal.SIG_DFL))
            os.kill(os.getpid(), number)
        elif self._spared:
            self._spared -= 1
            self._note(number)
        elif self._asked is not None:  # impatient, or out of patience
            self._raise()
        else:
            self._note(number)
            if not self._wait():
                self._raise()

    def _note(self, number: int) -> None:
        """Remember the first one, of which nobody has been told yet."""
        if self._asked is None:
            self._asked, self._told = number, False

    def _wait(self) -> bool:
        """Whether the alarm clock is free, and set."""
        if not self.patience or not hasattr(signal, "setitimer"):
            return False
        taken = signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL
        if taken or any(signal.getitimer(signal.ITIMER_REAL)):
            return False
        self._waits = True  # first, because another signal may arrive before the next line
        signal.signal(signal.SIGALRM, self._arrive)
        signal.setitimer(signal.ITIMER_REAL, self.patience)
        return True

    def _stop_waiting(self) -> None:
        if self._waits:
            signal.setitimer(signal.ITIMER_REAL, 0)
            if signal.getsignal(signal.SIGALRM) == self._arrive:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
            self._waits = False

    def _raise(self) -> NoReturn:
        self._stop_waiting()
        self._told = False
        raise self._error()

    def _error(self) -> KeyboardInterrupt:
        if self._asked == signal.SIGTERM:
            return Terminated("SIGTERM, the system asked the run to end")
        return KeyboardInterrupt()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _keeper_here() -> StopSignals | None:
    """Who keeps the signals of this process, asked in its main thread."""
    keeper = StopSignals._keeper
    here = keeper is not None and keeper._pid == os.getpid() and _in_main_thread()
    return keeper if here else None


# What Python does with them where nobody has changed it.
_USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


def status_of(error: BaseException) -> int | None:
    """The status of a command that a signal has ended.

    Args:
        error: that ended the run.

    Returns:
        143 or 130; None for any other error.
    """
    if not isinstance(error, KeyboardInterrupt):
        return None
    return TERMINATED if isinstance(error, Terminated) else INTERRUPTED
