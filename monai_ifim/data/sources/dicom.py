"""DICOM files as series: which belong together, and whether they are one regular volume.

The geometry is highdicom's, which refuses what is no volume. Compared once with SimpleITK (GDCM)
on a series of 17 slices, pixels and geometry are equal; GDCM was not taken because it makes a
volume of localizers, of slices at one position and of series with gaps as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from monai_ifim.data.sources.dicom_stream import read_dicom, unpacks_to_more
from monai_ifim.data.sources.formats import is_dicom

OWN = "monai_ifim"  # manufacturer of the objects that this package writes
_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
# Header fields that say where a slice lies and what it belongs to.
_FIELDS = [
    "SOPClassUID",
    "Manufacturer",
    "Modality",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
]
_UNPACKED = 2**32  # bytes of a deflated file whose header is read; 2**29 values of eight bytes
_SAME_DIRECTION = 1e-3  # largest difference of two direction cosines of one orientation


class Slice(NamedTuple):
    """A DICOM file and its header.

    Attributes:
        path: of the file.
        header: a pydicom data set without pixels; None where it cannot be read.
    """

    path: str
    header: Any

    @property
    def has_image(self) -> bool:
        """Whether it may hold pixels: reports, plans and waveforms do not."""
        return self.header is None or bool(self.header.get("Rows"))

    @property
    def in_space(self) -> bool:
        """Whether it is one plane at a known place in the patient."""
        placed = self.header is not None and all(
            _numbers(self.header, name) == count
            for name, count in [("ImageOrientationPatient", 6), ("ImagePositionPatient", 3)]
        )
        return placed and not self.several_frames

    @property
    def several_frames(self) -> bool:
        """Whether one file holds several planes or time points."""
        return self.header is not None and _count(self.header) > 1

    @property
    def in_colour(self) -> bool:
        """Whether a pixel is more than one grey value."""
        if self.header is None:
            return False
        palette = self.header.get("PhotometricInterpretation") == "PALETTE COLOR"
        return palette or int(self.header.get("SamplesPerPixel") or 1) > 1

    @property
    def values(self) -> int:
        """How many numbers its pixels are, as the header says."""
        if self.header is None:
            return 0
        sizes = [self.header.get(name) or 0 for name in ("Rows", "Columns")]
        return int(np.prod([*sizes, self.header.get("SamplesPerPixel") or 1])) * _count(self.header)


def read_slices(paths: Iterable[str | os.PathLike[str]]) -> list[Slice]:
    """Headers of DICOM files, without their pixels.

    Args:
        paths: of the files.

    Returns:
        One for each file, in their order.
    """
    return [Slice(str(path), _header(path)) for path in paths]


def image_slices(paths: Sequence[str]) -> list[Slice]:
    """Headers of the DICOM files that make an image together.

    Args:
        paths: of one entry of a data list.

    Returns:
        Those that hold pixels; segmentations only where they are all there is, and never what this
        package has written.
    """
    slices = [each for each in read_slices(paths) if each.has_image and not is_own(each.header)]
    return [each for each in slices if not is_segmentation(each.header)] or slices


def files_of(source: str | os.PathLike[str] | Sequence[str]) -> list[str]:
    """DICOM files of an entry of a data list.

    Args:
        source: a folder, a file, or the files of one series.

    Returns:
        Paths, sorted; those of a folder without hidden files and files in its subfolders.
    """
    if not isinstance(source, str | os.PathLike):
        return sorted(str(path) for path in source if is_dicom(path))
    if os.path.isdir(source):
        names = sorted(name for name in os.listdir(source) if not name.startswith("."))
        paths = [Path(source, name) for name in names]
        return [str(path) for path in paths if path.is_file() and is_dicom(path)]
    return [str(source)] if is_dicom(source) else []


def group_slices(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices that belong together: of one series, with one orientation.

    Files without a place in the patient (X-rays, photographs), with several frames or with a
    header that cannot be read are images of their own.

    Args:
        slices: of one folder.

    Returns:
        Groups, in the order of their first slices.
    """
    groups: list[list[Slice]] = []
    for each in slices:
        fitting = (group for group in groups if _together(group[0], each))
        group = next(fitting, None)
        if group is None:
            groups.append([each])
        else:
            group.append(each)
    return groups


def problem_of(slices: Sequence[Slice]) -> str | None:
    """Why DICOM files are no regular volume and no single picture.

    Args:
        slices: that are to be one image.

    Returns:
        A sentence: expected, got, how to fix it; None where they are one image.
    """
    first = slices[0]
    unreadable = [each for each in slices if each.header is None]
    if unreadable:
        return (
            f"expected DICOM files, got {_some(unreadable)} with a header that cannot be read; "
            "copy the file again, or remove it"
        )
    if len(slices) == 1 and not first.several_frames and not first.in_space:
        return None  # an X-ray or a photograph, which has no place in the patient
    for find in (_frames, _mixture):
        problem = find(slices)
        if problem:
            return problem
    return _irregular(slices)


def prepared(datasets: Sequence[Any]) -> list[Any]:
    """Data sets with what highdicom needs and files in use lack.

    Args:
        datasets: pydicom data sets of one group; changed in memory.

    Returns:
        The same data sets.
    """
    for dataset in datasets:
        if not dataset.get("FrameOfReferenceUID"):  # the slices share a series, and with it a frame
            dataset.FrameOfReferenceUID = dataset.get("SeriesInstanceUID") or "2.25.1"
        if len(datasets) == 1 and not dataset.get("SpacingBetweenSlices"):
            dataset.SpacingBetweenSlices = dataset.get("SliceThickness") or 1.0
    return list(datasets)


