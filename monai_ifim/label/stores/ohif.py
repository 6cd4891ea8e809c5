"""Labels as OHIF sends them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from monai_ifim.label.options import refusal


def label_of_bytes(label: Path, image: Path) -> Path:
    """A label map of OHIF, which is its voxels alone, as NIfTI.

    Args:
        label: one byte for each voxel, the first axis fastest.
        image: NIfTI file that it was drawn on.

    Returns:
        A file beside the label, on the image's grid.

    Raises:
        HTTPException: 415, another image format, or another number of bytes than voxels.
    """
    if not image.name.endswith((".nii", ".nii.gz")):
        raise refusal(
            f"expected a label of OHIF for a NIfTI image, got one for {image.name}; convert the "
            "image",
            415,
        )
    source = nib.load(image)
    shape = source.shape[:3]
    values = np.fromfile(label, np.uint8)
    if values.size != np.prod(shape):
        raise refusal(
            f"expected {np.prod(shape)} bytes, one for each voxel of {shape}, got {values.size}; "
            "draw the label on this image",
            415,
        )
    target = label.with_name("label.nii.gz")
    nib.save(nib.Nifti1Image(values.reshape(shape, order="F"), source.affine), target)
    return target
