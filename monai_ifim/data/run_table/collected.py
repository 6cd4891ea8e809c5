"""The rows of a run so far, journalled batch by batch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_ifim.data.loaders import Failure
from monai_ifim.data.run_folder.done import volume_sizes
from monai_ifim.data.run_folder.journal import Journal, Line
from monai_ifim.data.run_table.lines import Lines
from monai_ifim.data.tables import Row
from monai_ifim.messages import failed, is_failure, printable

logger = logging.getLogger(__name__)


class CollectedRows:
    """Rows of a run; of each batch ``start``, ``stage``, then ``commit``.

    Args:
        folder: of the run's results; None where nothing is journalled.

    Attributes:
        lines: of the images that are through.
        staged: of the batch in work.
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
        self._made = Lines(self._folder, members)
        self._in_work: dict[str, None] = {}  # files of images that have been begun
        self._noted = 0  # failures of the loader that are among the lines
        self._tables: set[str] = set()  # that the journal names

    @property
    def images(self) -> int:
        """How many images are through, without those that could not be loaded."""
        return len(self.lines) - self._noted

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

    def stage(self, rows: Sequence[Row], volumes: Sequence[Sequence[Path]] = ()) -> None:
        """Rows of a batch in work; those without a result are logged.

        Args:
            rows: one an image, with ``file`` and ``status``.
            volumes: paths of each image's volumes.
        """
        for i, row in enumerate(rows):
            if is_failure(row["status"]):
                logger.error("%s %s", printable(row["file"]), printable(row["status"]))
            self.staged.append(self._made.line(row, volumes[i] if i < len(volumes) else ()))

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
        """The batch in work is done: its lines go to the journal.

        Args:
            volumes: further paths that the host wrote for the batch.

        Raises:
            OSError: the journal cannot be written.
        """
        if volumes and self._folder is not None:
            sizes = volume_sizes(self._folder, volumes)
            for line in self.staged:
                line["volumes"] |= sizes
        lines, self.staged = self.staged, []
        self.add(lines)

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
