"""The table of a run: rows of all ranks, journalled image by image, also when the run fails."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from monai_ifim.data.loaders import Failure
from monai_ifim.data.run_folder.epoch_tables import EpochTables
from monai_ifim.data.run_folder.folder import RunFolder, check_writable
from monai_ifim.data.run_folder.image_list import ImageList
from monai_ifim.data.run_folder.journal import History, Line, read_history
from monai_ifim.data.run_folder.part import Part
from monai_ifim.data.run_folder.part_folder import folder_of_run
from monai_ifim.data.run_folder.record import COMPLETE, INTERRUPTED, Record
from monai_ifim.data.run_table.collected import CollectedRows
from monai_ifim.data.run_table.lines import (
    complaint,
    lines_of_cut,
    lines_of_unreached,
    table_rows,
)
from monai_ifim.data.run_table.look_back import STARTS, LookBack, look_back
from monai_ifim.data.tables import RUN, Row, check_table
from monai_ifim.distributed import Ranks
from monai_ifim.messages import failed, is_failure, reason

logger = logging.getLogger(__name__)

_ACTIVE: dict[str, TableWriter] = {}


class TableWriter(CollectedRows):
    """Collects rows during a run and writes one table for all ranks at its end.

    ``begin``, then ``look``, ``start``, ``stage`` and ``commit`` for each batch, ``last_batch``,
    ``finish``; ``rescue`` in the place of what is left when an error ends the run. Rows reach the
    journal with ``commit``. In a distributed run every rank has a writer and a journal; rank 0
    writes the table of all. When a rank fails, the others end too, at their next ``look`` or where
    they wait for it, and the table holds what all have done.

    Args:
        path: of the table; no table when None.
        resume: go on with the run that the table's folder holds.
        existing: what happens to results of another run: ``"refuse"`` or ``"move"``.
        part: of a run, where several processes share the folder; the last of them writes the table
            of all, and none where it is one of blocks.

    Attributes:
        rows: after ``finish`` or ``rescue``, those of this process's images, in their order.
        complaint: after ``finish``, what there is to complain about: images without a result.
        left_out: after ``finish``, how many images have no result.
        epochs: writes the table; None where there is none.
        earlier: after ``begin``, what earlier sessions of the run have done.

    Raises:
        ModuleNotFoundError: Parquet without pyarrow.
        ValueError: the folder cannot be written, or holds results of another run.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        resume: bool = False,
        existing: str = "refuse",
        part: Part | None = None,
    ) -> None:
        if part is not None and path is None:
            raise ValueError(
                f"expected an output_dir for {part.name}, which it shares with the others, got "
                "none; name one"
            )
        if path is not None:
            check_table(path)
        self.path = path
        super().__init__(None if path is None else path.parent)
        self.epochs = None if path is None else EpochTables(path, resume)
        self.complaint: str | None = None
        self.left_out = 0
        self.folder: RunFolder | None = None
        if path is not None:
            self.folder = folder_of_run(
                path.parent, path.name, part=part, resume=resume, existing=existing
            )
            if Ranks("table").size == 1:  # of several ranks one alone would leave the others behind
                self.folder.check()
        self.rows: list[Row] = []
        self.earlier = LookBack()
        self._listed: Sequence[str] | None = None
        self._images = ImageList(())
        self._history: History | None = None  # of earlier sessions of the run
        self._ranks: Ranks | None = None  # of the run that is under way
        self._began = self._closed = self._waited = False

    @property
    def part(self) -> Part | None:
        """Of a run that several processes do, what this one does; None for the whole."""
        return None if self.folder is None else self.folder.part

    @property
    def listed(self) -> Sequence[str] | None:
        """The images that this process does, as far as it is known."""
        return self._listed

    def begin(
        self,
        identity: Callable[[], Record],
        images: ImageList | None = None,
        own: Sequence[str] | None = None,
        plan: Callable[[], str] | None = None,
    ) -> None:
        """A run begins.

        Args:
            identity: what makes its results; called on rank 0.
            images: all of the run, None where they are not known.
            own: those of this process's part of the run; None for all.
            plan: gives the digest of the batches, for a part.

        Raises:
            ValueError: the folder of the table cannot be written, or holds results of another run.
            RuntimeError: another run is writing to it, or another rank has failed.
        """
        if self.folder is None or not self.folder.is_open:
            self._images = images or ImageList(())
        self.clear(self._images.members)
        self.rows, self.complaint = [], None
        self._listed = own if own is not None else None if images is None else images.names
        self.earlier = LookBack()
        self._began = self._closed = self._waited = False
        self._ranks = ranks = Ranks.next_run("table")
        folder = self.folder
        if folder is None:
            return
        if folder.part is not None and ranks.size > 1:
            raise ValueError(
                f"expected {folder.part.name} in a process of its own, got one of {ranks.size} "
                "ranks, which divide the images themselves; leave out one of both"
            )
        if folder.is_open:
            self._began = True
        else:
            self._join(folder, ranks, identity, images, plan)
        self._look_back(folder, self._listed or (), ranks.rank == 0)

    def _join(
        self,
        folder: RunFolder,
        ranks: Ranks,
        identity: Callable[[], Record],
        images: ImageList | None,
        plan: Callable[[], str] | None,
    ) -> None:
        folder.close()  # of a run that ended without a word
        check_writable(folder.path)
        ranks.meet("begin")
        shared = ranks.on_first(lambda: folder.begin(identity(), images, plan() if plan else ""))
        known = folder.join(shared, ranks.rank)
        self._began, self._history = True, None
        self.journal = folder.journal
        _ACTIVE[os.path.realpath(folder.path)] = self
        if known is not None and images is None:
            logger.warning("all is done again: expected a list of files, one for each image")
        elif known is not None:
            history = read_history(folder.path, but=folder.session)
            # Other parts go on meanwhile; ranks must agree on what each of them leaves out.
            if folder.part is not None or len(history.lines) == known:
                self._history = history
            else:  # rank 0 could not give rows for what this rank leaves out
                logger.warning("all is done again: this rank sees other journals than rank 0")

    @property
    def images_before(self) -> int:
        """How many images have a result by earlier sessions of the run."""
        lines = [line["row"] for line in self.earlier.lines]
        return len({row["file"] for row in lines if not is_failure(row["status"])})

    @property
    def under_way(self) -> bool:
        """Whether a run has begun that has not ended."""
        return self._ranks is not None and not self._closed

    def look(self, failures: Sequence[Failure] = ()) -> None:
        """Before each batch: see whether another rank has failed, and the folder is still there.

        Args:
            failures: images of this rank that could not be loaded so far.

        Raises:
            RuntimeError: another rank has failed.
            OSError: the folder has gone.
        """
        if self._ranks is not None:
            self._ranks.look()
        if self.folder is not None and self.folder.journal is not None:
            self.folder.journal.check()
        self.note_failures(failures)
        self.settle(wait=False)

    def numbered(self, count: int) -> list[str]:
        """Names for the next images, which have none of their own.

        Args:
            count: how many.

        Returns:
            The position in this run, and in a distributed one the rank.
        """
        ranks = self._ranks
        rank = f"rank {ranks.rank} " if ranks is not None and ranks.size > 1 else ""
        return [f"{rank}image {self.images + i}" for i in range(count)]

    def last_batch(self) -> None:
        """After the last batch: wait for the other ranks; a second call does nothing.

        To be called before anything gathers the ranks: it would wait for one that has failed.

        Raises:
            RuntimeError: another rank has failed.
        """
        if self._ranks is not None and not self._waited:
            self.settle()
            self._waited = True
            self._ranks.meet("last batch")

    def finish(self, failures: Sequence[Failure] = ()) -> None:
        """Gather the rows of all ranks, and write the table on rank 0.

        Args:
            failures: images of this rank that could not be loaded.

        Raises:
            OSError: the table cannot be written.
            RuntimeError: another rank has failed.
        """
        self.commit()
        self.settle()
        self.note_failures(failures)
        ranks = self._ranks or Ranks.next_run("table")
        ranks.meet("table")  # other handlers come between the last batch and this
        lines = ranks.gather(self.lines)
        self._closed, self._ranks = True, None
        self.left_out, self.complaint = ranks.on_first(lambda: self._conclude(lines))
        if self.folder is not None:
            self.folder.close()
        if self.complaint is not None:
            logger.error(self.complaint)

    def rescue(
        self,
        files: Sequence[str],
        error: BaseException,
        failures: Sequence[Failure] = (),
        listed: Iterable[str] = (),
    ) -> None:
        """An error ends the run: what is done so far is not lost, and the other ranks are told.

        Args:
            files: images of the batch that was under way.
            error: why the run ends.
            failures: images of this rank that could not be loaded.
            listed: all images of the data list; those that the run did not reach get rows as well,
                except in a distributed run, where other ranks may have done them.
        """
        if self._closed:
            if self.folder is not None:
                self.folder.close()
            return
        ranks = self._ranks or Ranks.next_run("table")
        self._closed, self._ranks = True, None
        unwritten = self.abandon()
        try:
            self.note_failures(failures)
            self.leave()
        except OSError as second:  # the first error is the one to raise
            logger.error("the journal is not written: %s", reason(second))
        alone = ranks.size == 1
        known = {line["row"]["file"] for line in (*self.lines, *self.earlier.lines * alone)}
        unreached = listed if alone else ()
        lines = [
            *self.lines,
            *lines_of_unreached([*unwritten, *files], unreached, known, reason(error)),
        ]
        parts = ranks.leave(lines, reason(error))
        try:
            if parts is not None and (self._began or self.folder is None):  # one writes for all
                self._save(parts, ranks, reason(error))
        except Exception as second:  # the first error is the one to raise
            logger.error("the table is not written: %s", reason(second))
        finally:
            if parts is not None:
                ranks.saved()
            if self.folder is not None:
                self.folder.close()

    def _look_back(self, folder: RunFolder, listed: Sequence[str], first: bool) -> None:
        if self._history is None:
            return
        self.earlier = earlier = look_back(self._history, folder.path, self._images, listed)
        if not first:
            return
        done = len({line["row"]["file"] for line in earlier.lines})
        if done or self.part is None:
            logger.info("resumed: %d of %d images are done", done, len(listed))
        if earlier.dropped and self.part is None:
            logger.warning(
                "%d images of the run's journals are no longer in the list", earlier.dropped
            )
        text = f"its process ended {STARTS} times while it was in work; resume to try it again"
        gone = [file for file in listed if file in earlier.refused]
        self.add([self._made.line({"file": file, "status": failed(text)}) for file in gone])

    def _conclude(self, lines: list[Line]) -> tuple[int, str | None]:
        """Write the table of all rows; what there is to complain about."""
        try:
            rows = self._write(lines)
        except Exception as error:
            if self.folder is not None:
                self.folder.end(INTERRUPTED, {}, reason(error))
            raise
        bad = [row for row in rows if is_failure(row["status"])]
        absent = None if self.folder is None else self.folder.end(COMPLETE, self._counts(rows))
        return len(bad), complaint(bad, len(rows), str(self._place)) if bad else absent

    def _save(self, parts: dict[int, list[Line]], ranks: Ranks, why: str) -> None:
        """Write the table of a run that was cut short."""
        lines = [line for part in parts.values() for line in part]
        absent = sorted(set(range(ranks.size)) - set(parts))
        who = f"rank {ranks.rank}" if ranks.size > 1 else RUN
        written = self._write(lines + lines_of_cut(who, why, absent))
        if self.folder is not None:
            self.folder.end(INTERRUPTED, self._counts(written), why)
            logger.error(
                "the table holds what is done so far; go on with resume=True (--ifim_resume true)"
            )

    @property
    def _place(self) -> Path | str:
        """Where the rows are."""
        if self.part is None:
            return self.path or "the log"
        return self.path.parent if self.path is not None else "the log"

    def _counts(self, rows: Sequence[Row]) -> dict[str, int]:
        listed = {} if self._listed is None else {"listed": len(self._listed)}
        bad = sum(is_failure(row["status"]) for row in rows)
        return {**listed, "done": len(rows) - bad, "failed": bad}

    def _write(self, lines: list[Line]) -> list[Row]:
        new = {line["row"]["file"] for line in lines}
        lines = lines + [line for line in self.earlier.lines if line["row"]["file"] not in new]
        self.rows = rows = table_rows(lines)
        if self.epochs is not None and self.part is None:
            self.epochs.write(rows)
        return rows


def active_writer(folder: Path) -> TableWriter | None:
    """The writer of the run that began last in a folder, in this process.

    Args:
        folder: of the run's results.

    Returns:
        The writer, None where there is none.
    """
    return _ACTIVE.get(os.path.realpath(folder))
