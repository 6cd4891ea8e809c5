"""Whether a file can hold, and the memory bear, what its header says; before it is loaded."""

from __future__ import annotations

import bz2
import gzip
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from monai_ifim.data.sources import array_files
from monai_ifim.data.sources.dicom import (
    Slice,
    files_of,
    image_slices,
    is_segmentation,
    problem_of,
)
from monai_ifim.data.sources.dicom_stream import problem_of_stream
from monai_ifim.data.sources.formats import (
    format_of,
    has_preamble,
    is_dicom,
    is_regular,
    missing_reader,
)
from monai_ifim.messages import as_number, reason

MAX_VOXELS = 2**29  # values; 2 GB in float32, a volume of 1024 x 1024 x 512
_ENVIRONMENT = "MONAI_IFIM_MAX_VOXELS"
_DEFLATE = 1032  # times that gzip or PNG can shrink what they hold, at most
_READ = 65536


class RefusedError(ValueError):
    """A file that must not be loaded; the message says why and what to do."""


def check_source(
    source: str | os.PathLike[str] | Sequence[str], max_voxels: int | None = None
) -> None:
    """Refuse what must not be loaded, with the reason.

    Of files as they are only headers are read; compressed ones are read to see whether they are
    whole, and unpacked as far as the limit.

    Refused are pipes and devices, an image of more values than ``max_voxels``, a file too short
    for its header, one whose reader is missing, and DICOM that is no regular volume. A damaged file
    passes: its reader says what is wrong.

    Args:
        source: a file, a folder of DICOM files, or several files of one image.
        max_voxels: values of one image at the most; None for the number in the environment
            variable ``MONAI_IFIM_MAX_VOXELS``, or 2**29.

    Raises:
        RefusedError: the file is refused.
    """
    paths = [str(path) for path in source] if isinstance(source, list | tuple) else [str(source)]
    for path in paths:
        if os.path.lexists(path) and not os.path.isdir(path):
            _check_regular(path)
    dicom = files_of(paths if len(paths) > 1 else paths[0])
    limit = _limit(max_voxels)
    if dicom:
        _check_dicom(dicom, limit)
        return
    for path in paths:
        _check_file(path, limit)


def _limit(max_voxels: int | None) -> float:
    if max_voxels is not None:
        return max_voxels
    return as_number(_ENVIRONMENT, os.environ.get(_ENVIRONMENT)) or MAX_VOXELS


def _check_regular(path: str) -> None:
    if not os.path.exists(path):
        raise RefusedError("expected a file, got a link to nothing; restore what it points to")
    if not is_regular(path):
        raise RefusedError("expected a regular file, got a pipe or a device; remove it")


def _check_dicom(files: list[str], limit: float) -> None:
    if missing := missing_reader(files[0]):
        raise RefusedError(missing)
    for path in files:
        if problem := problem_of_stream(path, limit * 8 + _READ):  # eight bytes of the widest type
            raise RefusedError(problem)
    slices = image_slices(files)
    if not slices:
        raise RefusedError(
            "expected DICOM with an image, got none (a report or a plan?); remove it"
        )
    _check_count(sum(each.values for each in slices), limit)
    if len(slices) == 1 and (_is_old(slices[0]) or is_segmentation(slices[0].header)):
        return  # GDCM may know it, or reads the labels
    if problem := problem_of(slices):
        raise RefusedError(problem)


def _is_old(one: Slice) -> bool:
    # pydicom reads no header without a preamble. With one and a damaged header it is not old, and
    # must not go to GDCM, which takes gigabytes for some of those.
    return one.header is None and not has_preamble(one.path)


def _check_file(path: str, limit: float) -> None:
    if path.lower().endswith(array_files.SUFFIXES) and is_regular(path):
        _check_arrays(path, limit)
        return
    kind = format_of(path)
    if kind is None or not is_regular(path) or is_dicom(path):
        return
    if missing := missing_reader(path):
        raise RefusedError(missing)
    claimed = next((f for suffixes, f in _CLAIMS if path.lower().endswith(suffixes)), None)
    try:
        claim = claimed(path) if claimed else None
    except RefusedError:
        raise
    except Exception:  # a damaged header: its reader says why
        claim = None
    if claim is None:
        return
    values, size = claim
    _check_count(values, limit)
    _check_size(_data_file(path), size)


