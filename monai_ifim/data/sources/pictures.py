"""Pictures as what they show: intensities, and not places in a palette."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from monai.config import KeysCollection
from monai.data import PILReader, is_supported_format
from monai.data.image_reader import ImageReader
from monai.transforms import LoadImaged
from PIL import Image, ImageOps

SUFFIXES = ("png", "jpg", "jpeg", "bmp", "gif", "tif", "tiff")
AS_SHOWN = "as_shown"  # in the metadata of pictures that PictureReader has read
_WIDE = re.compile(";16[BLN]")  # of 16 bits for each channel; a BMP's "BGR;16" has 16 for all
ORIENTATION = 0x0112  # tag of EXIF and TIFF
_PHOTOMETRIC, _WHITE_IS_ZERO, _BITS = 262, 0, 258  # tags of TIFF, and a value
_COLOURED = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr", "HSV", "LA")
WORDS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_GREY = ("1", "L", "F", *WORDS)


def as_intensities(picture: Image.Image) -> Image.Image:
    """What a picture shows, upright and without a palette, grey where it is grey.

    Args:
        picture: of any mode.

    Returns:
        Mode ``L`` (8 bits), ``I;16`` or ``I`` (16 and more) or ``F`` of a grey picture, ``RGB`` of
        a coloured one; with the picture's ``format``.

    Raises:
        ValueError: several pictures in one file, a TIFF on its side, pixels that one can see
            through, colours of 16 bits, or a colour space whose intensities are not known.

    >>> picture = Image.new("P", (2, 1))
    >>> picture.putpalette([200, 200, 200, 7, 7, 7])
    >>> picture.putpixel((1, 0), 1)
    >>> np.asarray(as_intensities(picture)).tolist()
    [[200, 7]]
    """
    kind = picture.format
    if getattr(picture, "n_frames", 1) > 1 and kind != "MPO":  # a camera's picture and its preview
        raise ValueError(
            f"expected one picture in the file, got {picture.n_frames}; save each as a file of its "  # type: ignore[attr-defined]
            "own, or a volume as NIfTI"
        )
    if drops_bits(picture):
        raise ValueError(
            "expected 8 bits for each channel of a coloured picture, got 16, of which Pillow drops "
            "the lower 8; save it in grey with 16 bits, or as NIfTI"
        )
    tags = getattr(picture, "tag_v2", {})
    if tags.get(ORIENTATION, 1) > 4:  # Pillow 13 mixes up the rows of those without compression
        raise ValueError(
            f"expected an upright TIFF, got one on its side (orientation {tags[ORIENTATION]}); "
            "save it upright"
        )
    upright = ImageOps.exif_transpose(picture)
    bits = int(tags.get(_BITS, (16,))[0]) if white_is_zero(picture) else None
    upright = _grey_of_words(upright, bits) if upright.mode in WORDS else _shown(upright)
    upright.format = kind
    return upright


def see_through(picture: Image.Image) -> bool:
    """Whether what a picture shows depends on what is behind it.

    Args:
        picture: of any mode.

    Returns:
        Yes where a pixel's alpha is less than 255.
    """
    if not picture.has_transparency_data:
        return False
    alpha = picture.convert("RGBA").getchannel("A").getextrema()
    return bool(cast("tuple[int, int]", alpha)[0] < 255)


def drops_bits(picture: Image.Image) -> bool:
    """Whether a coloured picture has 16 bits for each channel, of which Pillow keeps 8.

    Args:
        picture: as opened, before its pixels are loaded.

    Returns:
        Yes or no.
    """
    tiles = getattr(picture, "tile", ())
    return picture.mode not in _GREY and any(_WIDE.search(str(tile[3])) for tile in tiles)


def _shown(picture: Image.Image) -> Image.Image:
    """A picture of at most 8 bits a channel, or of floats."""
    if see_through(picture):
        raise ValueError(
            "expected a picture that one cannot see through, got pixels whose alpha is less than "
            "255: what it shows depends on what is behind; save it without alpha"
        )
    if picture.mode in ("L", "F"):
        return picture.copy()
    if picture.mode == "1":
        return picture.convert("L")
    if picture.mode not in _COLOURED:
        raise ValueError(
            f"expected a picture in grey, RGB, CMYK or indexed colours, got the mode "
            f"{picture.mode!r}; save it as PNG in grey or RGB"
        )
    colours = picture.convert("RGB")
    red, green, blue = (np.asarray(channel) for channel in colours.split())
    same = np.array_equal(red, green) and np.array_equal(red, blue)
    return colours.getchannel("R") if same else colours


def white_is_zero(picture: Image.Image) -> bool:
    """Whether a picture is a TIFF whose larger values are darker.

    Args:
        picture: as opened; of 8 bits Pillow turns the values round, of more it does not.

    Returns:
        Yes or no.
    """
    return getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _grey_of_words(picture: Image.Image, bits: int | None) -> Image.Image:
    """A grey picture of 16 bits or more; ``bits`` of one whose larger values are darker."""
    if bits is None:
        return picture.copy()
    most = 2**bits - 1
    return Image.fromarray((most - np.asarray(picture).astype(np.int64)).astype(np.int32))


class PictureReader(PILReader):
    """MONAI's ``PILReader``, except that the values are the intensities that a picture shows.

    TIFF and GIF are read as well. See ``as_intensities`` for what is converted and refused.
    """

    def verify_suffix(self, filename: Sequence[os.PathLike[str]] | os.PathLike[str]) -> bool:
        """Whether this reader takes the files.

        Args:
            filename: of one file or several.

        Returns:
            Yes or no, by their endings.
        """
        return bool(is_supported_format(filename, SUFFIXES))

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Intensities and metadata.

        Args:
            img: a picture, or a list of pictures of one shape.

        Returns:
            (W, H) of a grey picture, (W, H, 3) of a coloured one; metadata as ``PILReader`` has it.

        Raises:
            ValueError: a picture that does not say what its intensities are.
        """
        pictures = img if isinstance(img, list | tuple) else [img]
        try:
            array, meta = super().get_data([as_intensities(picture) for picture in pictures])
        finally:
            for picture in pictures:
                picture.close()
        return array, {**meta, AS_SHOWN: True}


class LoadPictured(LoadImaged):
    """MONAI's ``LoadImaged``, except that pictures are read by ``PictureReader``.

    Other files are read as MONAI reads them.

    Args:
        keys: of paths.
        kwargs: those of ``LoadImaged``; with a ``reader`` of its own there is nothing different.
    """

    def __init__(self, keys: KeysCollection, **kwargs: Any) -> None:
        super().__init__(keys, **kwargs)
        if kwargs.get("reader") is None:
            self.register(PictureReader())

    def __call__(
        self, data: Mapping[Hashable, Any], reader: ImageReader | None = None
    ) -> dict[Hashable, Any]:
        """Load.

        Args:
            data: one image's dictionary.
            reader: in the place of all others.

        Returns:
            A copy with MetaTensors.
        """
        readers = self._loader.readers
        if self._loader.auto_select and not isinstance(readers[-1], PictureReader):
            # The last one is asked first, also where others came since.
            self._loader.readers = sorted(readers, key=lambda each: isinstance(each, PictureReader))
        loaded: dict[Hashable, Any] = super().__call__(data, reader)
        return loaded
