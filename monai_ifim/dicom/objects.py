"""The objects of one result: a map for each component, the picture of the case, the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from monai_ifim.dicom.identity import Result
from monai_ifim.dicom.numbers import numbers_report
from monai_ifim.dicom.parametric_map import parametric_map
from monai_ifim.dicom.picture import case_picture, case_pixels
from monai_ifim.dicom.series import SourceSeries
from monai_ifim.report.cases import Case, Numbers

OBJECTS = ("maps", "picture", "numbers")
Volume = tuple[str, np.ndarray, np.ndarray]
_NO_PICTURE = "no picture: it needs the volumes high and orth, and the run did not write both"


def result_objects(
    volumes: Iterable[Volume],
    case: Case | None,
    numbers: Numbers,
    source: SourceSeries,
    result: Result,
    objects: Sequence[str] = OBJECTS,
) -> tuple[dict[str, Any], str]:
    """Make the objects of one result.

    Args:
        volumes: name of a component, its values (C, X, Y, Z), and its affine in millimetres, RAS.
        case: for the picture; None where volumes are missing.
        numbers: of the image.
        source: series that the result is of.
        result: what is known of it.
        objects: which of ``OBJECTS`` to make.

    Returns:
        highdicom's objects by what they show, and what could not be made, empty for nothing.

    Raises:
        ValueError: there is nothing to make, the volumes are not on the series' grid, or highdicom
            does not take its headers.
    """
    made: dict[str, Any] = {}
    notes = []
    if "maps" in objects:
        if source.planes is None:
            notes.append(source.why)
        else:
            made |= _maps(volumes, source, result)
    if "picture" in objects:
        if case is None:
            notes.append(_NO_PICTURE)
        else:
            made["picture"] = _picture(case, source, result)
    if "numbers" in objects:
        made["numbers"] = numbers_report(numbers, source, result, list(made.values()))
    note = "; ".join(notes)
    if not made:
        raise ValueError(note or "expected something to write, got nothing; see its row")
    return made, note


def _maps(
    volumes: Iterable[Volume], source: SourceSeries, result: Result
) -> Iterator[tuple[str, Any]]:
    for component, channels, affine in volumes:
        for channel, values in enumerate(channels):
            several = len(channels) > 1
            made = parametric_map(
                values, affine, source, component, result, channel if several else None
            )
            yield f"{component}_channel{channel + 1}" if several else component, made


def _picture(case: Case, source: SourceSeries, result: Result) -> Any:
    if not source.in_space:  # no letters of sides that nobody knows
        case = replace(case, picture=True)
    return case_picture(case_pixels(case), source, result)
