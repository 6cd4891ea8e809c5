"""Whether the values of a loaded image are the intensities that its file holds."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from monai.data import is_supported_format
from PIL import Image

from monai_ifim.data.sources.pictures import (
    AS_SHOWN,
    ORIENTATION,
    SUFFIXES,
    WORDS,
    drops_bits,
    see_through,
    white_is_zero,
)

logger = logging.getLogger(__name__)

_NOT_INTENSITIES = {
    "P": "in indexed colours, whose values are places in its palette",
    "PA": "in indexed colours, whose values are places in its palette",
    "CMYK": "in CMYK, where more ink is a larger value",
    "YCbCr": "in YCbCr",
    "HSV": "in HSV",
    "LAB": "in LAB",
}
_COMPLEX = (32, 1792, 2048)  # datatypes of NIfTI
_HOW = (
    "save it upright in grey or RGB, or put monai_ifim.LoadPictured in the place of the bundle's "
    "LoadImaged"
)


def check_values(item: Any, key: Hashable, transform: Any = None) -> None:
    """Refuse an image without values, or whose values are not the intensities of its file.

    Those are pictures as a bundle's own reader left them (indexed colours, CMYK, pixels that one
    can see through, an orientation in the file that nobody followed), and complex files of which
    the imaginary part was dropped. It goes by the metadata: an image without them passes.

    Args:
        item: what a data set gave: a dictionary, or a list of dictionaries of patches.
        key: of the image.
        transform: of the data set, or a list of them; complex files pass where a loader keeps
            them complex.

    Raises:
        ValueError: the image is refused.
    """
    first = item[0] if isinstance(item, list) and item else item
    image = first.get(key) if isinstance(first, Mapping) else None
    if isinstance(image, torch.Tensor) and image.numel() == 0:
        raise ValueError(
            f"expected an image with values, got none in the shape {tuple(image.shape)}; the file "
            "is damaged: copy it again"
        )
    if isinstance(image, torch.Tensor) and image.ndim < 2:
        raise ValueError(
            "expected an image with a channel and one to three spatial axes, got the shape "
            f"{tuple(image.shape)}; the file is damaged, or the preprocessing drops an axis"
        )
    meta: Mapping[Any, Any] = getattr(image, "meta", {})
    file = meta.get("filename_or_obj")
    if not isinstance(file, str | os.PathLike) or not os.path.isfile(file):
        return
    if _drops_imaginary_part(image, meta, file) and not any(_keep_complex(transform)):
        raise ValueError(
            "expected real values, got a complex file, of which the loader keeps the real part "
            "alone; save its magnitude, or load it with dtype=complex64 and take that first"
        )
    if is_supported_format(str(file), SUFFIXES) and not meta.get(AS_SHOWN):
        _check_picture(str(file), meta)


def _check_picture(file: str, meta: Mapping[Any, Any]) -> None:
    """Go by the picture as it was read, and by its file where that was not converted."""
    mode, untouched = meta.get("mode"), meta.get("format") is not None
    if mode in _NOT_INTENSITIES:
        raise ValueError(f"expected intensities, got a picture {_NOT_INTENSITIES[mode]}; {_HOW}")
    with Image.open(file) as picture:
        if untouched and drops_bits(picture):
            raise ValueError(
                "expected 8 bits for each channel of a coloured picture, got 16, of which the "
                "bundle's reader drops the lower 8; save it in grey with 16 bits, or as NIfTI"
            )
        turned = picture.getexif().get(ORIENTATION, 1)
        if picture.format == "TIFF" and turned < 5:  # Pillow turns it itself
            turned = 1
        frames = getattr(picture, "n_frames", 1)
        if untouched and frames > 1 and picture.format != "MPO":
            raise ValueError(
                f"expected one picture in the file, got {frames}, of which the bundle reads the "
                "first alone; save each as a file of its own, or a volume as NIfTI"
            )
        if mode in WORDS and white_is_zero(picture):
            raise ValueError(f"expected intensities, got words of which 0 is white; {_HOW}")
        swapped = (picture.height, picture.width) == (meta.get("width"), meta.get("height"))
        if turned not in range(2, 9) or (turned > 4 and swapped and not untouched):
            pass
        elif untouched or (turned > 4 and "width" in meta):
            raise ValueError(
                f"expected an upright picture, got one that viewers turn (EXIF orientation "
                f"{turned}) and this bundle does not; {_HOW}"
            )
        else:
            logger.warning("%r may not be upright: it has EXIF orientation %s", file, turned)
        if untouched and mode in ("LA", "RGBA") and see_through(picture):
            raise ValueError(
                "expected a picture that one cannot see through, got pixels whose alpha is less "
                f"than 255: what it shows depends on what is behind; {_HOW}"
            )


def _drops_imaginary_part(image: Any, meta: Mapping[Any, Any], file: Any) -> bool:
    if not isinstance(image, torch.Tensor) or image.is_complex():
        return False
    if str(file).endswith(".npy"):
        return bool(np.load(file, mmap_mode="r").dtype.kind == "c")
    return "datatype" in meta and int(np.asarray(meta["datatype"])) in _COMPLEX


def _keep_complex(transform: Any) -> Iterator[bool]:
    """Of each image loader in a transform, whether it keeps complex values."""
    loader = getattr(transform, "_loader", transform)
    if hasattr(loader, "readers"):
        yield loader.dtype is None or np.dtype(loader.dtype).kind == "c"
    for inner in getattr(transform, "transforms", transform if isinstance(transform, list) else ()):
        yield from _keep_complex(inner)
