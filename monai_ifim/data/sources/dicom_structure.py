"""What no intact DICOM file has; its reader may take gigabytes, or end the process, to say so."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import Any

_DICOM_ROOT = "1.2.840.10008."
_VR = re.compile(r"[A-Z]{2}|\?\?")  # GE writes ?? where it does not know
_SAMPLES = (1, 3, 4)
_BITS = (1, 8, 16, 24, 32, 64)
_SIZE_OF_J2K = b"\xff\x4f\xff\x51"  # start of the code stream, and of its size
_MOST_TILES = 65535  # of JPEG 2000
_HEAD = 4096  # bytes of a frame in which its size stands


def problem_of_structure(dataset: Any) -> str | None:
    """Why the elements of a file cannot be those of an image.

    Args:
        dataset: as pydicom read it, without its pixels' values if need be.

    Returns:
        A sentence: expected, got, how to fix it; None where there is no such problem.
    """
    if not len(dataset):
        return "expected DICOM with an image, got a header with nothing behind it; copy it again"
    return _problem_of_syntax(dataset) or _problem_of_uids(dataset) or _problem_of_size(dataset)


def problem_of_elements(elements: Iterable[Any]) -> str | None:
    """Why the elements of a file are not all of them DICOM's.

    Args:
        elements: in the order of the file, as pydicom reads them: of a data set the later one of
            two has taken the place of the other.

    Returns:
        A sentence: expected, got, how to fix it; None where there is no such problem.
    """
    last = -1
    for element in elements:
        if element.tag <= last or (element.VR and not _VR.match(element.VR)):
            return (
                f"expected elements of DICOM in the order of their tags, got {element.tag}; the "
                "file is damaged, or something stands behind it: copy it again"
            )
        last = element.tag
    return None


def problem_of_frame(frame: bytes, dataset: Any) -> str | None:
    """Why a compressed frame cannot be that of an image; only JPEG 2000 is looked into.

    Args:
        frame: its compressed bytes, or the first 4096 of them.
        dataset: of the file.

    Returns:
        A sentence: expected, got, how to fix it; None where there is no such problem.
    """
    if "JPEG 2000" not in dataset.file_meta.TransferSyntaxUID.name:
        return None
    start = frame.find(_SIZE_OF_J2K, 0, _HEAD)
    if start < 0 or len(frame) < start + 40:
        return "expected JPEG 2000 pixels, got others, or damaged ones; copy the file again"
    right, low, left, top, width, height, x, y = struct.unpack_from(">8I", frame, start + 8)
    got = (low - top, right - left)
    size = (int(dataset.Rows), int(dataset.Columns))
    if got != size:
        return (
            f"expected a frame of {size[0]} rows and {size[1]} columns as the header says, got "
            f"{got[0]} and {got[1]} in its JPEG 2000 stream; it is damaged: copy the file again"
        )
    if not (width and height) or -(-(right - x) // width) * -(-(low - y) // height) > _MOST_TILES:
        return (
            f"expected at most {_MOST_TILES} tiles, got JPEG 2000 in tiles of {width} by {height}; "
            "it is damaged: copy the file again"
        )
    return None


def _problem_of_syntax(dataset: Any) -> str | None:
    from pydicom.uid import UID_dictionary

    syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    if syntax is None:  # pydicom guesses, and says so
        return None
    known = UID_dictionary.get(syntax, ("", ""))[1] == "Transfer Syntax"
    if known or (syntax.is_valid and not syntax.startswith(_DICOM_ROOT)):  # those of makers
        return None
    return (
        f"expected a transfer syntax of DICOM that pydicom knows, got {str(syntax)!r}; the file is "
        "damaged, or newer: copy it again, or save it uncompressed"
    )


def _problem_of_uids(dataset: Any) -> str | None:
    """Their rules are broken in many files that can be read, but none has unprintable bytes."""
    uids = [element for element in getattr(dataset, "file_meta", ()) if element.VR == "UI"]
    uids += [dataset[name] for name in ("SOPClassUID", "SOPInstanceUID") if name in dataset]
    for element in uids:
        if not str(element.value or "").rstrip("\0").isprintable():
            got = f"{element.value!r} as {element.keyword}"
            return f"expected a UID of digits and dots, got {got}; copy the file again"
    return None


def _problem_of_size(dataset: Any) -> str | None:
    if not dataset.get("Rows"):
        return None
    for name, allowed in (("SamplesPerPixel", _SAMPLES), ("BitsAllocated", _BITS)):
        value = dataset.get(name)
        if value is not None and value not in allowed:
            return (
                f"expected DICOM with a {name} of {', '.join(map(str, allowed))}, got {value}; the "
                "header is damaged: copy the file again"
            )
    return None
