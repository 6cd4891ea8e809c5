"""Which series of the PACS are images for this server, asked anew when the last answer is old."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from pydicom.uid import UID

from monai_ifim.label.pacs.dicomweb import DicomWeb, PacsError, Row, text
from monai_ifim.label.pacs.settings import NO_IMAGES, PacsSettings

logger = logging.getLogger(__name__)
_UID = re.compile(r"[0-9.]{1,64}")
# For clients, which show them.
FIELDS = (
    *("SeriesInstanceUID", "StudyInstanceUID", "Modality", "PatientID", "StudyDate", "StudyTime"),
    *("SeriesDescription", "NumberOfSeriesRelatedInstances", "RetrieveURL"),
)
_ASKED = "PatientID,StudyDate,StudyTime,SeriesDescription,NumberOfSeriesRelatedInstances"
_WAIT_AFTER_FAILURE = 2.0  # seconds for which the same sentence is told without asking again
Series = dict[str, str]


class Listing:
    """Series of the PACS.

    Args:
        pacs: to ask.
        settings: modalities, further conditions, and how long an answer counts as new.
        kinds: SOP classes that are known already, by series; series found are added.
    """

    def __init__(self, pacs: DicomWeb, settings: PacsSettings, kinds: dict[str, str]) -> None:
        self.pacs = pacs
        self.settings = settings
        self.kinds = kinds
        self._lock = threading.Lock()
        self._series: dict[str, Series] = {}
        self._labelled: set[str] = set()
        self._references: dict[str, str] = {}
        self._asked = self._labelled_asked = float("-inf")
        self._failure: tuple[float, PacsError] | None = None

    def series(self) -> dict[str, Series]:
        """Series that are images, by their UID.

        Returns:
            Their fields, in the order of the PACS.

        Raises:
            PacsError: no answer, or none that can be used.
        """
        with self._lock:
            if self._is_old(self._asked):
                self._refuse_at_once()
                try:
                    self._series = self._images()
                except PacsError as error:
                    self._failure = (time.monotonic(), error)
                    raise
                self._asked, self._failure = time.monotonic(), None
            return self._series

    def labelled(self) -> set[str]:
        """Series that a segmentation in the PACS refers to.

        Returns:
            Their UIDs; where the PACS does not answer, those of its last answer.
        """
        with self._lock:
            if self._is_old(self._labelled_asked):
                try:
                    self._refuse_at_once()
                    self._labelled = self._referenced()
                    self._labelled_asked = time.monotonic()
                except PacsError as error:
                    logger.warning("segmentations of the PACS are unknown: %s", error.detail)
            return self._labelled

    def forget(self) -> None:
        """Ask anew at the next call."""
        with self._lock:
            self._asked = self._labelled_asked = float("-inf")

    def _is_old(self, asked: float) -> bool:
        return time.monotonic() - asked > self.settings.listing_seconds

    def _refuse_at_once(self) -> None:
        if self._failure and time.monotonic() - self._failure[0] < _WAIT_AFTER_FAILURE:
            raise self._failure[1]

    def _images(self) -> dict[str, Series]:
        everything = self.settings.modalities == ("ALL",)
        found: dict[str, Series] = {}
        for modality in (None,) if everything else self.settings.modalities:
            filters = {**(self.settings.filters or {}), "includefield": _ASKED}
            if modality:
                filters["Modality"] = modality
            for row in self.pacs.search("series", "SeriesInstanceUID", filters):
                series = _series(row)
                # Servers that do not know a condition ignore it.
                if series and modality in (None, series["Modality"]):
                    found[series["SeriesInstanceUID"]] = series
        self._ask_for_kinds(s for s in found.values() if s["SeriesInstanceUID"] not in self.kinds)
        return {uid: s for uid, s in found.items() if self._is_listed(s)}

    def _is_listed(self, series: Series) -> bool:
        kind = self.kinds.get(series["SeriesInstanceUID"], "")
        # Of unknown kind and "other" modality: rather a result than an image, until it is known.
        return is_image(kind) and (bool(kind) or series["Modality"] != "OT")

    def _ask_for_kinds(self, unknown: Iterable[Series]) -> None:
        """The SOP class of a first object tells parametric maps of CT from CT."""
        end = time.monotonic() + self.settings.seconds / 2

        def ask(series: Series) -> None:
            if time.monotonic() > end:
                return  # most are listed until the next time, and refused when downloaded
            path = f"studies/{series['StudyInstanceUID']}/series/{series['SeriesInstanceUID']}"
            try:
                rows = self.pacs.page(f"{path}/instances", {"limit": "1"})
            except PacsError as error:
                logger.warning("the kind of %s is unknown: %s", path, error.detail)
                return
            kind = text(rows[0], "SOPClassUID") if rows else ""
            if kind:
                self.kinds[series["SeriesInstanceUID"]] = kind

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, unknown))

    def _referenced(self) -> set[str]:
        rows = self.pacs.search("series", "SeriesInstanceUID", {"Modality": "SEG"})
        end = time.monotonic() + self.settings.seconds
        for row in rows:
            study, series = text(row, "StudyInstanceUID"), text(row, "SeriesInstanceUID")
            if series in self._references or time.monotonic() > end:
                continue
            try:
                objects = self.pacs.metadata(f"studies/{study}/series/{series}")
            except PacsError as error:
                logger.warning("the segmentation %s cannot be read: %s", series, error.detail)
                continue
            self._references[series] = _reference(objects)
        present = {text(row, "SeriesInstanceUID") for row in rows}
        return {
            image for segmentation, image in self._references.items() if segmentation in present
        }


def is_image(kind: str) -> bool:
    """Whether objects of a SOP class are images of a patient.

    Args:
        kind: UID of the class; empty where it is unknown, and private ones are taken for images.

    Returns:
        Yes or no: pictures of screens are none.

    >>> is_image("1.2.840.10008.5.1.4.1.1.2"), is_image("1.2.840.10008.5.1.4.1.1.30")
    (True, False)
    """
    name = UID(kind).name
    return name == kind or ("Image Storage" in name and "Secondary Capture" not in name)


def _series(row: Row) -> Series | None:
    series = {field: text(row, field) for field in FIELDS}
    uids = series["SeriesInstanceUID"], series["StudyInstanceUID"]
    if not all(_UID.fullmatch(uid) for uid in uids):
        logger.warning("a row of the PACS without proper UIDs is left out: %s", ascii(uids)[:200])
        return None
    return None if series["Modality"] in NO_IMAGES else series


def _reference(objects: list[Row]) -> str:
    """The series that a segmentation refers to."""
    for row in objects:
        sequence = row.get("00081115")  # ReferencedSeriesSequence
        values = sequence.get("Value") if isinstance(sequence, dict) else None
        for value in values if isinstance(values, list) else []:
            if isinstance(value, dict) and text(value, "SeriesInstanceUID"):
                return text(value, "SeriesInstanceUID")
    return ""
