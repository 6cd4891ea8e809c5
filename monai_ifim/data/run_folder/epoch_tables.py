"""The table of each epoch of a handler that has several, as in the validations of a training."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from monai_ifim.data.atomic import complete_file
from monai_ifim.data.tables import Row, write_table


class EpochTables:
    """Writes a run's table; with a second epoch, each has a table of its own as well.

    ``ifim.csv`` is that of the last epoch, so that whatever reads a run needs to know of no others.
    A run of one epoch, or the same epoch again, has no other.

    Args:
        path: of the table.
        resume: whether tables of epochs that are there already belong to the run.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        self.path, self._kept = path, resume
        self._epoch = self._before = 0

    def begin(self, epoch: int) -> None:
        """An epoch begins.

        Args:
            epoch: its number, from 1; of a validation that of the training.
        """
        self._before = self._epoch if epoch > self._epoch else 0
        self._epoch = epoch

    @property
    def is_first(self) -> bool:
        """Whether no other epoch came before."""
        return not self._before

    def write(self, rows: Sequence[Row]) -> None:
        """Write the table of the epoch.

        Args:
            rows: one dictionary an image.

        Raises:
            OSError: it cannot be written.
        """
        self.keep(lambda: write_table(rows, self.path))

    def keep(self, write: Callable[[], None], *, copy: bool = True) -> None:
        """Write the file of the epoch.

        Args:
            write: writes it to the path of the last epoch's.
            copy: keep each epoch's beside it.

        Raises:
            OSError: it cannot be written.
        """
        if self._before and copy:
            first = epoch_table(self.path, self._before)
            if self.path.is_file() and not first.is_file():
                _copy(self.path, first)
        elif not self._kept:
            for earlier in epoch_tables(self.path):
                earlier.unlink(missing_ok=True)
        write()
        if self._before and copy:
            _copy(self.path, epoch_table(self.path, self._epoch))


def epoch_table(path: Path, epoch: int) -> Path:
    """Where the table of an epoch is.

    Args:
        path: of the table of the last one.
        epoch: its number.

    Returns:
        The path beside it.

    >>> epoch_table(Path("out/ifim.csv"), 3).name
    'ifim_epoch_0003.csv'
    """
    return path.with_name(f"{path.stem}_epoch_{epoch:04d}{path.suffix}")


def epoch_tables(path: Path) -> list[Path]:
    """The tables of epochs that there are.

    Args:
        path: of the table of the last one.

    Returns:
        Their paths, in order.
    """
    name = re.compile(rf"{re.escape(path.stem)}_epoch_(\d{{4,}}){re.escape(path.suffix)}")
    found = [(int(match[1]), p) for p in path.parent.glob("*") if (match := name.fullmatch(p.name))]
    return [each for _, each in sorted(found)]


def _copy(source: Path, target: Path) -> None:
    with complete_file(target) as partial:
        shutil.copyfile(source, partial)
