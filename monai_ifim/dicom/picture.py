"""The picture of a case as a Secondary Capture, for eyes and for viewers without float maps."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from monai_ifim.dicom.identity import (
    Result,
    built,
    character_set,
    copy_side,
    identity,
    in_words,
    shortened,
)
from monai_ifim.dicom.series import SourceSeries
from monai_ifim.report.cases import Case, Style, case_figure

_DPI = 90
_ONE_AT_A_TIME = threading.Lock()  # matplotlib's settings are those of the process


def case_pixels(case: Case, style: Style | None = None) -> np.ndarray:
    """Draw a case, as the report does.

    Args:
        case: volumes and numbers.
        style: how it is drawn.

    Returns:
        (rows, columns, 3), red, green and blue in uint8.
    """
    with _ONE_AT_A_TIME:
        figure = case_figure(case, style)
        figure.set_dpi(_DPI)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def case_picture(pixels: np.ndarray, source: SourceSeries, result: Result) -> Any:
    """Make a Secondary Capture of a picture.

    Args:
        pixels: (rows, columns, 3), of ``case_pixels``.
        source: whose patient and study it belongs to.
        result: what is known of it.

    Returns:
        highdicom's object.

    Raises:
        ValueError: highdicom does not take the headers of the source.
    """
    from highdicom.sc import SCImage
    from pydicom.uid import ExplicitVRLittleEndian

    made = built(
        SCImage.from_ref_dataset,
        result,
        ref_dataset=source.first,
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),  # asked for; several planes have no one orientation
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **character_set(source, [result.model]),
        **identity(source, "picture", result, pixels),
    )
    copy_side(made, source)
    made.PatientOrientation = []
    made.BurnedInAnnotation = "YES"  # the name of the file
    made.ImageComments = shortened(in_words(result), 1024)
    made.DerivationDescription = shortened(in_words(result), 1024)
    made.SourceImageSequence = [_reference(dataset) for dataset in source.datasets]
    return made


def _reference(dataset: Any) -> Any:
    from pydicom.dataset import Dataset
    from pydicom.sr.codedict import codes

    item, purpose, code = Dataset(), Dataset(), codes.DCM.SourceImageForImageProcessingOperation
    item.ReferencedSOPClassUID = dataset.SOPClassUID
    item.ReferencedSOPInstanceUID = dataset.SOPInstanceUID
    purpose.CodeValue, purpose.CodingSchemeDesignator = code.value, code.scheme_designator
    purpose.CodeMeaning = code.meaning
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item
