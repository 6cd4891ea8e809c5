"""Formats of image files, and the libraries that read them."""

from __future__ import annotations

import os
import stat
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


class Format(NamedTuple):
    """A kind of image file.

    Attributes:
        suffixes: in lower case.
        libraries: modules that can read it; one of them is enough.
        packages: what to install where none of them is there.
    """

    suffixes: tuple[str, ...]
    libraries: tuple[str, ...]
    packages: str


# Those that the readers of MONAI, or the readers in this folder, make an image of.
FORMATS = (
    Format((".nii", ".nii.gz", ".mgz", ".mgh", ".img"), ("nibabel",), "nibabel"),
    Format((".nrrd",), ("nrrd", "itk"), "pynrrd"),
    Format((".mha", ".mhd"), ("itk",), "itk-io"),
    Format((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"), ("PIL", "itk"), "pillow"),
)
DICOM = Format((".dcm",), ("pydicom", "itk"), "pydicom")
SUFFIXES = tuple(suffix for each in FORMATS for suffix in each.suffixes)


def format_of(path: str | os.PathLike[str]) -> Format | None:
    """Format of a file, by its name; that of a DICOM file without suffix by its first bytes.

    Args:
        path: of a file, or a name.

    Returns:
        The format; None for a file that is no image.

    >>> format_of("Head.NII.GZ").packages
    'nibabel'
    """
    name = Path(path).name.lower()
    for each in FORMATS:
        if name.endswith(each.suffixes):
            return each
    return DICOM if is_dicom(path) else None


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Whether a file says that it is DICOM, by its suffix or its first bytes.

    Args:
        path: of a file.

    Returns:
        Yes or no; no for an index of DICOM files (``DICOMDIR``), and where it cannot be opened.
    """
    path = Path(path)
    if path.suffix.lower() in DICOM.suffixes:
        return True
    if path.name.upper().startswith("DICOMDIR") or not is_regular(path):
        return False
    return has_preamble(path)


def has_preamble(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as the DICOM standard says; files of before 1993 do not.

    Args:
        path: of a regular file.

    Returns:
        Yes or no; no where it cannot be opened.
    """
    try:
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def is_regular(path: str | os.PathLike[str]) -> bool:
    """Whether a path, its links followed, is a file with content; a pipe or a device is not.

    Args:
        path: of anything.

    Returns:
        Yes or no.
    """
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def missing_reader(path: str | os.PathLike[str]) -> str | None:
    """Why no installed library reads a file.

    Args:
        path: of an image file.

    Returns:
        A sentence; None where one does, and for a file of unknown format.
    """
    kind = format_of(path)
    if kind is None or any(map(_installed, kind.libraries)):
        return None
    suffix = Path(path).suffix or "DICOM"
    return (
        f"expected a library that reads {suffix} ({' or '.join(kind.libraries)}), got none; "
        f"pip install {kind.packages} (or 'monai_ifim[images]', for all formats)"
    )


def _installed(module: str) -> bool:
    return find_spec(module) is not None
