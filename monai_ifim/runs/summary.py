"""What a run over files came to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from monai_ifim.data.table_writer import RUN
from monai_ifim.data.tables import read_table
from monai_ifim.messages import RESEARCH_ONLY, failed, is_failure, printable
from monai_ifim.runs.images import FoundImages

_NOT_REACHED = "not reached, "  # begins the reason of an image behind the one that ended the run
_NAMED = 10  # images without a result that are named


@dataclass(frozen=True)
class RunSummary:
    """What a run over files came to.

    Attributes:
        found: images.
        done: images with a result.
        failed: images without one, with the reason of each; those that were not reached when the
            run ended early are in neither.
        table: the table with a row for each image.
        written: whether this run wrote rows to it.
        left_out: one line on files that were found and not taken; may be empty.
        notes: what was done, a line each: network, preprocessing, likelihood.
        seconds: that the run took.
        error: why the run ended before its end; empty where it did not.
    """

    found: int
    done: int
    failed: dict[str, str]
    table: Path
    written: bool
    left_out: str = ""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str = ""

    @property
    def complete(self) -> bool:
        """Whether every image has a result, and nothing ended the run."""
        return self.found == self.done and not self.failed and not self.error

    def __str__(self) -> str:
        rest = self.found - self.done - len(self.failed)
        speed = f", {self.done / self.seconds:.3g} images/s" if self.done and self.seconds else ""
        counts = f"{self.found} images found, {self.done} done, {len(self.failed)} failed"
        if rest > 0:
            counts += f", {rest} not reached"
        lines = [*self.notes, f"{counts} ({self.seconds:.1f} s{speed})"]
        if self.error:
            lines.append(f"the run ended early: {self.error}")
        named = list(self.failed.items())[:_NAMED]
        lines += [f"  failed: {file}: {why}" for file, why in named]
        if len(self.failed) > _NAMED:
            lines.append(f"  and {len(self.failed) - _NAMED} more: see the table")
        if self.left_out:
            lines.append(f"not images: {self.left_out}")
        if self.written:
            volumes = os.path.join(self.table.parent, "*_ifim_*.nii.gz")
            lines.append(f"results: {self.table}{f' and {volumes}' if self.done else ''}")
        else:
            lines.append("results: none")
        return "\n".join(printable(line) for line in [*lines, RESEARCH_ONLY])


class TableOfRun:
    """The table that a run is about to write; that of an earlier run does not count.

    Args:
        path: of the table.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before = self._stamp()

    def summary(
        self, images: FoundImages, notes: tuple[str, ...], seconds: float, error: str
    ) -> RunSummary:
        """What the run came to, by its table.

        Args:
            images: of the run.
            notes: what was done, a line each.
            seconds: that the run took.
            error: why it ended early; empty where it did not.

        Returns:
            The summary. An image of several rows (slices, time points) has a result where all of
            them have one.
        """
        fresh = self._stamp() not in (None, self._before)
        rows = read_table(self.path) if fresh else []
        rows = [row for row in rows if row["file"] != RUN]  # why it ended is in the error
        bad = {
            str(row["file"]): str(row["status"]).removeprefix(failed("")).strip()
            for row in rows
            if is_failure(str(row["status"]))
        }
        done = len({str(row["file"]) for row in rows} - set(bad))
        # The error that ended the run is told once, not for each image behind it.
        own = {file: why for file, why in bad.items() if not why.startswith(_NOT_REACHED)}
        return RunSummary(
            len(images), done, own, self.path, bool(rows), images.left_out, notes, seconds, error
        )

    def _stamp(self) -> tuple[int, int] | None:
        if not self.path.is_file():
            return None
        stat = self.path.stat()
        return stat.st_ino, stat.st_mtime_ns
