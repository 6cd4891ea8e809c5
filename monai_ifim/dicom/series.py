"""The source of a result: the headers of one DICOM series, in the order of its slices."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_ifim.data.sources.dicom import (
    Slice,
    files_of,
    image_slices,
    is_no_source,
    prepared,
    problem_of,
)
from monai_ifim.data.sources.dicom_stream import read_dicom
from monai_ifim.dicom.planes import Planes

Source = str | os.PathLike[str] | Sequence[Any]

_PIXELS = 0x7FE00000  # the group behind which nothing describes the image
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
# Which must be there, but may be empty; files without names of patients lack some.
_MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)


@dataclass(frozen=True, eq=False)
class SourceSeries:
    """Headers of the images that a result was made of.

    Attributes:
        datasets: of pydicom, without pixels, of one series; one for a multi-frame image.
        planes: where their frames lie; None for pictures without a place in the patient.
        why: a sentence on why there are no planes; empty where there are.
        in_space: whether the sides of the patient are known; not of X-rays and photographs.
    """

    datasets: tuple[Any, ...]
    planes: Planes | None
    why: str = ""
    in_space: bool = True

    @property
    def first(self) -> Any:
        """The first image, which knows patient and study."""
        return self.datasets[0]


def read_series(source: Source) -> SourceSeries:
    """Read the headers of a series.

    Args:
        source: its folder, its file, its files, or pydicom data sets of it.

    Returns:
        Its headers in the order of the slices: along the normal of their plane, in the direction
        in which InstanceNumber rises; of a multi-frame image, its own order.

    Raises:
        ValueError: no DICOM image there, several series, a series that is no regular volume, or
            headers without what a result must refer to.
    """
    slices = _slices(source)
    if not slices:
        raise ValueError(
            f"expected a DICOM series, got no DICOM image in {_named(source)}; name the folder "
            "or the files of the series"
        )
    several = len(slices) == 1 and slices[0].several_frames
    # highdicom's check gives a frame of reference to headers that have none: not to these.
    problem = None if several else problem_of([_copy(each) for each in slices])
    if problem:
        raise ValueError(problem)
    datasets = [_described(each) for each in slices]
    _refuse_repeated_uids(datasets)
    if several or datasets[0].get("PerFrameFunctionalGroupsSequence"):  # may be one frame
        return _multi_frame(datasets[0])
    if not slices[0].in_space:
        return SourceSeries(
            tuple(datasets),
            None,
            "expected a position and orientation in the patient, got a picture without; a "
            "Parametric Map needs a frame of reference: picture and numbers can be written",
            in_space=False,
        )
    return _single_frames(datasets)


def _slices(source: Source) -> list[Slice]:
    if not isinstance(source, str | os.PathLike):
        given = list(source)
        if given and not isinstance(given[0], str | os.PathLike):
            kept = [Slice(f"data set {d.get('SOPInstanceUID')}", d[:_PIXELS]) for d in given]
            return [each for each in kept if each.has_image and not is_no_source(each.header)]
        source = [os.fspath(path) for path in given]
    return image_slices(files_of(source))


def _copy(each: Slice) -> Slice:
    return Slice(each.path, copy.deepcopy(each.header))


def _described(each: Slice) -> Any:
    """The whole header, with what highdicom asks for and files in use lack."""
    if os.path.isfile(each.path):
        dataset = read_dicom(each.path, stop_before_pixels=True)
    else:
        dataset = copy.deepcopy(each.header)
    for name in _NEEDED:
        if not dataset.get(name):
            raise ValueError(
                f"expected DICOM images with {name}, got {os.path.basename(each.path)} without; "
                "a result cannot refer to it: export the series again"
            )
    dataset.decode()  # so that texts can be written in another character set
    for name in _MAY_BE_EMPTY:
        if name not in dataset or not _conforms(dataset, name):
            setattr(dataset, name, "")
    return dataset


def _refuse_repeated_uids(datasets: Sequence[Any]) -> None:
    uids = {str(dataset.SOPInstanceUID) for dataset in datasets}
    if len(uids) < len(datasets):
        raise ValueError(
            f"expected a SOPInstanceUID of its own for each of {len(datasets)} slices, got "
            f"{len(uids)} different ones; a result cannot refer to them: export the series again"
        )


def _conforms(dataset: Any, name: str) -> bool:
    """Whether highdicom takes the value of a field."""
    from pydicom.valuerep import DA, TM

    value = dataset.get(name)
    try:
        if name.endswith("Date"):
            DA(value)
        elif name.endswith("Time"):
            TM(value)
    except ValueError:
        return False
    return name != "PatientSex" or value in ("M", "F", "O", "", None)


def _single_frames(datasets: list[Any]) -> SourceSeries:
    orientation = np.asarray(datasets[0].ImageOrientationPatient, dtype=np.float64)
    positions = np.array([[float(x) for x in d.ImagePositionPatient] for d in datasets])
    order = _order(positions @ np.cross(orientation[:3], orientation[3:]), datasets)
    ordered = [datasets[i] for i in order]
    spacing = _spacing(datasets[0].get("PixelSpacing"))
    if spacing is None:
        return SourceSeries(tuple(ordered), None, _lacking("PixelSpacing"))
    planes = _planes(ordered[0], positions[order], orientation, spacing, ordered[0])
    for dataset in ordered:
        dataset.SliceThickness = planes.thickness
    return _with_frame(ordered, planes)


def _order(distances: np.ndarray, datasets: Sequence[Any]) -> np.ndarray:
    """Along the normal, in the direction in which the numbers of the slices rise."""
    order = np.argsort(distances)
    try:
        numbers = np.array([int(datasets[i].InstanceNumber) for i in order])
    except (AttributeError, TypeError, ValueError):
        return order
    falls = len(numbers) > 1 and np.corrcoef(np.arange(len(numbers)), numbers)[0, 1] < 0
    return order[::-1] if np.ptp(numbers) > 0 and falls else order


def _multi_frame(dataset: Any) -> SourceSeries:
    """An enhanced multi-frame image; groups that all frames have in common become shared."""
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    frames = list(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    if shared is None or not frames:
        return SourceSeries((dataset,), None, _lacking("functional groups"), in_space=False)
    values: dict[str, list[Any]] = {}
    for group, field in (
        ("PlanePositionSequence", "ImagePositionPatient"),
        ("PlaneOrientationSequence", "ImageOrientationPatient"),
        ("PixelMeasuresSequence", "PixelSpacing"),
    ):
        own = [(f.get(group) or shared.get(group) or [{}])[0].get(field) for f in frames]
        if any(value is None for value in own):
            return SourceSeries((dataset,), None, _lacking(field))
        values[field] = [np.asarray(value, dtype=np.float64) for value in own]
        # highdicom looks for positions in each frame, for the others in what they share.
        if group != "PlanePositionSequence" and group not in shared:
            setattr(shared, group, frames[0][group].value)
        elif group == "PlanePositionSequence" and group in shared:  # of an image of one frame
            for frame in frames:
                setattr(frame, group, frame.get(group) or shared[group].value)
    for field in ("ImageOrientationPatient", "PixelSpacing"):
        if np.ptp(values[field], axis=0).max() > 1e-3:
            raise ValueError(
                f"expected one {field} for all frames, got several; convert the image to one "
                "series for each"
            )
    positions = np.array(values["ImagePositionPatient"])
    orientation = values["ImageOrientationPatient"][0]
    row, column = values["PixelSpacing"][0]
    measures = shared.PixelMeasuresSequence[0]
    planes = _planes(dataset, positions, orientation, (float(row), float(column)), measures)
    _refuse_repeated(planes)
    measures.SliceThickness = planes.thickness
    return _with_frame([dataset], planes)


def _refuse_repeated(planes: Planes) -> None:
    """Several frames at one place: echoes, time points, stacks."""
    places = np.sort(planes.distances)
    if len(places) > 1 and np.diff(places).min() < 1e-3:
        count = 1 + int((np.diff(places) >= 1e-3).sum())
        raise ValueError(
            f"expected one frame at each position, got {len(places)} frames at {count} positions "
            "(several echoes or time points?); separate them into one image each"
        )


def _planes(
    sized: Any,
    positions: np.ndarray,
    orientation: np.ndarray,
    spacing: tuple[float, float],
    measured: Any,
) -> Planes:
    steps = np.diff(np.sort(positions @ np.cross(orientation[:3], orientation[3:])))
    between = float(np.median(steps)) if len(steps) else 1.0
    thickness = float(measured.get("SliceThickness") or 0) or between
    size = int(sized.Rows), int(sized.Columns)
    return Planes(positions, orientation, spacing, *size, thickness)


def _spacing(value: Any) -> tuple[float, float] | None:
    try:
        row, column = (float(x) for x in value)
    except (TypeError, ValueError):
        return None
    return (row, column) if row > 0 and column > 0 else None


def _with_frame(datasets: Sequence[Any], planes: Planes) -> SourceSeries:
    if any(not d.get("FrameOfReferenceUID") for d in datasets):
        prepared(datasets)  # nothing else in them is left to be decided
        return SourceSeries(tuple(datasets), None, _lacking("FrameOfReferenceUID"))
    return SourceSeries(tuple(datasets), planes)


def _lacking(what: str) -> str:
    return (
        f"expected a series with {what}, got one without; a Parametric Map needs it: picture and "
        "numbers can be written"
    )


def _named(source: Source) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return f"{len(source)} files or data sets"
