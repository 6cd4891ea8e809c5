"""NIfTI files, compressed as fast as the environment allows."""

from __future__ import annotations

import os
from importlib import import_module
from typing import IO, Any

import nibabel as nib

from monai_ifim.data.atomic import complete_file

# Floating-point noise hardly compresses: higher levels take several times as long for one percent.
_LEVEL = 1


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


def _write(image: nib.Nifti1Image, stream: IO[bytes]) -> None:
    # nibabel writes header and slices one by one, so that no second copy of the volume is made.
    image.to_file_map(image.make_file_map({"image": stream, "header": stream}))


def _compressed(file: IO[bytes]) -> Any:
    try:
        gzip = import_module("isal.igzip")
    except ImportError:
        gzip = import_module("gzip")
    return gzip.GzipFile("", "wb", _LEVEL, file, mtime=0)
