"""What is checked of an image file before and after a bundle's preprocessing has seen it."""

from __future__ import annotations

import math
from pathlib import Path

import nrrd
from monai.data import NibabelReader
from monai.transforms import LoadImaged
from PIL import Image

from monai_ifim.label.options import refusal
from monai_ifim.messages import reason


def check_size(path: Path, max_voxels: int) -> None:
    """Refuse a file that is too large, before it is read: its header says the size.

    Args:
        path: of the file.
        max_voxels: the most that are accepted; of formats without a known header, bytes.

    Raises:
        HTTPException: 413, too many voxels; 415, the header cannot be read.
    """
    try:
        sizes = _sizes(path)
    except Exception as error:  # nibabel's, gzip's, pillow's, pynrrd's, the system's
        raise refusal(
            f"expected an image, got {path.name}: {reason(error)}; replace it", 415
        ) from error
    voxels = math.prod(sizes)
    if min(sizes, default=0) < 0 or voxels > max_voxels:
        raise refusal(
            f"expected at most {max_voxels} voxels, got {voxels} in {path.name}; crop "
            "or resample it, or start the server with --conf max_voxels",
            413,
        )


def is_readable(path: Path) -> bool:
    """Whether one of MONAI's readers can load the file.

    Args:
        path: of the file.

    Returns:
        True if so.
    """
    try:
        LoadImaged("image")({"image": str(path)})
    except Exception:  # any reader's
        return False
    return True


def _sizes(path: Path) -> list[int]:
    """Lengths of all axes, from the header; of other formats the bytes of the file."""
    if path.name.endswith((".nii", ".nii.gz")):
        return [int(n) for n in NibabelReader().read(str(path)).shape]
    if path.suffix == ".nrrd":
        return [int(n) for n in nrrd.read_header(str(path))["sizes"]]
    if path.suffix in (".png", ".jpg", ".jpeg", ".tif"):
        with Image.open(path) as picture:
            return [*picture.size, len(picture.getbands())]
    return [path.stat().st_size]
