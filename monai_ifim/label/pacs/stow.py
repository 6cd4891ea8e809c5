"""Objects into the PACS by STOW, all of a request or a sentence on what it did not take."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Collection, Sequence
from typing import Any, BinaryIO

import requests
from pydicom.uid import UID

from monai_ifim.label.pacs.dicomweb import DICOM_PARTS, DicomWeb, PacsError, Row, text

_FAILED, _STORED = "00081198", "00081199"  # FailedSOPSequence, ReferencedSOPSequence
_DUPLICATE = 0x0111
# DICOM PS3.18, table I.2-2; the first hexadecimal digits tell the kind.
_REASONS = {
    0x0110: "it could not process it",
    0x0122: "it does not take this class",
    0x0124: "it is not allowed",
    0x0131: "it does not know this class for a service",
    0xA7: "it is out of resources",
    0xA9: "the object does not fit its class",
    0xC0: "it cannot understand it",
    0xC1: "it does not take this transfer syntax",
}
_NAMED = 3  # objects that are named


def store(pacs: DicomWeb, study: str, objects: Sequence[Any]) -> None:
    """Send objects in one request.

    DICOMweb has no way back: of what the PACS refused in part, the rest stays there.

    Args:
        pacs: to send them to.
        study: their StudyInstanceUID.
        objects: pydicom data sets.

    Raises:
        PacsError: 502, the PACS did not store all of them, with those and the reason; 504, it did
            not answer in time, and whether they are stored is not known.
    """
    address = pacs.address("stow", f"studies/{study}")
    boundary = secrets.token_hex(16)
    with tempfile.TemporaryFile() as body:  # several times the size of the image
        _write(objects, boundary, body)
        body.seek(0)
        answer = pacs.send(address, body, f"{DICOM_PARTS}; boundary={boundary}")
    told = _content(answer)
    if told is None or not (_items(told, _FAILED) or answer.ok):
        pacs.check(answer)
    refused = _refused(told or {})
    taken = {text(item, "ReferencedSOPInstanceUID") for item in _items(told or {}, _STORED)}
    silent = {str(each.SOPInstanceUID) for each in objects} - taken - set(refused)
    silent -= present(pacs, study, silent)
    lost = [each for each in objects if each.SOPInstanceUID in {*silent, *refused}]
    if lost:
        raise PacsError(_sentence(pacs, objects, lost, refused))


def present(pacs: DicomWeb, study: str, uids: Collection[str]) -> set[str]:
    """Which objects the PACS has.

    Args:
        pacs: to ask.
        study: their StudyInstanceUID.
        uids: SOPInstanceUIDs.

    Returns:
        Those that are there.

    Raises:
        PacsError: no answer, or none that can be used.
    """
    path, key = f"studies/{study}/instances", "SOPInstanceUID"
    # Servers that do not know a condition ignore it.
    return {u for u in uids if any(text(row, key) == u for row in pacs.search(path, key, {key: u}))}


def _write(objects: Sequence[Any], boundary: str, body: BinaryIO) -> None:
    for each in objects:
        body.write(f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode())
        each.save_as(body, enforce_file_format=True)
        body.write(b"\r\n")
    body.write(f"--{boundary}--\r\n".encode())


def _content(answer: requests.Response) -> Row | None:
    """The answer's data set; None of one that is none."""
    try:
        told = answer.json()
    except requests.exceptions.JSONDecodeError:
        return None
    told = told[0] if isinstance(told, list) and told else told
    return told if isinstance(told, dict) else None


def _items(told: Row, tag: str) -> list[Row]:
    """Items of a sequence in DICOM JSON; Orthanc has empty ones where there are none."""
    entry = told.get(tag)
    values = entry.get("Value") if isinstance(entry, dict) else None
    return [item for item in values or () if isinstance(item, dict)]


def _refused(told: Row) -> dict[str, str]:
    """Why, by SOPInstanceUID; what the PACS has already is not refused."""
    refused = {}
    for item in _items(told, _FAILED):
        number = text(item, "FailureReason")
        code = int(number) if number.isdecimal() else -1
        if code != _DUPLICATE:
            why = _REASONS.get(code) or _REASONS.get(code >> 8) or "it gives no known reason"
            refused[text(item, "ReferencedSOPInstanceUID")] = f"{why}, {code:#06x}"
    return refused


def _sentence(
    pacs: DicomWeb, objects: Sequence[Any], lost: Sequence[Any], refused: dict[str, str]
) -> str:
    named = [
        f"{UID(each.SOPClassUID).name} ({refused.get(each.SOPInstanceUID, 'nothing said of it')})"
        for each in lost[:_NAMED]
    ]
    more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
    return (
        f"expected the PACS at {pacs.url} to store {len(objects)} objects, got "
        f"{len(objects) - len(lost)} stored, and not {', '.join(named)}{more}; ask again once it "
        "takes them: what it has stays there and is not sent twice"
    )
