"""What each session of a run has pooled, as files beside the journals.

``.ifim/pooled-<run>-<session>-<rank>.safetensors``: a start of the program, a rank or a shard has a
file of its own, because images that are done are not loaded again. Which images are in it stands in
its text, so that none counts twice.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from monai_ifim.core import PooledEigenspace
from monai_ifim.core.pooling.storage import read_texts
from monai_ifim.data.run_folder.journal import HIDDEN

PREFIX = "pooled-"
IMAGES = "images"  # how many there are, of those that were pooled and the others
FILE = "file"  # where the eigenspace of the whole is written
_NAMES = "names"

Names = set[tuple[str, int]]  # file, and which of the images from it


def part_of_session(folder: Path, run: str, session: str, rank: int) -> Path:
    """Where a session leaves what it has pooled.

    Args:
        folder: of the run's results.
        run: name of the run.
        session: name of this start of it.
        rank: of the process.

    Returns:
        The path.
    """
    return folder / HIDDEN / f"{PREFIX}{run}-{session}-{rank}.safetensors"


def write_part(path: Path, space: PooledEigenspace, names: Names, file: str) -> None:
    """Write what a session has pooled so far; the file is there when it is complete.

    Args:
        path: of the file.
        space: of the session.
        names: the images that are in it.
        file: where the whole is to be written.

    Raises:
        OSError: it cannot be written.
    """
    texts = {_NAMES: json.dumps(sorted(names)), FILE: file}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(space, about={**space.about, **texts}).save(path)


def parts_of_run(folder: Path, run: str, but: str = "") -> list[Path]:
    """What the sessions of a run have left.

    Args:
        folder: of the run's results.
        run: name of the run.
        but: name of a session to leave out.

    Returns:
        Paths, in the order of their names.
    """
    found = sorted((folder / HIDDEN).glob(f"{PREFIX}{run}-*.safetensors"))
    return [path for path in found if not but or f"-{but}-" not in path.name]


def remove_parts(folder: Path, run: str) -> None:
    """Remove what other runs have left, and files that a killed process has not finished.

    Args:
        folder: of the run's results.
        run: name of the run, whose parts stay.
    """
    for path in (folder / HIDDEN).glob(f"{PREFIX}*.safetensors"):
        if not path.name.startswith(f"{PREFIX}{run}-"):
            path.unlink(missing_ok=True)
    for path in (folder / HIDDEN).glob(f".{PREFIX}*.partial"):
        path.unlink(missing_ok=True)


def names_of_part(path: Path) -> Names:
    """Which images are in a part.

    Args:
        path: of the file.

    Returns:
        Their files, and which of the images from them.

    Raises:
        ValueError: not such a file.
        OSError: it cannot be read.
    """
    texts = read_texts(path)
    return {(str(file), int(index)) for file, index in json.loads(texts[f"about.{_NAMES}"])}


def file_of_part(path: Path) -> str:
    """Where the whole is to be written.

    Args:
        path: of a part.

    Returns:
        A name in the run's folder, or a path.

    Raises:
        ValueError: not such a file.
        OSError: it cannot be read.
    """
    return read_texts(path)[f"about.{FILE}"]


def joined_parts(
    paths: Iterable[Path], first: PooledEigenspace | None, names: Collection[tuple[str, int]]
) -> tuple[PooledEigenspace | None, Names, list[Path]]:
    """Merge what sessions have left, one file at a time.

    Args:
        paths: of the parts.
        first: what is there already; None for nothing.
        names: images that are in it.

    Returns:
        The eigenspace of all, None where there is none; its images; and the parts that were left
        out, because some of their images are in it already.

    Raises:
        ValueError: the parts were pooled in other ways, or from images of another shape.
        OSError: one cannot be read.
    """
    known, twice = set(names), []
    for path, own in _with_names(paths):
        if known & own:
            twice.append(path)
            continue
        known |= own
        one = without_names(PooledEigenspace.load(path))
        first = one if first is None else first.merged(one)
    return first, known, twice


def without_names(space: PooledEigenspace) -> PooledEigenspace:
    """The same without the names of its images, for a file that goes to others.

    Args:
        space: of a part.

    Returns:
        A copy.
    """
    kept = {name: text for name, text in space.about.items() if name not in (_NAMES, FILE)}
    return replace(space, about=kept)


def _with_names(paths: Iterable[Path]) -> Iterator[tuple[Path, Names]]:
    """Those with the most images first: of two that share images the larger one counts."""
    found = [(path, names_of_part(path)) for path in paths]
    yield from sorted(found, key=lambda each: -len(each[1]))