def is_segmentation(header: Any) -> bool:
    """Whether a file holds labels that were drawn on an image.

    Args:
        header: pydicom data set, or None.

    Returns:
        Yes or no.
    """
    return header is not None and header.get("SOPClassUID") in _SEGMENTATIONS


def is_own(header: Any) -> bool:
    """Whether a file is a result of this package, which a PACS gives back beside its source.

    Args:
        header: pydicom data set, or None.

    Returns:
        Yes or no.
    """
    return header is not None and header.get("Manufacturer") == OWN


def is_no_source(header: Any) -> bool:
    """Whether a file is drawn on, or computed from, an image.

    Args:
        header: pydicom data set, or None.

    Returns:
        Yes or no.
    """
    return is_segmentation(header) or is_own(header)


def _header(path: str | os.PathLike[str]) -> Any:
    try:
        if unpacks_to_more(path, _UNPACKED):
            return None
        header = read_dicom(path, stop_before_pixels=True, specific_tags=list(_FIELDS))
        # One without either, or an image without a size, ends too early to say what it is.
        kind = header.get("SOPClassUID")
        cut = "Image Storage" in kind.name if kind else True
        return None if cut and not header.get("Rows") else header
    except Exception:  # damaged headers raise all kinds
        return None


def _numbers(header: Any, name: str) -> int:
    """How many finite numbers a field holds."""
    try:
        values = np.asarray(header.get(name), dtype=float)
    except (TypeError, ValueError):
        return 0
    return values.size if values.ndim == 1 and np.isfinite(values).all() else 0


def _count(header: Any) -> int:
    try:
        return int(header.get("NumberOfFrames") or 1)
    except ValueError:
        return 1


def _together(one: Slice, other: Slice) -> bool:
    if not (one.in_space and other.in_space):
        return False
    same_series = one.header.get("SeriesInstanceUID") == other.header.get("SeriesInstanceUID")
    return same_series and _same_orientation(one, other)


def _same_orientation(one: Slice, other: Slice) -> bool:
    a, b = (np.asarray(s.header.ImageOrientationPatient, dtype=float) for s in (one, other))
    return bool(np.abs(a - b).max() <= _SAME_DIRECTION)


def _frames(slices: Sequence[Slice]) -> str | None:
    several = [each for each in slices if each.several_frames]
    if several:
        return (
            f"expected one frame for each file, got {_count(several[0].header)} frames in "
            f"{_some(several)}; convert it to NIfTI, or to one file for each slice"
        )
    return None


def _mixture(slices: Sequence[Slice]) -> str | None:
    """What keeps slices from being compared at all."""
    nowhere = [each for each in slices if not each.in_space]
    if nowhere:
        return (
            f"expected slices with position and orientation, got {_some(nowhere)} without; "
            "give each picture as an image of its own (find_images does)"
        )
    for name in ("SeriesInstanceUID", "PixelSpacing"):
        lacking = [each for each in slices if not each.header.get(name)]
        if lacking:
            return (
                f"expected slices with {name}, got {_some(lacking)} without; fix the files' headers"
            )
    series = {each.header.get("SeriesInstanceUID") for each in slices}
    planes = [each for i, each in enumerate(slices) if not _known(each, slices[:i])]
    sizes = {(each.header.get("Rows"), each.header.get("Columns")) for each in slices}
    if len(series) > 1:
        return (
            f"expected one DICOM series, got {len(series)} among {len(slices)} files; "
            "give each series as an image of its own (find_images does)"
        )
    if len(planes) > 1:
        return (
            f"expected slices of one orientation, got {len(planes)} orientations among "
            f"{len(slices)} files (a localizer?); give each as an image of its own "
            "(find_images does)"
        )
    if len(sizes) > 1:
        return (
            f"expected slices of one size, got {sorted(sizes)} rows and columns; "
            "separate them into one folder for each size"
        )
    return None


def _known(each: Slice, others: Sequence[Slice]) -> bool:
    return any(_same_orientation(each, other) for other in others)


def _irregular(slices: Sequence[Slice]) -> str | None:
    """What highdicom says about the spacing, in words."""
    try:
        from highdicom.spatial import get_series_volume_positions
    except ImportError:
        return (
            "expected highdicom, which decides whether DICOM slices are a volume, got none; "
            "pip install 'monai_ifim[dicom]'"
        )
    headers = prepared([each.header for each in slices])
    try:
        if get_series_volume_positions(headers)[0] is not None:
            return None
        positions = {tuple(map(float, header.ImagePositionPatient)) for header in headers}
        if len(positions) < len(headers):
            return (
                f"expected one slice at each position, got {len(headers)} slices at "
                f"{len(positions)} positions (several acquisitions, echoes or time points?); "
                "separate them into one folder each"
            )
        gaps = get_series_volume_positions(headers, allow_missing_positions=True)[0]
        cause = "slices are missing" if gaps is not None else "unequal spacing, or a tilted gantry"
    except Exception as error:  # its messages name the fault
        return f"expected a regular series, got {error}; fix the files' headers"
    return (
        f"expected equally spaced slices perpendicular to their plane, got {len(headers)} slices "
        f"{_distances(headers)} ({cause}); add the missing ones or resample the series"
    )


def _distances(headers: Sequence[Any]) -> str:
    rows = np.asarray(headers[0].ImageOrientationPatient, dtype=float)
    normal = np.cross(rows[:3], rows[3:])
    places = np.sort([np.dot(normal, np.asarray(h.ImagePositionPatient, float)) for h in headers])
    steps = np.diff(places)
    return f"{steps.min():.4g} to {steps.max():.4g} mm apart"


def _some(slices: Sequence[Slice]) -> str:
    more = f" and {len(slices) - 1} more" if len(slices) > 1 else ""
    return f"{Path(slices[0].path).name}{more}"
