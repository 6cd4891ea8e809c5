"""The rows of a run so far, journalled batch by batch."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_ifim.data.loaders import Failure
from monai_ifim.data.run_folder.done import Source, volume_sizes
from monai_ifim.data.run_folder.journal import Journal, Line
from monai_ifim.data.run_table.lines import Lines
from monai_ifim.data.run_table.writer_thread import Written
from monai_ifim.data.tables import Row
from monai_ifim.messages import failed, is_failure, printable, reason

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Batch:
    """Lines of a batch that is computed, and what becomes of its images' volumes."""

    lines: list[Line]
    written: list[Written]
    is_lost: bool = False  # it could not be journalled

    @property
    def is_done(self) -> bool:
        return all(each.done() for each in self.written)

    @property
    def is_whole(self) -> bool:
        return not self.is_lost and all(map(_succeeded, self.written))


class CollectedRows:
    """Rows of a run; of each batch ``start``, ``stage``, then ``commit``.

    The volumes of a batch may be written meanwhile: its lines reach the journal when they are, in
    the order of the batches.

    Args:
        folder: of the run's results; None where nothing is journalled.

    Attributes:
        lines: of the images that are through.
        staged: of the batch in work.
        waiting: batches whose volumes are being written.
        journal: where the lines go; None for nowhere.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self.journal: Journal | None = None
        self.clear()

    def clear(self, members: Mapping[str, Sequence[str]] | None = None) -> None:
        """A run begins.

        Args:
            members: paths of all files of the images that have several, by name.
        """
        self.lines: list[Line] = []
        self.staged: list[Line] = []
        self._written: list[Written] = []  # of the batch in work
        self.waiting: deque[_Batch] = deque()
        self._made = Lines(self._folder, members)
        self._in_work: dict[str, None] = {}  # files of images that have been begun
        self._noted = 0  # failures of the loader that are among the lines
        self._tables: set[str] = set()  # that the journal names

    @property
    def images(self) -> int:
        """How many images are computed, without those that could not be loaded."""
        return len(self.lines) + sum(len(each.lines) for each in self.waiting) - self._noted

    def source(self, file: str) -> Source | None:
        """Size and time of an image's file as they are now.

        Args:
            file: of the image.

        Returns:
            Bytes and nanoseconds; None where there is no such file.
        """
        return self._made.source(file)

    def start(self, files: Sequence[str]) -> None:
        """The work on images begins.

        Args:
            files: of those that have one.
        """
        if self.journal is None or not files:
            return
        self._made.start(files)
        self._in_work |= dict.fromkeys(files)
        self.journal.start(files)

    def stage(self, rows: Sequence[Row], written: Sequence[Written] = ()) -> None:
        """Rows of a batch in work; those without a result are logged.

        Args:
            rows: one an image, with ``file`` and ``status``.
            written: what becomes of each image's volumes; until it is known, the row's status may
                change.
        """
        self.staged += [self._made.line(row) for row in rows]
        self._written += written
        if not written:
            _log_failures(self.staged)

    def add_to_staged(self, name: str, values: Sequence[Any]) -> None:
        """Something more about each image of the batch in work.

        Args:
            name: of it, in the journal.
            values: one an image; ignored where the batch has another number of images.
        """
        if len(values) == len(self.staged):
            for line, value in zip(self.staged, values, strict=True):
                line[name] = value

    def note_table(self, name: str, class_names: Sequence[str]) -> None:
        """A further table is made of what is added to the images.

        Args:
            name: of the table.
            class_names: of the predictions in it.

        Raises:
            OSError: the journal cannot be written.
        """
        if name not in self._tables and self.journal is not None:
            self._tables.add(name)
            self.journal.note_table(name, class_names)

    def commit(self, volumes: Sequence[Path] = ()) -> None:
        """The batch in work is computed: its lines go to the journal when its volumes are written.

        Args:
            volumes: further paths that the host wrote for the batch.

        Raises:
            OSError: the journal cannot be written, or the disk is full.
        """
        batch = _Batch(self.staged, self._written)
        self.staged, self._written = [], []
        if volumes and self._folder is not None:
            known = {path for each in batch.written if _succeeded(each) for path in each.result()}
            sizes = volume_sizes(self._folder, [path for path in volumes if path not in known])
            for line in batch.lines:
                line["volumes"] |= sizes
        if batch.lines:
            self.waiting.append(batch)
        self.settle(wait=False)

    def settle(self, *, wait: bool = True) -> None:
        """Batches whose volumes are written are done.

        Args:
            wait: for all of them.

        Raises:
            OSError: the journal cannot be written, or the disk is full.
        """
        while self.waiting and (wait or self.waiting[0].is_done):
            batch = self.waiting[0]
            paths = [each.result() for each in batch.written]
            self.waiting.popleft()
            try:
                self._add_written(batch.lines, paths)
            except BaseException:
                batch.is_lost = True
                self.waiting.appendleft(batch)
                raise

    def _add_written(self, lines: list[Line], paths: Sequence[Sequence[Path]]) -> None:
        if paths:
            _log_failures(lines)
        if self._folder is not None:
            for line, own in zip(lines, paths, strict=False):
                line["volumes"] |= volume_sizes(self._folder, own)
        self.add(lines)

    def abandon(self) -> list[str]:
        """The run ends early, and nothing is being written any more.

        Returns:
            Files of the images whose volumes were not written; those of other batches are done.
        """
        self.staged, self._written = [], []
        lost = [batch for batch in self.waiting if not batch.is_whole]
        self.waiting = deque(batch for batch in self.waiting if batch.is_whole)
        try:
            self.settle()
        except OSError as error:  # another one ends the run
            logger.error("the journal is not written: %s", reason(error))
        lost += self.waiting
        return [line["row"]["file"] for batch in lost for line in batch.lines]

    def note_failures(self, failures: Sequence[Failure]) -> None:
        """Images that could not be loaded.

        Args:
            failures: all of this run so far; those that are known are left out.

        Raises:
            OSError: the journal cannot be written.
        """
        lost = list(failures)[self._noted :]
        self._noted += len(lost)
        rows = [{"file": each.file, "status": failed(each.reason)} for each in lost]
        self.add([self._made.line(row) for row in rows])

    def leave(self) -> None:
        """The run ends while images are in work: they have not taken the process with them.

        Raises:
            OSError: the journal cannot be written.
        """
        if self.journal is not None and self._in_work:
            self.journal.leave(list(self._in_work))
        self._in_work = {}

    def add(self, lines: list[Line]) -> None:
        """Images are done.

        Args:
            lines: of them.

        Raises:
            OSError: the journal cannot be written.
        """
        if self.journal is not None and lines:
            self.journal.add(lines)
        for line in lines:
            self._in_work.pop(line["row"]["file"], None)
        self.lines += lines


def _succeeded(written: Written) -> bool:
    return written.done() and not written.cancelled() and written.exception() is None


def _log_failures(lines: Iterable[Line]) -> None:
    for line in lines:
        row = line["row"]
        if is_failure(row["status"]):
            logger.error("%s %s", printable(row["file"]), printable(row["status"]))
