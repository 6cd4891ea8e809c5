"""Images of the MONAI Deploy App SDK: arrays (slices, rows, columns) with metadata."""

from __future__ import annotations

from typing import Any

import numpy as np
from monai.deploy.core import Image

AFFINE = "nifti_affine_transform"
_SAME = 1e-3  # of a voxel


def array_of(image: Any, axes: int) -> tuple[np.ndarray, np.ndarray]:
    """Array and affine of an image.

    Args:
        image: of the SDK, made of a DICOM series.
        axes: of the network's images, 2 or 3.

    Returns:
        (columns, rows, slices) in float32, or (columns, rows) of a single slice where the network
        takes two axes; and (4, 4), voxels to millimetres, RAS.

    Raises:
        ValueError: not one grey volume with an affine, or one that its own spacing contradicts.
    """
    array, metadata = np.asarray(image.asnumpy()), image.metadata() or {}
    affine = np.asarray(metadata.get(AFFINE, metadata.get("affine")))
    if array.ndim not in (2, 3) or affine.shape != (4, 4):
        raise ValueError(
            "expected an Image (slices, rows, columns) with an affine (4, 4), got shape "
            f"{array.shape} and affine {affine.shape}; let SeriesOperator make it"
        )
    affine = affine.astype(np.float64)
    if metadata.get("space", "RAS") == "LPS" and AFFINE not in metadata:
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    _check_spacing(affine, metadata)
    array = array.astype(np.float32).T
    if axes == 2 and array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return array, affine


def image_of(volume: Any, like: Any) -> Image:
    """A component as an image of the SDK.

    Args:
        volume: (1, *S), columns first.
        like: the image that it belongs to.

    Returns:
        float32 in the other's order of axes, with a copy of its metadata.

    Raises:
        ValueError: several channels, or another shape than the image's.
    """
    array = np.asarray(volume.cpu())
    shape = np.asarray(like.asnumpy()).shape
    if len(array) != 1 or array[0].size != np.prod(shape):
        raise ValueError(
            f"expected one channel of shape {shape}, got {array.shape}; give the network an image "
            "with one channel"
        )
    values = array[0].T.reshape(shape).astype(np.float32)
    return Image(np.ascontiguousarray(values), dict(like.metadata() or {}))


def _check_spacing(affine: np.ndarray, metadata: dict[str, Any]) -> None:
    """The SDK's own operator (4.0) takes the spacing of rows for that of columns."""
    spacing = [metadata.get(f"{name}_pixel_spacing") for name in ("col", "row")]
    if None in spacing:
        return
    wanted = np.asarray(spacing, dtype=np.float64)
    got = np.linalg.norm(affine[:3, :2], axis=0)
    if np.abs(got - wanted).max() > _SAME * wanted.min():
        raise ValueError(
            f"expected steps of {wanted.tolist()} mm along columns and rows, as the header says, "
            f"got {got.round(6).tolist()} in the affine; use SeriesOperator, which "
            "DICOMSeriesToVolumeOperator is wrong without for pixels that are not square"
        )
