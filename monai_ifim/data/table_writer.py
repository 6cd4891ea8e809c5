"""The table of a run: rows of all ranks, also when the run fails."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from monai_ifim.data.loaders import Failure
from monai_ifim.data.tables import Row, check_table, write_table
from monai_ifim.distributed import Ranks
from monai_ifim.messages import failed, is_failure, printable, reason

logger = logging.getLogger(__name__)


class TableWriter:
    """Collects rows during a run and writes one table for all ranks at its end.

    ``begin``, then ``look`` and ``add`` for each batch, ``last_batch``, ``finish``; ``rescue`` in
    the place of what is left when an error ends the run. In a distributed run every rank has a
    writer; rank 0 writes the table of all. When a rank fails, the others end too, at their next
    ``look`` or where they wait for it, and the table holds what all have done.

    Args:
        path: of the table; no table when None.

    Attributes:
        complaint: after ``finish``, what there is to complain about: images without a result.

    Raises:
        ModuleNotFoundError: Parquet without pyarrow.
    """

    def __init__(self, path: Path | None) -> None:
        if path is not None:
            check_table(path)
        self.path = path
        self.complaint: str | None = None
        self._rows: list[Row] = []
        self._ranks: Ranks | None = None  # of the run that is under way
        self._closed = False
        self._waited = False

    def begin(self) -> None:
        """A run begins.

        Raises:
            ValueError: the folder of the table cannot be made.
        """
        self._rows, self.complaint = [], None
        self._closed = self._waited = False
        self._ranks = Ranks.next_run("table")
        if self.path is not None:  # now, not when all the work is done
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(
                    f"expected an output folder that can be written, got {self.path.parent} "
                    f"({error}); choose another output_dir"
                ) from error

    def look(self) -> None:
        """Before each batch: see whether another rank has failed.

        Raises:
            RuntimeError: it has.
        """
        if self._ranks is not None:
            self._ranks.look()

    def numbered(self, count: int) -> list[str]:
        """Names for the next images, which have none of their own.

        Args:
            count: how many.

        Returns:
            The position in this run, and in a distributed one the rank.
        """
        ranks = self._ranks
        rank = f"rank {ranks.rank} " if ranks is not None and ranks.size > 1 else ""
        return [f"{rank}image {len(self._rows) + i}" for i in range(count)]

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows; those without a result are logged.

        Args:
            rows: one an image, with ``file`` and ``status``.
        """
        for row in rows:
            if is_failure(row["status"]):
                logger.error("%s %s", printable(row["file"]), printable(row["status"]))
            self._rows.append(row)

    def last_batch(self) -> None:
        """After the last batch: wait for the other ranks; a second call does nothing.

        To be called before anything gathers the ranks: it would wait for one that has failed.

        Raises:
            RuntimeError: another rank has failed.
        """
        if self._ranks is not None and not self._waited:
            self._waited = True
            self._ranks.meet("last batch")

    def finish(self, failures: Iterable[Failure] = ()) -> None:
        """Gather the rows of all ranks, and write the table on rank 0.

        Args:
            failures: images of this rank that could not be loaded.

        Raises:
            OSError: the table cannot be written.
            RuntimeError: another rank has failed.
        """
        rows = self._rows + [{"file": f.file, "status": failed(f.reason)} for f in failures]
        ranks = self._ranks or Ranks.next_run("table")
        ranks.meet("table")  # other handlers come between the last batch and this
        rows = ranks.gather(rows)
        self._closed, self._ranks = True, None
        self.complaint = ranks.on_first(lambda: self._conclude(rows))
        if self.complaint is not None:
            logger.error(self.complaint)

    def rescue(
        self,
        files: Sequence[str],
        error: BaseException,
        failures: Iterable[Failure] = (),
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
            return
        ranks = self._ranks or Ranks.next_run("table")
        self._closed, self._ranks = True, None
        text = failed(f"the run ended here, {reason(error)}")
        done = {row["file"] for row in self._rows}
        ended = [{"file": file, "status": text} for file in files if file not in done]
        rest = [{"file": f.file, "status": failed(f.reason)} for f in failures]
        if ranks.size == 1:
            done |= {row["file"] for row in ended + rest}
            missed = failed(f"not reached, the run ended before it: {reason(error)}")
            rest += [{"file": file, "status": missed} for file in listed if file not in done]
        parts = ranks.leave(self._rows + ended + rest, reason(error))
        if parts is None:  # one rank writes for all
            return
        rows = [row for part in parts.values() for row in part]
        if ranks.size > 1 and not ended:
            rows.append({"file": f"rank {ranks.rank}", "status": text})
        text = failed("the run ended here, before this rank could hand in its rows")
        absent = set(range(ranks.size)) - set(parts)
        rows += [{"file": f"rank {rank}", "status": text} for rank in absent]
        try:
            self._write(rows)
        except OSError as second:  # the first error is the one to raise
            logger.error("the table is not written: %s", reason(second))
        finally:
            ranks.saved()

    def _conclude(self, rows: list[Row]) -> str | None:
        """Write the table of all rows; what there is to complain about."""
        rows = self._write(rows)
        bad = [row for row in rows if is_failure(row["status"])]
        if not bad:
            return None
        return (
            f"{len(bad)} of {len(rows)} images have no result; first "
            f"{printable(bad[0]['file'])}: {printable(bad[0]['status'])}; all are listed in "
            f"{printable(str(self.path or 'the log'))}"
        )

    def _write(self, rows: list[Row]) -> list[Row]:
        rows = sorted(rows, key=lambda row: row["file"])
        if self.path is not None:
            write_table(rows, self.path)
        return rows
