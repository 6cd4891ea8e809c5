"""The journal's lines of a run's images, and the table's rows of these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from monai_ifim.data.run_folder.done import Source, source_state, volume_sizes
from monai_ifim.data.run_folder.journal import Line
from monai_ifim.data.tables import Row
from monai_ifim.messages import failed, printable


class Lines:
    """Makes lines of rows.

    Args:
        folder: of the run's results; None where nothing is journalled.
        members: paths of all files of the images that have several, by name.
    """

    def __init__(
        self, folder: Path | None, members: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self._folder, self._members = folder, members or {}
        self._parts: Counter[str] = Counter()
        self._sources: dict[str, Source | None] = {}

    def start(self, files: Sequence[str]) -> None:
        """The work on images begins: their files are as they are now.

        Args:
            files: of the images.
        """
        self._sources.update((file, self.source(file)) for file in files)

    def line(self, row: Row, volumes: Sequence[Path] = ()) -> Line:
        """Make a line.

        Args:
            row: of an image, with ``file``.
            volumes: paths of its volumes.

        Returns:
            The line.
        """
        file = row["file"]
        part, self._parts[file] = self._parts[file], self._parts[file] + 1
        line: Line = {"row": row, "part": part}
        if self._folder is not None:
            source = self._sources.get(file) if file in self._sources else self.source(file)
            line |= {"source": source, "volumes": volume_sizes(self._folder, volumes)}
        return line

    def source(self, file: str) -> Source | None:
        """Size and time of an image's file as they are now.

        Args:
            file: of the image.

        Returns:
            Bytes and nanoseconds; None where there is no such file.
        """
        return source_state(file, self._members.get(file, ()))


def table_rows(lines: Iterable[Line]) -> list[Row]:
    """Rows of a table in their order.

    Args:
        lines: of journals.

    Returns:
        The rows by file, those of one file by their part, what concerns the whole run at the end.
    """
    ordered = sorted(lines, key=lambda line: ("whole" in line, line["row"]["file"], line["part"]))
    return [line["row"] for line in ordered]


def lines_of_unreached(
    in_work: Sequence[str], listed: Iterable[str], known: Collection[str], why: str
) -> list[Line]:
    """Lines of images that have none when the run ends early.

    Args:
        in_work: files of the batch that was under way.
        listed: files of the run.
        known: files that have a line.
        why: it ended.

    Returns:
        One line a file.
    """
    here = failed(f"the run ended here, {why}")
    behind = failed(f"not reached, the run ended before it: {why}")
    status = {file: here for file in in_work if file not in known}
    status |= {f: behind for f in listed if f not in known and f not in status}
    return [{"row": {"file": file, "status": text}, "part": 0} for file, text in status.items()]


def lines_of_cut(who: str, why: str, absent: Sequence[int]) -> list[Line]:
    """Lines that say that a table was cut short.

    Args:
        who: of the run or of which rank it is told.
        why: the run ended.
        absent: ranks that did not hand in their rows.

    Returns:
        The lines, which come at the table's end.
    """
    text = failed("the run ended here, before this rank could hand in its rows")
    rows = [{"file": f"rank {rank}", "status": text} for rank in absent]
    rows.append({"file": who, "status": failed(f"the run ended here, {why}")})
    return [{"row": row, "part": 0, "whole": True} for row in rows]


def complaint(bad: Sequence[Row], count: int, place: str) -> str:
    """What there is to complain about at the end of a run.

    Args:
        bad: rows without a result, at least one.
        count: of all rows.
        place: where they are listed.

    Returns:
        One sentence.
    """
    first = f"{printable(bad[0]['file'])}: {printable(bad[0]['status'])}"
    return (
        f"{len(bad)} of {count} images have no result; first {first}; all are listed in "
        f"{printable(place)}"
    )
