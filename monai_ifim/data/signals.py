"""Ctrl-C and SIGTERM end a run where it can end: what is done is kept, the status says it."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED, TERMINATED = 130, 143  # statuses of a command that a signal has ended, as shells say


class Terminated(KeyboardInterrupt):
    """The process was asked to end, by a scheduler or by ``docker stop``.

    Attributes:
        status: of the command that it ends.
    """

    status = TERMINATED


class StopSignals:
    """Keeps Ctrl-C and SIGTERM until a run is where it can end, between two images.

    Raised wherever it arrives, the error is lost where it arrives in a finalizer, and the run goes
    on; in a constructor it leaves half of an object behind, whose finalizer then complains. A
    signal therefore waits for the next ``check``. Who asks a second time, or has waited for
    ``patience``, is answered where the run is.

    In the main thread alone, and only for signals that nobody else takes.

    Args:
        patience: seconds that a signal waits for ``check``; 0 raises it at once.
    """

    def __init__(self, patience: float = 3.0) -> None:
        self.patience = patience
        self._forget()

    def catch(self) -> None:
        """From now on."""
        if threading.current_thread() is not threading.main_thread() or self._former:
            return
        self._forget()
        for number, usual in _USUAL.items():
            if signal.getsignal(number) is usual:
                self._former[number] = usual
                signal.signal(number, self._arrive)

    def check(self) -> None:
        """Here the run can end.

        Raises:
            KeyboardInterrupt: a signal has arrived since ``catch``; ``Terminated`` for SIGTERM.
        """
        if self._asked is not None:
            self._raise()

    def release(self) -> None:
        """No longer.

        Raises:
            KeyboardInterrupt: a signal has arrived, and the run has ended before it was raised.
        """
        self._stop_waiting()
        for number, former in self._former.items():
            signal.signal(number, former)
        lost = self._asked is not None and not self._raised
        try:
            if lost:
                self._raise()
        finally:
            self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._asked: int | None = None
        self._raised = self._waits = False
        self._former = dict[int, Any]()

    def _arrive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a process that was forked meanwhile
            signal.signal(number, self._former.get(number, signal.SIG_DFL))
            os.kill(os.getpid(), number)
        elif self._raised and self._asked == signal.SIGTERM:
            return  # a second one must not cut off what the first one makes us write
        elif self._asked is not None:  # impatient, or out of patience
            self._raise()
        else:
            self._asked = number
            if not self._wait():
                self._raise()

    def _wait(self) -> bool:
        """Whether the alarm clock is free, and set."""
        if not self.patience or not hasattr(signal, "setitimer"):
            return False
        taken = signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL
        if taken or any(signal.getitimer(signal.ITIMER_REAL)):
            return False
        signal.signal(signal.SIGALRM, self._arrive)
        signal.setitimer(signal.ITIMER_REAL, self.patience)
        self._waits = True
        return True

    def _stop_waiting(self) -> None:
        if self._waits:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            self._waits = False

    def _raise(self) -> NoReturn:
        self._stop_waiting()
        self._raised = True
        if self._asked == signal.SIGTERM:
            raise Terminated("SIGTERM, the system asked the run to end")
        raise KeyboardInterrupt


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
