"""What a folder holds: images, files that cannot be images of a run, and why each."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from monai_ifim.data.sources.dicom import (
    group_slices,
    is_own,
    is_segmentation,
    problem_of,
    read_slices,
)
from monai_ifim.data.sources.formats import DICOM, format_of, is_regular, missing_reader
from monai_ifim.messages import printable

# With the numbers that end the names of further images of one file.
_RESULT = re.compile(r"_ifim_(high|orth|sensitivity)(_\d+)*\.nii(\.gz)?$")
_RAW = (".raw", ".zraw")  # values of an .mhd file
_NAMED = 5  # files named for each reason


@dataclass
class FolderContent:
    """Files below a folder, each counted once.

    Attributes:
        images: what ``{"image": ...}`` of a data list holds: a path, or the files of one series.
        taken: files that belong to an image.
        refused: files that are listed as images and of which it is known why they will have no
            result, with the reason.
        left_out: files and hidden folders that are listed nowhere, with the reason.
    """

    images: list[Any] = field(default_factory=list)
    taken: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def found(self) -> int:
        """Files in all: taken, refused and left out."""
        return len(self.taken) + len(self.refused) + len(self.left_out)

    def summary(self) -> str:
        """Counts and, for what was not taken, names by reason.

        Returns:
            One line.
        """
        parts = [
            f"found {self.found} files: {len(self.taken)} taken, {len(self.refused)} refused, "
            f"{len(self.left_out)} left out; {len(self.images)} images"
        ]
        for what, reasons in (("refused", self.refused), ("left out", self.left_out)):
            for why, paths in _by_reason(reasons).items():
                names = ", ".join(os.path.basename(path) for path in paths[:_NAMED])
                more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
                parts.append(f"{len(paths)} {what} ({names}{more}): {why}")
        return printable("; ".join(parts))

    def take(self, image: Any, files: Sequence[str], problem: str | None) -> None:
        """List an image.

        Args:
            image: its path or paths.
            files: that belong to it.
            problem: why it will have no result, or None.
        """
        self.images.append(image)
        if problem is None:
            self.taken += files
        else:
            self.refused |= dict.fromkeys(files, problem)


def content_of(top: str | os.PathLike[str]) -> FolderContent:
    """Look through a folder and all folders below it; links are followed, each folder once.

    Args:
        top: a folder, or one file.

    Returns:
        What is there, the images sorted by path.
    """
    content = FolderContent()
    if not os.path.isdir(top):
        folder = os.path.dirname(top)
        beside = [os.path.join(folder, name) for name in os.listdir(folder or ".")]
        _sort(content, "", [str(top)], beside)
    else:
        for folder, names in _folders(str(top), content):
            _sort(content, folder, [os.path.join(folder, name) for name in names])
    content.images.sort(key=lambda image: image if isinstance(image, str) else image[0])
    return content


def _folders(top: str, content: FolderContent) -> Iterator[tuple[str, list[str]]]:
    """Folders with the names of their files; links to folders come after all real folders."""
    seen: set[str] = set()
    waiting = [top]
    while waiting:
        start = waiting.pop(0)

        def refuse(error: OSError) -> None:
            content.left_out[str(error.filename)] = "a folder that cannot be opened"

        for folder, subfolders, names in os.walk(start, onerror=refuse):
            real = os.path.realpath(folder)
            if real in seen:
                subfolders[:] = []
                # A folder below the top that the search came from adds nothing to say.
                if folder == start:
                    content.left_out[folder] = "a link to a folder that is searched already"
                continue
            seen.add(real)
            hidden = [name for name in subfolders if name.startswith(".")]
            for name in hidden:
                content.left_out[os.path.join(folder, name)] = "hidden"
            visible = sorted(set(subfolders) - set(hidden))
            links = [name for name in visible if os.path.islink(os.path.join(folder, name))]
            waiting += [os.path.join(folder, name) for name in links]
            subfolders[:] = [name for name in visible if name not in links]
            yield folder, sorted(names)


def _sort(
    content: FolderContent, folder: str, files: Sequence[str], beside: Sequence[str] = ()
) -> None:
    """Take, refuse or leave out files of one folder."""
    lower = {path.lower() for path in (*files, *beside)}
    dicom: list[str] = []
    for path in files:
        why = _no_image(path, lower)
        kind = None if why else format_of(path)
        if why:
            content.left_out[path] = why
        elif _belongs(path, lower):
            content.taken.append(path)
        elif kind is None:
            content.left_out[path] = "not an image's suffix"
        elif not is_regular(path):
            content.take(path, [path], "a pipe, a device or a link to nothing")
        elif kind is DICOM:
            dicom.append(path)
        else:
            content.take(path, [path], missing_reader(path))
    if dicom:
        _sort_dicom(content, folder, dicom)


def _no_image(path: str, beside: set[str]) -> str | None:
    name = os.path.basename(path).lower()
    if name.startswith("."):
        return "hidden"
    if _RESULT.search(name):  # volumes that a run wrote into its own data folder
        return "our own result"
    if name.startswith("dicomdir"):
        return "an index of DICOM files"
    if name.endswith((".img", ".hdr")) and not beside >= _pair(path):
        return "half of a pair of .hdr and .img"
    return None


def _pair(path: str) -> set[str]:
    stem = path.lower()[:-4]
    return {f"{stem}.hdr", f"{stem}.img"}


def _belongs(path: str, beside: set[str]) -> bool:
    """Whether a file is the other part of an image that is listed by its first part."""
    lower = path.lower()
    if lower.endswith(".hdr"):
        return True  # halves are left out before
    stem, suffix = os.path.splitext(lower)
    return suffix in _RAW and f"{stem}.mhd" in beside


def _sort_dicom(content: FolderContent, folder: str, files: Sequence[str]) -> None:
    """One image for each series and orientation; the folder itself where it holds one alone."""
    missing = missing_reader(files[0])
    if missing:
        content.take(folder or files[0], files, missing)
        return
    slices = read_slices(files)
    for each in slices:
        if not each.has_image:
            content.left_out[each.path] = "DICOM without an image"
        elif is_own(each.header):
            content.left_out[each.path] = "our own result"
        elif is_segmentation(each.header):
            content.left_out[each.path] = "DICOM with a segmentation"
    slices = [each for each in slices if each.path not in content.left_out]
    groups = group_slices(slices)
    if groups and all(each.header is None for each in slices):
        groups = [list(slices)]
    for group in groups:
        paths = [each.path for each in group]
        image: Any = paths[0] if len(paths) == 1 else paths
        content.take(folder if folder and len(groups) == 1 else image, paths, problem_of(group))


def _by_reason(reasons: dict[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for path, why in reasons.items():
        grouped.setdefault(why, []).append(path)
    return grouped
