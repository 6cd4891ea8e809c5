"""Which images of a folder's journals are done, so that they need not be done again."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from monai_ifim.data.run_folder.image_list import ImageList
from monai_ifim.data.run_folder.journal import History, Line
from monai_ifim.messages import is_failure

Source = list[int]


def source_state(file: str, members: Sequence[str] = ()) -> Source | None:
    """Size and time of an image's file, to see whether it is still the same.

    Args:
        file: its path, or that of a DICOM series' folder.
        members: paths of all files of an image that has several.

    Returns:
        Bytes and nanoseconds, of a folder the sum of the former and the last of the latter; None
        where there is no such file.
    """
    try:
        if members:
            return _sum([os.stat(path) for path in members])
        state = os.stat(file)
        if not os.path.isdir(file):
            return [state.st_size, state.st_mtime_ns]
        with os.scandir(file) as entries:
            states = [entry.stat() for entry in entries]
    except (OSError, ValueError):
        return None
    return _sum(states)


def _sum(states: Sequence[os.stat_result]) -> Source:
    times = [each.st_mtime_ns for each in states]
    return [sum(each.st_size for each in states), max(times, default=0)]


def volume_sizes(folder: Path, paths: Collection[Path]) -> dict[str, int]:
    """Sizes of an image's volumes, by their paths.

    Args:
        folder: of the run's results; volumes below it are named from there, so that it can move.
        paths: of the volumes.

    Returns:
        Bytes of each.
    """
    return {_from(folder, path): os.stat(path).st_size for path in paths}


class Done:
    """The files that are done: each with a result, its source and its volumes as they were.

    Args:
        history: what the journals hold.
        folder: of the run's results.
        images: of the run. Files that the list holds more than once are done again, because their
            results get their numbers in the order of the work.
    """

    def __init__(self, history: History, folder: Path, images: ImageList) -> None:
        self._history, self._folder, self._images = history, folder, images
        self._repeated = images.repeated()
        self._known: dict[str, bool] = {}

    def __contains__(self, file: object) -> bool:
        if not isinstance(file, str) or file not in self._history.lines or file in self._repeated:
            return False
        if file not in self._known:
            self._known[file] = all(map(self._holds, self._history.lines[file]))
        return self._known[file]

    def _source(self, file: str) -> Source | None:
        return source_state(file, self._images.members.get(file, ()))

    def _holds(self, line: Line) -> bool:
        row = line["row"]
        return (
            not is_failure(row["status"])
            and line.get("source") == self._source(row["file"])
            and missing_volume(self._folder, line) is None
        )


def missing_volume(folder: Path, line: Line) -> str | None:
    """A volume of an image that is no longer what was written.

    Args:
        folder: of the run's results.
        line: of the image.

    Returns:
        Its path in the journal; None where all are there with their size.
    """
    volumes: dict[str, Any] = line.get("volumes", {})
    for name, size in volumes.items():
        try:
            if os.stat(os.path.join(folder, name)).st_size != size:
                return name
        except OSError:
            return name
    return None


def _from(folder: Path, path: Path) -> str:
    whole, top = os.path.abspath(path), os.path.abspath(folder)
    inside = os.path.commonpath([whole, top]) == top
    return os.path.relpath(whole, top) if inside else whole
