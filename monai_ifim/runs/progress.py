"""How far a run is: a line that is drawn anew in a terminal, a line now and then elsewhere.

Not tqdm: on a pipe it, too, separates its lines by carriage returns, however it is set, so that the
log of a job is one line, which ``tail`` and ``grep`` cannot take apart. Every run would require it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from ignite.engine import Engine, Events

from monai_ifim.data.batches import images_of_batch
from monai_ifim.data.run_table.writer import TableWriter

_EVERY_TERMINAL, _EVERY_PIPE = 0.2, 30.0  # seconds between two lines
_BAR = 24
_CLEAR = "\r\x1b[K"


class Progress:
    """Shows how many images are done, how many each second, and the time that is left.

    Args:
        total: images of the run.
        stream: where to write; standard error by default.
        clock: seconds.
    """

    def __init__(
        self,
        total: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self.stream = sys.stderr if stream is None else stream
        self.terminal = self.stream.isatty()
        self._clock = clock
        self._start = clock()
        self._shown = self._start if not self.terminal else float("-inf")

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return self._clock() - self._start

    def show(self, done: int, failed: int = 0, earlier: int = 0) -> None:
        """Say how far it is, unless that was said a moment ago.

        Args:
            done: images that are through, those that failed included.
            failed: of these, images without a result.
            earlier: of these, images of an earlier run, which took none of this one's time.
        """
        now = self._clock()
        if now - self._shown < (_EVERY_TERMINAL if self.terminal else _EVERY_PIPE):
            return
        self._shown = now
        line = self.line(done, failed, earlier)
        self.stream.write(f"{_CLEAR}{line}" if self.terminal else f"{line}\n")
        self.stream.flush()

    def line(self, done: int, failed: int = 0, earlier: int = 0) -> str:
        """How far it is, in words.

        Args:
            done: images that are through, those that failed included.
            failed: of these, images without a result.
            earlier: of these, images of an earlier run.

        Returns:
            One line.
        """
        new = done - earlier
        speed = new / max(self.seconds, 1e-9)
        filled = _BAR * done // max(self.total, done, 1)
        parts = [f"{done}/{self.total} images"]
        if new > 0:
            parts += [f"{speed:.3g} images/s", f"{_in_hours((self.total - done) / speed)} left"]
        if failed:
            parts.append(f"{failed} failed")
        bar = f"[{'#' * filled}{'.' * (_BAR - filled)}] " if self.terminal else ""
        return bar + ", ".join(parts)

    def clear(self) -> None:
        """Make room for another line in a terminal."""
        if self.terminal:
            self.stream.write(_CLEAR)
            self.stream.flush()


def show_progress(engine: Engine, progress: Progress, table: TableWriter) -> None:
    """Show how far an engine is after each batch.

    Args:
        engine: with a data loader, and the handler attached.
        progress: what shows it.
        table: of the handler, which knows what there is to do.
    """
    count = 0

    def begin() -> None:
        if table.listed is not None:
            progress.total = len(table.listed) - len(
                {line["row"]["file"] for line in table.earlier.lines}
            )

    def show(engine: Engine) -> None:
        nonlocal count
        try:
            count += len(images_of_batch(engine.state.batch))
        except (TypeError, KeyError):  # a batch of another kind
            count += 1
        failed = len(getattr(engine.state.dataloader, "failures", ()))
        progress.show(count + failed, failed)

    engine.add_event_handler(Events.EPOCH_STARTED, begin)
    engine.add_event_handler(Events.ITERATION_COMPLETED, show)


def _in_hours(seconds: float) -> str:
    """As 0:59, or 1:02:05 with hours."""
    minutes, second = divmod(max(round(seconds), 0), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
