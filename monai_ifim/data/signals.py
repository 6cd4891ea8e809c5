"""SIGTERM ends a run as Ctrl-C does: what is done is kept, and the status says it."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143  # statuses of a command that a signal has ended, as shells say


class Terminated(KeyboardInterrupt):
    """The process was asked to end, by a scheduler or by ``docker stop``.

    Attributes:
        status: of the command that it ends.
    """

    status = TERMINATED


class TerminationSignal:
    """Turns SIGTERM into ``Terminated`` while a run is under way.

    In the main thread alone, and only where nobody else takes the signal.
    """

    def __init__(self) -> None:
        self._pid, self._caught = 0, False

    def catch(self) -> None:
        """From now on."""
        main = threading.current_thread() is threading.main_thread()
        if main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._pid, self._caught = os.getpid(), True
            signal.signal(signal.SIGTERM, self._end)

    def release(self) -> None:
        """No longer."""
        if self._caught:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._pid, self._caught = 0, False

    def _end(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a process that was forked meanwhile
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        # A second one must not cut off what the first one makes us write; SIGKILL still can.
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        raise Terminated("SIGTERM, the system asked the run to end")


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
