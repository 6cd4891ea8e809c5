"""Which DICOM series the images of a run came from: the run's own record, or what is named."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from monai_ifim.data.run_folder.done import source_state
from monai_ifim.data.run_folder.image_list import ImageList, read_list
from monai_ifim.data.run_folder.journal import read_history
from monai_ifim.data.sources.dicom import files_of, image_slices
from monai_ifim.data.sources.folder import content_of
from monai_ifim.data.sources.formats import SUFFIXES

Entry = str | list[str]


class Sources:
    """The series of a run's images.

    Args:
        folder: of the run's results.
        files: of the images with a result, as the table names them.
        given: folders and files of series that are taken in the place of those on record.

    Raises:
        FileNotFoundError: there is no such folder or file.
        ValueError: no DICOM image is in those that were named.
    """

    def __init__(self, folder: Path, files: Sequence[str], given: Sequence[Path] = ()) -> None:
        self._images = read_list(folder) or ImageList(())
        self._lines = read_history(folder).lines
        self._alone = len(set(files)) == 1
        self._given = [entry for path in given for entry in _series_in(path)]

    def of(self, file: str) -> Entry | None:
        """What an image was read from.

        Args:
            file: as the table names it.

        Returns:
            The folder, file or files of its series; None where the image is no DICOM and no series
            was named for it.

        Raises:
            ValueError: it is not there, is another one than the run has read, or several of those
                that were named could be it.
        """
        named = self._named(file)
        if named is not None:
            return named
        entry = self._on_record(file)
        paths = [entry] if isinstance(entry, str) else entry
        if not all(map(os.path.exists, paths)):
            if file.lower().endswith(SUFFIXES) and not file.lower().endswith(".dcm"):
                return None
            raise ValueError(
                f"expected the DICOM series at {paths[0]}, where the run has read it, got nothing "
                "there; name its folder with --source"
            )
        if not files_of(entry):
            return None
        self._refuse_changed(file, entry)
        return entry

    def is_another(self, file: str, uid: str) -> bool:
        """Whether a series is another one than the run has read, where that is still there.

        Args:
            file: as the table names it.
            uid: SeriesInstanceUID of the series.

        Returns:
            No where it cannot be known.
        """
        entry = self._on_record(file)
        if not all(map(os.path.exists, [entry] if isinstance(entry, str) else entry)):
            return False
        headers = [each.header for each in image_slices(files_of(entry)[:1])]
        read = [str(header.get("SeriesInstanceUID")) for header in headers if header is not None]
        return bool(read) and uid not in read

    def _on_record(self, file: str) -> Entry:
        place = self._images.place
        entry = self._images.source(file)
        if isinstance(entry, str):
            return _there(entry, place)
        return [_there(path, place) for path in entry]

    def _named(self, file: str) -> Entry | None:
        """Of the series that were named: by files, by name, or the only one for the only image."""
        own = self._on_record(file)
        paths = {os.path.abspath(path) for path in ([own] if isinstance(own, str) else own)}
        same = [entry for entry in self._given if paths & _paths(entry)]
        alike = [entry for entry in self._given if _fits(own, entry)]
        found = same or alike
        if len(found) > 1:  # as when the whole study has moved
            common = [max(_common(file, path) for path in _paths(entry)) for entry in found]
            found = [e for e, n in zip(found, common, strict=True) if n == max(common)]
        if len(found) > 1:
            raise ValueError(
                f"expected one series for {file}, got {len(found)} of its name below --source; "
                "name the folder of one"
            )
        if not found and self._alone and len(self._given) == 1:
            return self._given[0]
        return found[0] if found else None

    def _refuse_changed(self, file: str, entry: Entry) -> None:
        """A series that has been written again since may be another one."""
        lines = self._lines.get(file)
        known = lines[0].get("source") if lines else None
        if known is None:
            return
        now = source_state(entry) if isinstance(entry, str) else source_state(file, entry)
        if now != known:
            raise ValueError(
                f"expected the files of {file} as the run has read them, got files of another "
                "size or time; name their folder with --source if they are the right ones"
            )


def _series_in(path: Path) -> list[Entry]:
    if not path.exists():
        raise FileNotFoundError(
            f"expected a DICOM series, got {path}, which does not exist; check --source"
        )
    found: list[Entry] = [image for image in content_of(path).images if files_of(image)]
    if not found:
        raise ValueError(
            f"expected a DICOM series, got no DICOM image in {path}; name the folder of the series"
        )
    return found


def _there(path: str, place: str) -> str:
    """A relative path as it is from here, or from where the run was started."""
    if os.path.isabs(path) or os.path.exists(path) or not place:
        return path
    return os.path.join(place, path)


def _paths(entry: Entry) -> set[str]:
    """Absolute paths of an entry, that of its folder with the files in it."""
    if not isinstance(entry, str):
        return set(map(os.path.abspath, entry))
    return {os.path.abspath(entry), *map(os.path.abspath, files_of(entry))}


def _fits(own: Entry, entry: Entry) -> bool:
    """Whether a series could be that of an image: of the same files, or of its name."""
    if not isinstance(own, str):
        return set(map(os.path.basename, own)) == set(map(os.path.basename, files_of(entry)))
    return isinstance(entry, str) and _name(own) == _name(entry)


def _name(path: str) -> str:
    """Name of a file or folder, without what ends the names of images."""
    name = os.path.basename(path.rstrip("/"))
    ends = [end for end in (*SUFFIXES, ".dcm") if name.lower().endswith(end)]
    return name[: -max(map(len, ends))] if ends else name


def _common(one: str, other: str) -> int:
    """How many names two paths have in common, from their ends."""
    pairs = zip(reversed(Path(one).parts), reversed(Path(other).parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
