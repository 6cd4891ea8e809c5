"""The images of a run: what was found in the files and folders that were named."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monai_ifim.data.batches import entry_name
from monai_ifim.data.run_folder.image_list import read_list
from monai_ifim.data.run_folder.record import read_record
from monai_ifim.data.sources.folder import FolderContent, content_of
from monai_ifim.data.sources.formats import SUFFIXES

logger = logging.getLogger(__name__)

Inputs = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class FoundImages:
    """Images of a run.

    Attributes:
        images: of each its path, or the paths of a DICOM series, in the order of the run.
        root: folder that all of them lie in.
        left_out: one line on what was found and not taken; empty where there is nothing to say.
    """

    images: tuple[Any, ...]
    root: str
    left_out: str

    def __len__(self) -> int:
        """How many images."""
        return len(self.images)

    def entries(self, key: str = "image") -> tuple[dict[str, Any], ...]:
        """The images as a data list.

        Args:
            key: of the image in each entry.

        Returns:
            One dictionary an image. Not a list, which a configuration would read as its own text.
        """
        return tuple({key: image} for image in self.images)

    @property
    def names_repeat(self) -> bool:
        """Whether two images in different folders would give their volumes the same name."""
        names = [Path(str(entry_name(image))).name.split(".")[0] for image in self.images]
        return len(set(names)) < len(names)


def find_inputs(inputs: Inputs) -> FoundImages:
    """Every image in files and folders.

    Args:
        inputs: one path or several, of image files and of folders, which are searched with all
            their subfolders; see ``find_images``.

    Returns:
        The images, each once, in the order of the paths.

    Raises:
        FileNotFoundError: there is no such path.
        ValueError: no path was given, or none of them holds an image.
    """
    paths = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    missing = [path for path in paths if not os.path.exists(path)]
    if missing:
        raise FileNotFoundError(
            f"expected images or folders of images, got {os.fspath(missing[0])!r}, which does not "
            "exist; check the path"
        )
    contents = [content_of(_spelled(path)) for path in paths]
    images: dict[Any, Any] = {}
    for content in contents:
        for image in content.images:
            images.setdefault(_absolute(image), image)
    notes = [content.summary() for content in contents if content.refused or content.left_out]
    if not images:
        names = ", ".join(repr(os.fspath(path)) for path in paths) or "no path"
        raise ValueError(
            f"expected images ({' '.join(SUFFIXES)} or DICOM), got none in {names}"
            f"{' (' + '; '.join(notes) + ')' if notes else ''}; name files, or a folder that "
            "holds some"
        )
    return FoundImages(tuple(images.values()), _root(paths, contents), "; ".join(notes))


def images_of_run(inputs: Inputs, output: Path, divided: bool) -> FoundImages:
    """The images of a run; where it is done in parts, those that its first one has found.

    Args:
        inputs: images, or folders that are searched for them.
        output: folder of the results.
        divided: whether the run is done in parts.

    Returns:
        Those that are there. Of a run that is divided and has begun those of its list, in its
        order, of a DICOM series the slices that it had. Files that have gone are among them, and
        will have a row that says so; files that have come are left out, and the log says so.

    Raises:
        FileNotFoundError: there is no such input.
        ValueError: no image was found, or none of those that the run began with.
    """
    record = read_record(output) if divided else None
    listed = read_list(output) if record is not None and record.get("parts") else None
    if listed is None:
        return find_inputs(inputs)
    own = [listed.source(name) for name in listed.names]
    try:
        found = find_inputs(inputs)
    except ValueError:  # all of them have gone
        first = inputs if isinstance(inputs, str | os.PathLike) else next(iter(inputs))
        found = FoundImages((), _spelled(first), "")
    known = {path for image in own for path in _absolute(image)}
    new = [image for image in found.images if not known.intersection(_absolute(image))]
    if new and len(new) == len(found):
        raise ValueError(
            f"expected the images that the run in {output} began with, {listed.names[0]} for "
            f"example, got others, {entry_name(new[0])} for example; give the same --input, from "
            "the same folder, or choose another --output"
        )
    if new:
        logger.warning(
            "%d images have come since the run began, and are left out: do them in a run of their "
            "own, or all again without a shard and with --resume",
            len(new),
        )
    return replace(found, images=tuple(own))


def _spelled(path: str | os.PathLike[str]) -> str:
    """A path that no configuration takes for a reference, an expression or a macro."""
    text = os.fspath(path)
    return os.path.join(os.curdir, text) if text.startswith(("$", "@", "%")) else text


def _absolute(image: Any) -> tuple[str, ...]:
    return tuple(map(os.path.abspath, [image] if isinstance(image, str) else image))


def _root(paths: Sequence[str | os.PathLike[str]], contents: Sequence[FolderContent]) -> str:
    """The folder itself that was named, or the one around several, or around one image."""
    tops = [
        _spelled(path)
        if _spelled(path) not in content.images
        else str(Path(path).absolute().parent)
        for path, content in zip(paths, contents, strict=True)
    ]
    return tops[0] if len(tops) == 1 else os.path.commonpath(map(os.path.abspath, tops))
