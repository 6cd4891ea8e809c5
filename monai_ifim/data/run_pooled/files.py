"""The files of a pooled eigenspace: of the whole, of each epoch, and on the images' grid."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from monai_ifim.core import PooledEigenspace
from monai_ifim.core.pooling.storage import read_texts
from monai_ifim.data.run_folder.done import Source
from monai_ifim.data.run_folder.folder import add_table
from monai_ifim.data.run_folder.journal import read_history
from monai_ifim.data.run_pooled.grid import write_eigenvectors
from monai_ifim.data.run_pooled.parts import (
    IMAGES,
    RUN,
    current_parts,
    joined_parts,
    parts_of_run,
    text_of_part,
    without_names,
)
from monai_ifim.messages import printable, reason

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Count:
    """How many images there are, and how many are pooled.

    Attributes:
        pooled: of them.
        images: all that the run has.
    """

    pooled: int
    images: int

    def __str__(self) -> str:
        return f"{self.pooled} of {self.images} images"


def nifti_beside(path: Path) -> Path:
    """Where the eigenvectors on the images' grid are.

    Args:
        path: of the pooled eigenspace.

    Returns:
        The path beside it.

    >>> nifti_beside(Path("out/ifim_pooled.safetensors")).name
    'ifim_pooled.nii.gz'
    """
    return path.with_name(f"{path.stem}.nii.gz")


def with_count(space: PooledEigenspace, images: int) -> PooledEigenspace:
    """The same with the number of images that it could have been pooled from.

    Args:
        space: pooled.
        images: of the run, failed ones included.

    Returns:
        A copy.
    """
    count = str(max(images, space.count))
    return replace(without_names(space), about={**without_names(space).about, IMAGES: count})


def check_pooled(space: PooledEigenspace | None) -> PooledEigenspace:
    """Refuse what is no pooled eigenspace yet.

    Args:
        space: of a run; None where nothing was pooled.

    Returns:
        The same.

    Raises:
        ValueError: fewer than two images.
    """
    count = 0 if space is None else space.count
    if space is None or count < 2:
        raise ValueError(
            f"expected at least two images with a direction, whose halves can be compared, got "
            f"{count}; for one image look at its own eigenspace"
        )
    return space


def write_whole(space: PooledEigenspace, path: Path) -> str:
    """Write a pooled eigenspace, with its eigenvectors as NIfTI where the images share a grid.

    Args:
        space: with its count of images.
        path: of the file; that of the eigenvectors lies beside it.

    Returns:
        What there is now, in one line.

    Raises:
        OSError: a file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    space.save(path)
    count = Count(space.count, int(space.about.get(IMAGES, space.count)))
    logger.info("%s pooled in %s", count, path)
    if count.pooled < count.images:
        logger.warning(
            "the pooled eigenspace %s is that of %s: the others have no result or no direction, or "
            "were done when nothing was pooled",
            path,
            count,
        )
    why = write_eigenvectors(space, nifti_beside(path))
    if why is None:
        return f"{count} in {path}, and {nifti_beside(path).name}"
    nifti_beside(path).unlink(missing_ok=True)  # of an earlier epoch, or run
    logger.info("no eigenvectors of %s as NIfTI: %s", path, why)
    return f"{count} in {path}; no eigenvectors as NIfTI: {why}"


def run_of_whole(path: Path) -> str | None:
    """The name of the run that has written a pooled eigenspace.

    Args:
        path: of the file.

    Returns:
        The name; None where it is not known, or this is no such file.
    """
    try:
        return read_texts(path).get(f"about.{RUN}")
    except (OSError, ValueError):
        return None


def remove_whole(path: Path, folder: Path) -> None:
    """Remove the pooled eigenspace of a run that is begun anew, lest it pass for the new one's.

    Args:
        path: of the pooled eigenspace.
        folder: of the run; a file elsewhere stays until there is a new one.
    """
    if path.parent.resolve() == folder.resolve():
        path.unlink(missing_ok=True)
        nifti_beside(path).unlink(missing_ok=True)


def merge_parts(folders: Sequence[tuple[Path, str]], table: Path, images: int) -> list[str]:
    """Write the pooled eigenspace of shards or runs, from what their sessions have left.

    An error is a line in the log: the table does not depend on it.

    Args:
        folders: of results, each with the name of its run.
        table: path of the table that is made of them; the pooled eigenspace lies beside it.
        images: in all of them.

    Returns:
        Names of the files beside the table; none where nothing was pooled.
    """
    found = {folder: parts_of_run(folder, run) for folder, run in folders}
    if not any(found.values()):
        return []
    try:
        parts = [part for f, each in found.items() for part in current_parts(each, _sources(f))]
        path = table.parent / text_of_part(next(iter(chain(*found.values())))).file
        space, _, twice = joined_parts(parts, None, ())
        for part in twice:
            logger.warning("%s is not pooled: it shares images with another part", part)
        write_whole(with_count(check_pooled(space), images), path)
    except (ValueError, KeyError, OSError) as error:
        logger.error("no pooled eigenspace: %s", printable(reason(error)))
        return []
    return names_beside(path, table)


def _sources(folder: Path) -> dict[str, Source | None]:
    """Size and time of the files from which the results in a folder were made, by name."""
    lines = read_history(folder).all_lines()
    return {line["row"]["file"]: line["source"] for line in lines if "source" in line}


def names_beside(path: Path, table: Path) -> list[str]:
    """Names of the files of a pooled eigenspace that lie beside a table.

    Args:
        path: of the pooled eigenspace.
        table: of the same run.

    Returns:
        The names; none where it lies elsewhere.
    """
    found = [each.name for each in (path, nifti_beside(path)) if each.is_file()]
    return found if path.parent.resolve() == table.parent.resolve() else []


def note_files(path: Path, table: Path) -> None:
    """Note in ``run.json`` which files belong to the run, so that they move with its results.

    Args:
        path: of the pooled eigenspace.
        table: of the run.

    Raises:
        OSError: it cannot be written.
    """
    for name in names_beside(path, table):
        add_table(table.parent, name)
