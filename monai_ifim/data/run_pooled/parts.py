"""What each session of a run has pooled, as files beside the journals.

``.ifim/pooled-<run>-<session>-<rank>.safetensors``: a start of the program, a rank or a shard has a
file of its own, because images that are done are not loaded again. Which images are in it stands in
its text, so that none counts twice.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from monai_ifim.core import PooledEigenspace
from monai_ifim.core.pooling.storage import read_texts
from monai_ifim.data.run_folder.done import Source
from monai_ifim.data.run_folder.journal import HIDDEN
from monai_ifim.messages import printable

logger = logging.getLogger(__name__)

PREFIX = "pooled-"
IMAGES = "images"  # how many there are, of those that were pooled and the others
RUN = "run"  # its name
FILE = "file"  # where the eigenspace of the whole is written
_NAMES = "names"
_SOURCES = "sources"
_CHOICES = "choices"

Names = set[tuple[str, int]]  # file, and which of the images from it


@dataclass(frozen=True)
class PartText:
    """What stands in a part beside the eigenspace.

    Attributes:
        names: the images that are in it.
        file: where the whole is to be written.
        sources: size and time of the images' files when they were pooled, by name.
        choices: how they were pooled, by name; empty where it is not known.
    """

    names: Names
    file: str
    sources: Mapping[str, Source | None]
    choices: Mapping[str, str | int]

    def texts(self) -> dict[str, str]:
        """What is written.

        Returns:
            Texts by name.
        """
        return {
            _NAMES: json.dumps(sorted(self.names)),
            FILE: self.file,
            _SOURCES: json.dumps(self.sources),
            _CHOICES: json.dumps(self.choices),
        }


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


def write_part(path: Path, space: PooledEigenspace, text: PartText) -> None:
    """Write what a session has pooled so far; the file is there when it is complete.

    Args:
        path: of the file.
        space: of the session.
        text: what is in it.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(space, about={**space.about, **text.texts()}).save(path)


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


def text_of_part(path: Path) -> PartText:
    """What stands in a part beside the eigenspace.

    Args:
        path: of the file.

    Returns:
        Its images and the rest.

    Raises:
        ValueError: not such a file.
        KeyError: one without the names of its images.
        OSError: it cannot be read.
    """
    texts = read_texts(path)
    return PartText(
        {(str(file), int(index)) for file, index in json.loads(texts[f"about.{_NAMES}"])},
        texts[f"about.{FILE}"],
        json.loads(texts.get(f"about.{_SOURCES}", "{}")),
        json.loads(texts.get(f"about.{_CHOICES}", "{}")),
    )


def current_parts(paths: Iterable[Path], sources: Mapping[str, Source | None]) -> list[Path]:
    """Leave out parts with an image whose file has been replaced since, with a warning.

    A sketch is a sum: one image of it cannot be taken back.

    Args:
        paths: of the parts.
        sources: size and time that the images' files have, or had when their results were made.

    Returns:
        The other parts.

    Raises:
        ValueError: one is not such a file.
        OSError: it cannot be read.
    """
    kept = []
    for path in paths:
        text = text_of_part(path)
        gone = [f for f, each in text.sources.items() if f in sources and sources[f] != each]
        if gone:
            logger.warning(
                "%s is left out with its %d images: %s has changed since it was pooled; to pool "
                "all images begin the run anew",
                path,
                len(text.names),
                printable(gone[0]),
            )
        else:
            kept.append(path)
    return kept


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
    own = (_NAMES, FILE, _SOURCES, _CHOICES)
    return replace(space, about={n: text for n, text in space.about.items() if n not in own})


def _with_names(paths: Iterable[Path]) -> Iterator[tuple[Path, Names]]:
    """Those with the most images first: of two that share images the larger one counts."""
    found = [(path, text_of_part(path).names) for path in paths]
    yield from sorted(found, key=lambda each: -len(each[1]))
