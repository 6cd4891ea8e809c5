"""What a run over files came to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from monai_ifim.core import pooled_note
from monai_ifim.data.run_folder.merge import missing_parts
from monai_ifim.data.run_folder.record import read_record
from monai_ifim.data.run_table.writer import TableWriter
from monai_ifim.data.tables import RUN, Row
from monai_ifim.handlers import IFIMHandler
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
        part: which part of all images these are; empty for all.
        whole: what all parts came to, where this was the last one; else empty.
        incomplete: why the whole is not complete although all parts have ended, and why something
            else that was asked for is not there; else empty.
        earlier: of the images with a result, those that earlier runs of the folder did.
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
    part: str = ""
    whole: str = ""
    incomplete: str = ""
    earlier: int = 0

    @property
    def complete(self) -> bool:
        """Whether every image has a result, and nothing ended the run."""
        ended = not self.error and not self.incomplete
        return self.found == self.done and not self.failed and ended

    def __str__(self) -> str:
        rest = self.found - self.done - len(self.failed)
        new = self.done - self.earlier
        speed = f", {new / self.seconds:.3g} images/s" if new > 0 and self.seconds else ""
        before = f" ({self.earlier} of them before)" if self.earlier else ""
        counts = f"{self.found} images found, {self.done} done{before}, {len(self.failed)} failed"
        if rest > 0:
            counts += f", {rest} not reached"
        if self.part:
            counts = f"{self.part}: {counts}"
        lines = [*self.notes, f"{counts} ({self.seconds:.1f} s{speed})"]
        if self.error:
            lines.append(f"the run ended early: {self.error}")
        named = list(self.failed.items())[:_NAMED]
        lines += [f"  failed: {file}: {why}" for file, why in named]
        if len(self.failed) > _NAMED:
            lines.append(f"  and {len(self.failed) - _NAMED} more: see the table")
        if self.left_out:
            lines.append(f"not images: {self.left_out}")
        lines += [line for line in (self.whole, self.incomplete) if line]
        lines.append(f"results: {self._results()}")
        return "\n".join(printable(line) for line in [*lines, RESEARCH_ONLY])

    def _results(self) -> str:
        volumes = os.path.join(self.table.parent, "*_ifim_*.nii.gz")
        if self.written:
            return f"{self.table}{f' and {volumes}' if self.done else ''}"
        if self.part and self.done:
            return (
                f"{volumes}; {self.table.name} when the last shard has ended, or with monai-ifim "
                f"merge {self.table.parent}"
            )
        return "none"


def component_notes(handler: IFIMHandler) -> tuple[str, ...]:
    """What is to be said of the components, and of what else the run has computed.

    Args:
        handler: of the run.

    Returns:
        A line where they are taken in a pooled eigenspace, and one where the images were pooled.
    """
    within = (f"components: {text}" for text in pooled_note(handler.space).values())
    return (*within, *(each.note for each in handler.observers if each.note))


def summary_of(
    writer: TableWriter,
    images: FoundImages,
    notes: tuple[str, ...],
    seconds: float,
    error: str,
) -> RunSummary:
    """What a run came to, by its rows.

    Args:
        writer: of the run's table.
        images: of the run.
        notes: what was done, a line each.
        seconds: that the run took.
        error: why it ended early; empty where it did not.

    Returns:
        The summary. An image of several rows (slices, time points) has a result where all of them
        have one.
    """
    part, table = writer.part, writer.path or Path()
    summary = summary_of_rows(writer.rows, images, table, notes=notes, seconds=seconds, error=error)
    summary = replace(summary, earlier=writer.images_before)
    if part is None:
        return summary
    found = len(images) if writer.listed is None else len(writer.listed)
    name = f"{part.name} of {len(images)} images"
    record = read_record(table.parent) or {}
    if missing_parts(record) or not table.is_file():
        return replace(summary, found=found, part=name, written=False)
    whole = record.get("images", {})
    told = f"all shards: {whole.get('done', 0)} done, {whole.get('failed', 0)} failed"
    return replace(
        summary,
        found=found,
        part=name,
        written=True,
        whole=told,
        incomplete=record.get("reason") or "",
    )


def summary_of_rows(
    rows: Sequence[Row],
    images: FoundImages,
    table: Path,
    *,
    notes: tuple[str, ...],
    seconds: float,
    error: str,
) -> RunSummary:
    """What a run came to, by rows.

    Args:
        rows: of the table.
        images: of the run.
        table: the table.
        notes: what was done, a line each.
        seconds: that the run took.
        error: why it ended early; empty where it did not.

    Returns:
        The summary.
    """
    rows = [row for row in rows if row["file"] != RUN]  # why it ended is in the error
    bad = {
        str(row["file"]): str(row["status"]).removeprefix(failed("")).strip()
        for row in rows
        if is_failure(str(row["status"]))
    }
    done = len({str(row["file"]) for row in rows} - set(bad))
    # The error that ended the run is told once, not for each image behind it.
    own = {file: why for file, why in bad.items() if not why.startswith(_NOT_REACHED)}
    written = bool(rows) and table.is_file()
    return RunSummary(
        len(images), done, own, table, written, images.left_out, notes, seconds, error
    )