def _check_arrays(path: str, limit: float) -> None:
    try:
        arrays = array_files.arrays_of(path)
    except OSError:  # not there, or not ours to read: its reader says why
        return
    except Exception as error:  # NumPy's and zip's; NumPy takes what is no array for a pickle
        raise RefusedError(
            f"expected an array file, got a damaged one, or no array ({reason(error)}); save it "
            "again with numpy.save"
        ) from error
    if any(objects for *_, objects in arrays):
        raise RefusedError(
            "expected an array of numbers, got one of Python objects: a pickle, which can run "
            "code when it is loaded; save it with a numeric dtype"
        )
    _check_count(sum(values for values, *_ in arrays), limit)
    if path.lower().endswith(".npy"):
        _check_size(path, sum(size for _, size, _ in arrays))
    elif (size := sum(size for _, size, _ in arrays)) > limit * 8 + _READ:
        raise RefusedError(
            f"expected at most {limit * 8:.0f} bytes unpacked, got {size}; remove the arrays that "
            f"are no image, or raise max_voxels (environment variable {_ENVIRONMENT})"
        )


def _check_count(values: int, limit: float) -> None:
    if values > limit:
        raise RefusedError(
            f"expected at most {limit:.0f} values, got a header that says {values}; crop or "
            f"resample the image, or raise max_voxels (environment variable {_ENVIRONMENT})"
        )


def _check_size(path: str, size: int) -> None:
    """Whether a file can hold so many bytes."""
    there = os.path.getsize(path)
    with open(path, "rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b" or path.lower().endswith((".png", ".nrrd"))
    most = there * _DEFLATE if packed else there
    if size > most:
        raise RefusedError(
            f"expected a file of the size that its header says, {size} bytes"
            f"{' unpacked' if packed else ''}, got {there} bytes; it is cut or its header is "
            "damaged: copy it again"
        )


def _data_file(path: str) -> str:
    """Where the values are: beside the header, or in the file itself."""
    if not path.lower().endswith(".hdr"):
        return path
    stem = path[: -len(".hdr")]
    return next((stem + end for end in (".img", ".IMG") if os.path.exists(stem + end)), path)


def _nibabel(path: str) -> tuple[int, int]:
    """Values and bytes of a NIfTI, Analyze or MGH file, from the first bytes of its header.

    nibabel then reads as many bytes as the header says and no more, so that a compressed file
    with more behind them stays small.

    Args:
        path: of the file.

    Returns:
        Values, and bytes of the file before it was compressed.
    """
    lower = path.lower()
    if lower.endswith((".mgz", ".mgh")):
        header: Any = nib.freesurfer.mghformat.MGHHeader(_start(path, 284), check=False)
        return _claim(header.get_data_shape(), header.get_data_dtype(), 284)
    beside = Path(path).with_suffix(".hdr")
    source = str(beside) if lower.endswith(".img") and beside.exists() else path
    raw = _start(source, 540)
    lengths = (int.from_bytes(raw[:4], "little"), int.from_bytes(raw[:4], "big"))
    if 540 in lengths:
        header = nib.Nifti2Header(raw[:540], check=False)
    elif 348 not in lengths:
        return 0, 0  # its reader says that it is none
    else:
        header = nib.Nifti1Header(raw[:348], check=False)
    offset = int(header.get_data_offset())
    return _claim(header.get_data_shape(), header.get_data_dtype(), offset)


def _start(path: str, count: int) -> bytes:
    with open(path, "rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rb") if packed else open(path, "rb") as stream:
        return stream.read(count)


def _claim(shape: Sequence[int], dtype: np.dtype, offset: int) -> tuple[int, int]:
    values = math.prod(int(length) for length in shape)
    return values, offset + values * dtype.itemsize


def _picture(path: str) -> tuple[int, int]:
    """Values of a picture and, where the format has a bound, bytes; Pillow opens the header."""
    from PIL import Image

    with Image.open(path) as image:  # refuses what is beyond Pillow's own limit
        values = math.prod(image.size) * len(image.getbands())
        packed = image.format == "PNG"
        pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    if pages > 1:
        raise RefusedError(
            f"expected one picture, got {pages} pages of which Pillow reads the first; "
            "save each page, or the stack as NIfTI"
        )
    return values, values // 8 if packed else 0  # one bit a value, at the least


def _nrrd(path: str) -> tuple[int, int]:
    """Values of an NRRD file, and bytes; a stream of more than those is not unpacked further."""
    with open(path, "rb") as stream:
        text = b""
        while b"\n\n" not in text and b"\r\n\r\n" not in text:
            block = stream.read(_READ)
            if not block or len(text) > 16 * _READ:
                return 0, 0
            text += block
    end = min(i for i in (text.find(b"\n\n"), text.find(b"\r\n\r\n")) if i >= 0)
    lines = [line for line in text[:end].decode("latin-1").splitlines() if line[:1] != "#"]
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip().lower(): value.strip() for name, value in pairs}
    if beside := fields.get("data file") or fields.get("datafile"):
        _check_beside(path, beside)
    values = math.prod(map(int, fields["sizes"].split()))
    unpacked = _UNPACKED.get(fields.get("encoding", "").lower())
    if unpacked is None or beside:
        return values, 0
    most = values * 8  # the widest type has eight bytes
    written = 0
    with open(path, "rb") as stream:
        stream.seek(end + (2 if text[end : end + 2] == b"\n\n" else 4))
        with unpacked(stream) as content:
            while written <= most and (block := content.read(_READ)):
                written += len(block)
    if written > most:
        raise RefusedError(
            f"expected {values} values as the header says, got a stream with more; "
            "the file is damaged: copy it again"
        )
    return values, 0


