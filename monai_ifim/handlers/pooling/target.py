"""The file of a run's pooled eigenspace, and what it must not replace."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from monai_ifim.core import PooledEigenspace
from monai_ifim.data.run_folder.epoch_tables import EpochTables, epoch_tables
from monai_ifim.data.run_folder.folder import check_writable
from monai_ifim.data.run_pooled.files import nifti_beside, note_files, run_of_whole, write_whole
from monai_ifim.data.run_table.writer import TableWriter

logger = logging.getLogger(__name__)

# Files outside of the run's folder that this process writes, and the folders of their runs.
_CLAIMED: dict[str, str] = {}


class Target:
    """Where a pooled eigenspace is written.

    Args:
        path: of the last epoch's file.
        table: of the run.
        read: files that are read, and must stay.

    Attributes:
        path: the same.
        epochs: keeps a file of each epoch.

    Raises:
        ValueError: the file is one that is read, there is another one outside of the run's folder,
            or its folder cannot be written.
    """

    def __init__(self, path: Path, table: TableWriter, read: Iterable[Path] = ()) -> None:
        self.path, self._table = path, table
        resume = table.folder is not None and table.folder.resume
        self.epochs = EpochTables(path, resume)
        for other in read:
            own = [path, *epoch_tables(path)]
            if os.path.realpath(other) in map(os.path.realpath, own):
                raise ValueError(
                    f"expected a file for the pooled eigenspace beside {other}, which is read, got "
                    f"{path}, which would replace it; choose another filename"
                )
        if table.path is None:
            check_writable(path.parent)
        if not resume:  # while nothing is begun
            self._check("")

    def begin(self, epoch: int) -> None:
        """An epoch begins.

        Args:
            epoch: its number.

        Raises:
            ValueError: there is a file outside of the run's folder that the run has not written.
        """
        self.epochs.begin(epoch)
        if self.epochs.is_first:
            folder = self._table.folder
            self._check("" if folder is None else folder.run)
            if not self._is_inside:
                _CLAIMED[os.path.realpath(self.path)] = self._owner

    def write(self, space: PooledEigenspace, *, copy: bool) -> str:
        """Write the file of an epoch.

        Args:
            space: of the epoch.
            copy: keep each epoch's.

        Returns:
            What there is now, in one line.

        Raises:
            OSError: it cannot be written.
        """
        told: list[str] = []
        self.epochs.keep(lambda: told.append(write_whole(space, self.path)), copy=copy)
        if self._table.path is not None:
            note_files(self.path, self._table.path)
        return told[0]

    @property
    def _owner(self) -> str:
        table = self._table.path
        return "" if table is None else os.path.realpath(table.parent)

    @property
    def _is_inside(self) -> bool:
        """Whether it is in the run's folder, whose other results are seen to there."""
        return self._owner == os.path.realpath(self.path.parent)

    def _check(self, run: str) -> None:
        if self._is_inside:
            return
        files = [self.path, nifti_beside(self.path), *epoch_tables(self.path)]
        found = [file for file in files if file.exists()]
        if not found:
            return
        if _CLAIMED.get(os.path.realpath(self.path)) == self._owner:
            logger.warning("%s of an earlier run of this process is replaced", found[0])
        elif not run or run_of_whole(self.path) != run:
            raise ValueError(
                f"expected no file of others for the pooled eigenspace, got {found[0]}, which this "
                "run has not written; choose another filename, or move that file"
            )
