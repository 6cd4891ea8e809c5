"""A final label as a DICOM segmentation in the PACS."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.transforms import LoadImage

from monai_ifim.data.sources.dicom import image_slices, prepared
from monai_ifim.data.sources.dicom_stream import read_dicom
from monai_ifim.label.options import refusal, short
from monai_ifim.label.pacs.dicomweb import DicomWeb
from monai_ifim.label.pacs.listing import Series
from monai_ifim.label.pacs.series import convert_series, download_series
from monai_ifim.label.pacs.stow import store
from monai_ifim.messages import reason

_SAME = 1e-3  # largest difference of two affine matrices of one grid, in mm


def send_label(
    pacs: DicomWeb, series: Series, label: Path, info: Mapping[str, Any], max_voxels: int
) -> str:
    """Store a label in the PACS, with a reference to the series it was drawn on.

    Args:
        pacs: to send it to.
        series: fields of the listing.
        label: NIfTI or NRRD file on the grid of the series, in any order of its axes.
        info: sent with the label; ``label_info`` names its segments.
        max_voxels: of the series.

    Returns:
        SeriesInstanceUID of the segmentation.

    Raises:
        HTTPException: 422, an empty label, another grid, or a series that lacks what a
            segmentation must say; 415, a file that cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="monai_ifim_") as name:
        folder = Path(name)
        files = download_series(pacs, series, folder, max_voxels)
        image = folder / "image.nii.gz"
        convert_series(files, image, max_voxels)
        values = on_grid_of(nib.load(image), label)
        datasets = [read_dicom(each.path) for each in image_slices([str(f) for f in files])]
    segmentation = _segmentation(_along_normal(datasets), values, _names(values, info))
    store(pacs, series["StudyInstanceUID"], [segmentation])
    return str(segmentation.SeriesInstanceUID)


def on_grid_of(image: nib.Nifti1Image, label: Path) -> np.ndarray:
    """A label in the order of an image's axes.

    Args:
        image: that it was drawn on.
        label: NIfTI or NRRD file.

    Returns:
        Whole numbers, as many as the image has voxels.

    Raises:
        HTTPException: 415, the file cannot be read; 422, it is empty or on another grid.
    """
    try:
        drawn = LoadImage(image_only=True)(str(label))
    except Exception as error:  # any reader's
        raise refusal(f"expected a label map, got {label.name}: {reason(error)}", 415) from error
    values = np.asarray(drawn).reshape([*drawn.shape, 1, 1][:3])
    affine = np.asarray(drawn.affine)
    wanted = nib.io_orientation(image.affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), wanted)
    affine = affine @ nib.orientations.inv_ornt_aff(turn, values.shape)
    values = nib.apply_orientation(values, turn)
    shape = (*image.shape, 1)[:3]
    if values.shape != shape or np.abs(affine - image.affine).max() > _SAME:
        raise refusal(
            f"expected a label on the grid of the series, {shape} voxels, got {values.shape}, or "
            "another place or spacing; draw it on the series, or resample it",
            422,
        )
    if not values.any():
        raise refusal("expected a label with at least one segment, got an empty one", 422)
    return values.astype(np.int64)


def _names(values: np.ndarray, info: Mapping[str, Any]) -> dict[int, str]:
    """Names of the segments by their values; clients name them in the order of the values."""
    told = info.get("label_info")
    told = told if isinstance(told, list) else []
    names = {}
    for place, value in enumerate(np.unique(values[values != 0]).tolist()):
        entry = told[place] if place < len(told) and isinstance(told[place], dict) else {}
        names[value] = str(entry.get("name") or f"label {value}")[:64]
    return names


def _along_normal(datasets: Sequence[Any]) -> list[Any]:
    """Slices as the axes of their volume have them."""
    if len(datasets) == 1:
        return list(datasets)
    across, down = np.reshape(np.asarray(datasets[0].ImageOrientationPatient, float), (2, 3))
    normal = np.cross(across, down)
    return sorted(datasets, key=lambda d: float(normal @ np.asarray(d.ImagePositionPatient, float)))


def _segmentation(datasets: Sequence[Any], values: np.ndarray, names: Mapping[int, str]) -> Any:
    from highdicom import UID
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    numbers = np.zeros(values.shape, np.uint8 if len(names) < 256 else np.uint16)
    for number, value in enumerate(names, start=1):
        numbers[values == value] = number
    # What was drawn is not known: "tissue" says no more than that.
    descriptions = [
        SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type="MANUAL",
        )
        for number, name in enumerate(names.values(), start=1)
    ]
    try:
        return Segmentation(
            source_images=prepared(datasets),
            pixel_array=np.ascontiguousarray(numbers.transpose(2, 1, 0)),
            segmentation_type="BINARY",
            segment_descriptions=descriptions,
            series_instance_uid=UID(),
            series_number=300,
            sop_instance_uid=UID(),
            instance_number=1,
            manufacturer="monai_ifim",
            manufacturer_model_name="MONAI Label app",
            software_versions=version("monai_ifim"),
            device_serial_number="none",
            content_description="Drawn or corrected by a person",
            series_description="Label saved through MONAI Label",
        )
    except (AttributeError, ValueError, TypeError, KeyError) as error:  # attributes are missing
        raise refusal(
            f"expected a series that a segmentation can refer to, got {short(str(error))}; keep "
            "labels on the server (without --conf pacs_receives=labels)",
            422,
        ) from error