def _metaimage(path: str) -> tuple[int, int]:
    """Values of a MetaImage and, where they are in the file as they are, bytes."""
    text = _start(path, _READ).decode("latin-1")
    lines = re.findall(r"^(\w+)[ \t]*=[ \t]*([^\r\n]*)", text, re.MULTILINE)
    fields = {name: value.strip() for name, value in lines}
    sizes = [*fields["DimSize"].split(), fields.get("ElementNumberOfChannels", 1)]
    values = math.prod(map(int, sizes))
    beside = fields.get("ElementDataFile", "LOCAL")
    if beside.upper() not in ("LOCAL", "LIST") and "%" not in beside:
        _check_beside(path, beside)
        return values, 0
    width = next((n for name, n in _META_BYTES if name in fields.get("ElementType", "")), 0)
    packed = fields.get("CompressedData", "False").lower() == "true"
    return values, 0 if packed else values * width


def _check_beside(path: str, name: str) -> None:
    """The file of values that a header names must not be a pipe, on which a reader would wait."""
    beside = os.path.join(os.path.dirname(path), name)
    if os.path.exists(beside) and not is_regular(beside):
        raise RefusedError(
            f"expected a regular file of values, got a pipe or device, {name!r}; put it there"
        )


# Encodings of NRRD that can unpack to much more than the file, and what unpacks them.
_UNPACKED: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("gzip", "gz"), lambda stream: gzip.GzipFile(fileobj=stream)),
    **dict.fromkeys(("bzip2", "bz2"), bz2.BZ2File),
}
# Bytes of a value by the type of a MetaImage.
_META_BYTES = (
    ("CHAR", 1),
    ("SHORT", 2),
    ("LONG_LONG", 8),
    ("DOUBLE", 8),
    ("INT", 4),
    ("LONG", 4),
    ("FLOAT", 4),
)
_CLAIMS: list[tuple[tuple[str, ...], Callable[[str], tuple[int, int]]]] = [
    ((".nii", ".nii.gz", ".img", ".hdr", ".mgz", ".mgh"), _nibabel),
    ((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"), _picture),
    ((".nrrd",), _nrrd),
    ((".mha", ".mhd"), _metaimage),
]
