"""The result of one series as DICOM objects in the PACS: maps, the picture of the case, numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from monai_ifim.dicom.identity import Result
from monai_ifim.dicom.numbers import told_numbers
from monai_ifim.dicom.objects import Volume, result_objects
from monai_ifim.dicom.series import SourceSeries, read_series
from monai_ifim.label.bundle import Components, stored_dtype
from monai_ifim.label.options import Options, refusal
from monai_ifim.label.pacs.dicomweb import DicomWeb
from monai_ifim.label.pacs.listing import Series
from monai_ifim.label.pacs.series import download_series
from monai_ifim.label.pacs.stow import present, store
from monai_ifim.report.cases import Case


def store_results(
    pacs: DicomWeb, series: Series, found: Components, options: Options, max_voxels: int
) -> dict[str, Any]:
    """Store a result in the study of its series; what the PACS has already is not sent again.

    UIDs are digests of the images and of ``found.key``: the same network and options give the same
    objects, others have series of their own.

    Args:
        pacs: to send it to.
        series: fields of the listing.
        found: result of the series.
        options: that it was asked for with.
        max_voxels: of the series.

    Returns:
        Ready for JSON: ``study``, ``objects`` (series and object UID by what they show), ``new``,
        which of them were not there before, and ``left_out``, what could not be made, empty for
        nothing.

    Raises:
        PacsError: no answer, or the PACS does not take all of them.
        HTTPException: 422, the series lacks what the objects must say, or has changed.
    """
    made, left_out = _objects(_source(pacs, series, max_voxels), found, options, series)
    study = series["StudyInstanceUID"]
    uids = {what: str(each.SOPInstanceUID) for what, each in made.items()}
    there = present(pacs, study, uids.values())
    new = [what for what, uid in uids.items() if uid not in there]
    if new:
        store(pacs, study, [made[what] for what in new])
    return {
        "study": study,
        "objects": {
            what: {
                "series": str(each.SeriesInstanceUID),
                "object": uids[what],
                "class": str(each.SOPClassUID),
            }
            for what, each in made.items()
        },
        "new": new,
        "left_out": left_out,
    }


def _source(pacs: DicomWeb, series: Series, max_voxels: int) -> SourceSeries:
    with tempfile.TemporaryDirectory(prefix="monai_ifim_") as folder:
        files = download_series(pacs, series, Path(folder), max_voxels)
        try:
            return read_series(files)
        except ValueError as error:
            raise _unfit(error) from error


def _objects(
    source: SourceSeries, found: Components, options: Options, series: Series
) -> tuple[dict[str, Any], str]:
    numbers = told_numbers(found.numbers)
    chosen = (("rank", options.rank), ("energy", options.energy))
    result = Result(
        found.model,
        datetime.now(),
        run=found.key,
        key=found.key,
        options=", ".join(f"{name} {value:g}" for name, value in chosen if value is not None),
    )
    volumes = list(_volumes(found))
    values = {name: each for name, each, _ in volumes}
    case = Case(
        name=", ".join(filter(None, (f"series {series['SeriesInstanceUID']}", result.options))),
        high=values["high"],
        orth=values["orth"],
        affine=volumes[0][2],
        sensitivity=values["sensitivity"],
        numbers=numbers,
        model=found.model,
    )
    try:
        return result_objects(volumes, case, numbers, source, result)
    except ValueError as error:
        raise _unfit(error) from error


def _volumes(found: Components) -> Iterator[Volume]:
    """The values that are saved as labels, (C, X, Y, Z) on the grid of the series."""
    if found.source is None:  # of a NIfTI file it is known
        raise refusal("expected a result on the grid of its series, got one without", 422)
    for name, volume in found.volumes.items():
        values = np.asarray(volume.cpu(), dtype=stored_dtype(volume))
        values = values.reshape(*values.shape, *[1] * (4 - values.ndim))
        yield str(name), values, found.source.affine


def _unfit(error: ValueError) -> Exception:
    return refusal(f"expected a result that the PACS can get, got another: {error}", 422)
