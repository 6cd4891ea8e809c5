"""The list of a run's images, as it was when the run began."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from monai_ifim.data.atomic import complete_file
from monai_ifim.data.run_folder.journal import HIDDEN

LIST = "images.json"


@dataclass(frozen=True)
class ImageList:
    """The images of a run, complete, whoever does which of them.

    Attributes:
        names: of the images, in the order of the list: the path of each, of a DICOM series that
            of its first slice or of its folder.
        members: the paths of all files of an image that has several, by its name.
        place: folder that the run was started in, from which relative paths go; empty for this one.
    """

    names: tuple[str, ...]
    members: Mapping[str, Sequence[str]] = field(default_factory=dict)
    place: str = field(default="", compare=False)

    def __len__(self) -> int:
        """How many images."""
        return len(self.names)

    def repeated(self) -> set[str]:
        """Images that the list holds more than once."""
        return repeated(self.names)

    def source(self, name: str) -> str | list[str]:
        """What an image is loaded from.

        Args:
            name: of the image.

        Returns:
            Its path, or those of its files.
        """
        return list(self.members[name]) if name in self.members else name


def repeated(names: Iterable[str]) -> set[str]:
    """Files that a list holds more than once.

    Args:
        names: of the list's entries.

    Returns:
        Those files.
    """
    return {name for name, count in Counter(names).items() if count > 1}


def write_list(folder: Path, images: ImageList) -> None:
    """Write down the list of a run's images.

    Args:
        folder: of the results.
        images: of the run.

    Raises:
        OSError: it cannot be written.
    """
    content = {"files": list(images.names), "members": dict(images.members), "place": os.getcwd()}
    with complete_file(folder / HIDDEN / LIST) as partial:
        partial.write_text(json.dumps(content), encoding="ascii")


def read_list(folder: Path) -> ImageList | None:
    """The list of a run's images.

    Args:
        folder: of the results.

    Returns:
        The images in order; None where the run had no list, as with batches made elsewhere.
    """
    try:
        text = (folder / HIDDEN / LIST).read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    content = json.loads(text)
    return ImageList(tuple(content["files"]), content.get("members", {}), content.get("place", ""))
