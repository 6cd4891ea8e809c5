"""Headers of NumPy's files: how many values, and that none of them is a pickle."""

from __future__ import annotations

import math
import zipfile
from typing import Any

from numpy.lib import format as npy

SUFFIXES = (".npy", ".npz")
_HEADER = 2**16  # bytes; names of many fields make it long


def arrays_of(path: str) -> list[tuple[int, int, bool]]:
    """What the arrays of a file claim to be; no value is read.

    Args:
        path: of a ``.npy`` or ``.npz`` file.

    Returns:
        Of each array: values, bytes with its header, and whether it is of Python objects, which
        are pickles. Errors are NumPy's and those of zip archives.
    """
    if path.lower().endswith(".npy"):
        with open(path, "rb") as stream:
            return [_array(stream)]
    with zipfile.ZipFile(path) as archive:
        found = []
        # NumPy gives the bytes of other members, and never loads them.
        for member in (each for each in archive.infolist() if _is_array(archive, each)):
            with archive.open(member) as stream:
                values, size, objects = _array(stream)
            found.append((values, max(size, member.file_size), objects))
        return found


def _is_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    with archive.open(member) as stream:
        return stream.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX


def _array(stream: Any) -> tuple[int, int, bool]:
    major, _ = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
    shape, _, dtype = read(stream, max_header_size=_HEADER)
    values = math.prod(shape)
    return values, stream.tell() + values * dtype.itemsize, bool(dtype.hasobject)
