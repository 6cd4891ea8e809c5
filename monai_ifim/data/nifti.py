"""NIfTI files, compressed as fast as the environment allows."""

from __future__ import annotations

import os
import re
from importlib import import_module
from typing import IO, Any

import nibabel as nib
import numpy as np
from nibabel.volumeutils import native_code

from monai_ifim.data.atomic import complete_file

# Floating-point noise hardly compresses: higher levels take several times as long for one percent.
_LEVEL = 1
_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}
_MODEL = re.compile(r"iFIM \w+; (?!research use only)([^;]+);")


def write_nifti(image: nib.Nifti1Image, path: str | os.PathLike[str]) -> None:
    """Write a NIfTI file, which appears only when complete.

    The same image gives the same bytes in every run, because neither time nor file name enter the
    compressed file. With and without ``isal`` the bytes differ, but not what is in them.

    Args:
        image: values, affine and header.
        path: of the file; ``.nii.gz`` is compressed, by ``isal`` where it is installed
            (``pip install 'monai_ifim[fast]'``), else by zlib, which takes about ten times as
            long. A file that is there is replaced.
    """
    with complete_file(path) as partial, partial.open("wb") as file:
        if partial.suffix == ".gz":
            with _compressed(file) as stream:
                _write(image, stream)
        else:
            _write(image, file)


def units_of(xyzt_units: Any) -> int:
    """Units of space and time as NIfTI codes them, where millimetres are meant if none is given.

    Args:
        xyzt_units: of a source's header.

    Returns:
        The same code, with the bits of millimetres in the place of "unknown".

    >>> units_of(0), units_of(3), units_of(8)
    (2, 3, 10)
    """
    code = int(xyzt_units)
    return code if code & 7 else code | 2


def component_header(source: nib.Nifti1Header) -> nib.Nifti1Header:
    """The header of other values on a file's grid.

    Args:
        source: header of the file.

    Returns:
        A copy that keeps unit, both transforms with their codes, voxel sizes and intent; what
        belongs to the file's own values and place on disk (slope, display range, offset,
        extensions) is left out.
    """
    header = nib.Nifti1Header.from_header(source).as_byteswapped(native_code)
    header.extensions = type(header.extensions)()
    header.set_slope_inter(None, None)
    header["cal_min"] = header["cal_max"] = 0
    header["glmin"] = header["glmax"] = 0
    header["vox_offset"] = 0
    return header


def affine_in_millimetres(image: nib.Nifti1Image) -> np.ndarray:
    """Where the voxels of a file are.

    Args:
        image: the file.

    Returns:
        (4, 4), voxels to millimetres, RAS.
    """
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= _MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
    return affine


def model_of(header: nib.Nifti1Header) -> str:
    """The network that made a component, as ``descrip`` of its file names it.

    Args:
        header: of the file.

    Returns:
        Class and start of the digest; empty where the header does not say.

    >>> header = nib.Nifti1Header()
    >>> header["descrip"] = b"iFIM high; Net 0123abcd; research use only"
    >>> model_of(header)
    'Net 0123abcd'
    """
    if "descrip" not in header.keys():  # noqa: SIM118 - headers of nibabel are no dictionaries
        return ""
    found = _MODEL.match(bytes(header["descrip"]).rstrip(b"\0").decode("latin-1"))
    return found[1] if found else ""


def _write(image: nib.Nifti1Image, stream: IO[bytes]) -> None:
    # nibabel writes header and slices one by one, so that no second copy of the volume is made.
    image.to_file_map(image.make_file_map({"image": stream, "header": stream}))


def _compressed(file: IO[bytes]) -> Any:
    try:
        gzip = import_module("isal.igzip")
    except ImportError:
        gzip = import_module("gzip")
    return gzip.GzipFile("", "wb", _LEVEL, file, mtime=0)
