"""What earlier sessions of a run have come to with the images that are to be done."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_ifim.data.run_folder.done import Done
from monai_ifim.data.run_folder.image_list import ImageList
from monai_ifim.data.run_folder.journal import History, Line

STARTS = 3  # times that an image may take its process with it


@dataclass(frozen=True)
class LookBack:
    """What earlier sessions have come to.

    Attributes:
        done: files that need not be done again.
        refused: files whose process ended too often.
        alone: files that were in work when a process ended, more than once.
        lines: of the listed files that are done.
        dropped: how many files the journals hold that are no longer listed.
    """

    done: Container[str] = ()
    refused: Collection[str] = ()
    alone: Collection[str] = ()
    lines: tuple[Line, ...] = ()
    dropped: int = 0


def look_back(history: History, folder: Path, images: ImageList, listed: Sequence[str]) -> LookBack:
    """See what is done of a list.

    Args:
        history: what the journals hold.
        folder: of the run's results.
        images: of the whole run.
        listed: files to be done.

    Returns:
        What there is.
    """
    twice, done = images.repeated(), Done(history, folder, images)
    starts = {f: n for f, n in history.starts.items() if f not in twice and f not in done}
    kept = [file for file in dict.fromkeys(listed) if file in done]
    return LookBack(
        done,
        {file for file, count in starts.items() if count >= STARTS},
        {file for file, count in starts.items() if count == STARTS - 1},
        tuple(line for file in kept for line in history.lines[file]),
        len(set(history.lines) - set(listed)),
    )
