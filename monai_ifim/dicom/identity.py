"""What all objects of one result have in common: who made them, when, and how they are called.

A UID is a digest of everything that an object is made of: source, values, network, versions, time.
The same result gives the same objects however often they are written, so that a PACS that has them
already keeps one of each; another result never has the UID of a former one. A host that computes a
result anew for each request names what it depends on (``Result.key``) instead of values and time.
"""

from __future__ import annotations

import hashlib
import uuid
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from monai_ifim.data.sources.dicom import OWN
from monai_ifim.dicom.series import SourceSeries
from monai_ifim.messages import RESEARCH_ONLY, printable, reason

SHORT_SENTENCE = "Research use only: local sensitivity, not a diagnosis"  # 64 characters at most
_IN_SERIES = "research use only, not a diagnosis"
_NAMESPACE = uuid.UUID("6a1f3c0e-5b0d-5c55-9f5b-0d7f1f1c6e11")
# Series of one source by what they hold; viewers show their numbers and their order.
_NUMBERS = {"high": 901, "orth": 902, "sensitivity": 903, "picture": 904, "numbers": 905}
_UTF8 = "ISO_IR 192"
_TIMES = (
    ("ContentDate", "ContentTime"),
    ("InstanceCreationDate", "InstanceCreationTime"),
    ("DateOfSecondaryCapture", "TimeOfSecondaryCapture"),
)


@dataclass(frozen=True)
class Result:
    """What is known of a result, whatever object it becomes.

    Attributes:
        model: network that made it, for example "DenseNet121 0123abcd"; empty for unknown.
        created: when its values were computed.
        run: name of the run that it belongs to; results of one run share their series.
        number: from 1, among the results of one run.
        key: of all that the result depends on besides the images, in the place of its values and
            its time; empty where these count.
        options: what was asked for, in words; empty for nothing.
    """

    model: str = ""
    created: datetime = field(default_factory=datetime.now)
    run: str = ""
    number: int = 1
    key: str = ""
    options: str = ""


def uid_of(*parts: Any) -> str:
    """A UID below 2.25 (DICOM PS3.5, B.2), the same for the same parts.

    Args:
        parts: arrays, and what has a text.

    Returns:
        The UID.

    >>> uid_of("a", 1) == uid_of("a", 1), uid_of("a", 1) == uid_of("a1")
    (True, False)
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype} {part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(repr(part).encode())
        digest.update(b"\0")
    return f"2.25.{uuid.uuid5(_NAMESPACE, digest.hexdigest()).int}"


def identity(
    source: SourceSeries, kind: str, result: Result, *content: Any, part: int | None = None
) -> dict[str, Any]:
    """Arguments that every object is made with.

    Args:
        source: of the result.
        kind: "high", "orth", "sensitivity", "picture" or "numbers".
        result: what is known of it.
        content: arrays and texts that the object holds.
        part: which channel of several, from 0; None for the only one. Each has its own series.

    Returns:
        UIDs, numbers, equipment and description, as highdicom's classes take them.
    """
    from monai_ifim.dicom.codes import scheme

    made_by = (_version("monai_ifim"), _version("highdicom"))
    of_series = (source.first.SeriesInstanceUID, kind, part, result.run, result.model, *made_by)
    images = tuple(str(d.SOPInstanceUID) for d in source.datasets)
    what = kind if part is None else f"{kind}, channel {part + 1}"
    values = (result.key,) if result.key else (result.created, result.number, *content)
    return {
        "series_instance_uid": uid_of("series", *of_series),
        "series_number": _NUMBERS[kind],
        "sop_instance_uid": uid_of("object", *of_series, images, *values),
        "instance_number": result.number,
        "manufacturer": OWN,
        "manufacturer_model_name": shortened(result.model or "unknown network"),
        "software_versions": made_by[0],
        "device_serial_number": shortened(result.model.rpartition(" ")[2] or "unknown"),
        "series_description": shortened(f"iFIM {what}, {_IN_SERIES} {result.model}"),
        "content_qualification": "RESEARCH",
        "coding_schemes": scheme(),
    }


def character_set(source: SourceSeries, texts: Iterable[str]) -> dict[str, Any]:
    """The character set of an object: that of its source, UTF-8 where a text of ours needs it.

    Args:
        source: of the result.
        texts: that are written into the object.

    Returns:
        An argument of highdicom's classes.
    """
    own = source.first.get("SpecificCharacterSet")
    plain = all(text.isascii() for text in texts)
    value = own or None if plain else _UTF8
    return {"specific_character_set": value}


def shortened(text: str, most: int = 64) -> str:
    r"""A text for a field of limited length, without what DICOM gives a meaning.

    Args:
        text: of any length.
        most: characters.

    Returns:
        The text, with dots where its end was cut off.

    >>> shortened("a\\b" * 10, 12)
    'a/ba/ba/b...'
    """
    text = printable(text.replace("\\", "/")).strip()
    return text if len(text) <= most else f"{text[: most - 3]}..."


def built(make: Callable[..., Any], result: Result, **arguments: Any) -> Any:
    """Make an object, with the time of the result in the place of now.

    Args:
        make: class of highdicom.
        result: what is known of it.
        arguments: of the class.

    Returns:
        The object.

    Raises:
        ValueError: highdicom does not take the source, with what it said.
    """
    try:
        with warnings.catch_warnings():  # the patient's name is copied as it is
            warnings.filterwarnings("ignore", "The string .* is unlikely", UserWarning)
            made = make(**arguments)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"expected headers that highdicom can refer to, got {reason(error)}; fix the headers "
            "of the series, or export it again"
        ) from error
    for date, time in _TIMES:
        if date in made:
            setattr(made, date, result.created.strftime("%Y%m%d"))
            setattr(made, time, result.created.strftime("%H%M%S.%f"))
    for item in made.get("ContributingEquipmentSequence") or ():
        if item.get("ManufacturerModelName") == "highdicom":
            item.ContributionDateTime = result.created.strftime("%Y%m%d%H%M%S.%f")
    return made


def copy_side(made: Any, source: SourceSeries) -> None:
    """Which part and side of the body an image shows, as its source says.

    Where it says neither, the side is empty, which is DICOM's word for unknown.

    Args:
        made: an image; changed.
        source: of it.
    """
    first = source.first
    side = first.get("Laterality") or first.get("ImageLaterality")
    if first.get("BodyPartExamined"):
        made.BodyPartExamined = first.BodyPartExamined
    if side or not first.get("BodyPartExamined"):
        made.Laterality = side or ""


def in_words(result: Result) -> str:
    """What a reader of an object must know.

    Args:
        result: what is known of it.

    Returns:
        One line: what it is for, which network made it, and with which options.
    """
    options = f" Options: {result.options}." if result.options else ""
    return f"{RESEARCH_ONLY} Network: {result.model or 'unknown'}.{options}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout on the path, not installed
        return "unknown"
