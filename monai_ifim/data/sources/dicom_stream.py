"""DICOM files as streams that give no more than there is: lengths that lie, deflated files."""

from __future__ import annotations

import io
import os
import warnings
import zlib
from typing import Any

from monai_ifim.data.sources.dicom_structure import (
    problem_of_elements,
    problem_of_frame,
    problem_of_structure,
)
from monai_ifim.data.sources.formats import has_preamble
from monai_ifim.messages import reason

_DEFLATED = "1.2.840.10008.1.2.1.99"
_BLOCK = 2**16
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


class BoundedStream(io.BufferedReader):
    """A file of which no read sets aside more memory than the file is long.

    Python's own streams, and pydicom with them, take memory for as much as an element's length
    says before they look whether it is there.

    Attributes:
        beyond: the furthest byte that an element was to reach behind the file's end; 0 for none.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(io.FileIO(path))
        self._end = os.fstat(self.fileno()).st_size
        self._length = max(self._end, _BLOCK)
        self.beyond = 0

    def read(self, size: int | None = -1) -> bytes:
        """Read.

        Args:
            size: bytes at the most; None or negative for all.

        Returns:
            The bytes that are there.
        """
        if size is not None and size > self._length:
            self.beyond = max(self.beyond, self.tell() + size)
            size = self._length
        return super().read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, as over an element whose value is not wanted.

        Args:
            offset: in bytes.
            whence: from where, as in Python's files.

        Returns:
            The place.
        """
        place = super().seek(offset, whence)
        if place > self._end:
            self.beyond = max(self.beyond, place)
        return place


def read_dicom(path: str | os.PathLike[str], **options: Any) -> Any:
    """``pydicom.dcmread`` through a bounded stream.

    Args:
        path: of the file.
        options: of ``dcmread``.

    Returns:
        The data set; errors are pydicom's.
    """
    import pydicom

    with BoundedStream(path) as stream:
        return pydicom.dcmread(stream, **options)


def problem_of_stream(path: str | os.PathLike[str], limit: float) -> str | None:
    """Why a file must not be handed to a DICOM reader; a damaged one is left to it.

    Args:
        path: of the file.
        limit: bytes that a deflated file may unpack to.

    Returns:
        A sentence: expected, got, how to fix it; None where there is no such problem.
    """
    with BoundedStream(path) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its reader gives them
        try:
            if _is_deflated(stream):
                return _problem_of_deflated(stream, limit)
            stream.seek(0)
            problem = _problem_of_elements(stream)
        except Exception as error:  # pydicom's; of a file that is no DICOM its reader says why
            problem = _damaged(error) if has_preamble(path) else None
        if stream.beyond:
            return (
                f"expected elements that fit into the file's {os.path.getsize(path)} bytes, got "
                f"one up to byte {stream.beyond}; it is cut or damaged: copy it again"
            )
    return problem


def unpacks_to_more(path: str | os.PathLike[str], limit: float) -> bool:
    """Whether a file is deflated, and unpacks to more than a limit.

    Args:
        path: of the file.
        limit: in bytes.

    Returns:
        Yes or no; no for a file that cannot be read.
    """
    try:
        with BoundedStream(path) as stream:
            return _is_deflated(stream) and _problem_of_deflated(stream, limit) is not None
    except Exception:  # pydicom's, zlib's, the system's
        return False


def _damaged(error: Exception) -> str:
    return f"expected DICOM, got a damaged file ({reason(error)}); copy it again"


def _is_deflated(stream: BoundedStream) -> bool:
    """Whether the data set behind the file's meta information is; the stream then begins there."""
    return bool(_pass_meta(stream).get("TransferSyntaxUID") == _DEFLATED)


def _pass_meta(stream: BoundedStream) -> Any:
    """The meta information; the stream is behind it then."""
    from pydicom.filereader import _read_file_meta_info, read_preamble

    stream.seek(0)
    read_preamble(stream, False)
    return _read_file_meta_info(stream)


def _problem_of_deflated(stream: BoundedStream, limit: float) -> str | None:
    inflate, packed, count = zlib.decompressobj(-zlib.MAX_WBITS), b"", 0
    while packed or (packed := stream.read(_BLOCK)):
        count += len(inflate.decompress(packed, _BLOCK))
        packed = inflate.unconsumed_tail
        if count > limit:
            return (
                f"expected a deflated file of at most {limit:.0f} bytes, got one that unpacks to "
                "more; it is damaged, or raise max_voxels"
            )
        if inflate.eof:
            return None
    return None


def _problem_of_elements(stream: BoundedStream) -> str | None:
    """Bytes that are no elements, and pixels that are not there or not what the header says."""
    # GDCM takes a gigabyte to say so of some small files, and ends the process at others.
    import pydicom
    from pydicom.filereader import data_element_generator

    # Values of pixels are passed over: a series is not read twice.
    dataset = pydicom.dcmread(stream, defer_size=_BLOCK)
    if problem := problem_of_structure(dataset):
        return problem
    _pass_meta(stream)
    elements = data_element_generator(stream, *dataset.original_encoding, defer_size=_BLOCK)
    if problem := problem_of_elements(elements):
        return problem
    behind = iter(lambda: stream.read(_BLOCK), b"")  # pydicom stops at a stray end
    if any(block.strip(b"\0") for block in behind):
        return "expected the last element at the end of the file, got more; copy the file again"
    return _problem_of_pixels(stream, dataset) if dataset.get("Rows") else None


def _problem_of_pixels(stream: BoundedStream, dataset: Any) -> str | None:
    import pydicom
    from pydicom.encaps import generate_fragments

    if not any(name in dataset for name in _PIXELS):
        return "expected DICOM with an image, got a size without pixels; copy the file again"
    if not dataset.file_meta.TransferSyntaxUID.is_compressed:
        return None
    stream.seek(0)
    try:
        table, *fragments = generate_fragments(pydicom.dcmread(stream).PixelData)
    except Exception as error:  # pydicom's and struct's
        return f"expected compressed pixels, got a damaged file ({error}); copy it again"
    return problem_of_frame(fragments[0] if fragments else table, dataset)
