"""From a selected DICOM series to an image, with the checks of the package's own readers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.deploy.core import Image
from monai.deploy.operators import DICOMSeriesToVolumeOperator

from monai_ifim.data.sources.dicom import Slice, is_no_source, problem_of
from monai_ifim.data.sources.readers import SeriesReader
from monai_ifim.deploy.images import AFFINE

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def datasets_of(selected: Sequence[Any]) -> list[Any]:
    """The DICOM objects of the one series that was selected.

    Args:
        selected: ``study_selected_series_list`` of the SDK.

    Returns:
        pydicom data sets.

    Raises:
        ValueError: no series was selected, or several.
    """
    found = [(study, series) for study in selected or () for series in study.selected_series]
    if len(found) != 1:
        named = ", ".join(str(s.series.SeriesInstanceUID) for _, s in found[:3])
        raise ValueError(
            f"expected one selected series, got {len(found)}{': ' * bool(named)}{named}; change "
            "the rules of the selection"
        )
    return [one.get_native_sop_instance() for one in found[0][1].series.get_sop_instances()]


class SeriesOperator(DICOMSeriesToVolumeOperator):
    """``DICOMSeriesToVolumeOperator`` that refuses what is no regular volume.

    The SDK's own (4.0) makes a volume of series with gaps, drops slices without a position, and
    exchanges the spacings of rows and columns. Ports are the same. Intensities are after rescale
    slope and intercept, and nothing else, as those of the package's other hosts are.
    """

    def convert_to_image(self, study_selected_series_list: Sequence[Any]) -> Image:
        """Make an image of the one selected series.

        Args:
            study_selected_series_list: of the SDK's selector.

        Returns:
            (slices, rows, columns) in float32; one slice of a picture.

        Raises:
            ValueError: no series, several, no image, or no regular volume, with the reason.
        """
        datasets = datasets_of(study_selected_series_list)
        slices = [Slice(str(getattr(d, "filename", "slice")), d) for d in datasets]
        slices = [each for each in slices if each.has_image and not is_no_source(each.header)]
        if not slices:
            raise ValueError("expected a series of images, got none; change the selection's rules")
        problem = problem_of(slices)
        if problem:
            raise ValueError(problem)
        array, read = SeriesReader().get_data([each.header for each in slices])
        study = study_selected_series_list[0]
        chosen = study.selected_series[0]
        metadata = self.create_metadata(chosen.series)
        metadata.update(self._get_instance_properties(study.study))
        row, column = slices[0].header.get("PixelSpacing", (1.0, 1.0))
        metadata |= {
            "selection_name": chosen.selection_name,
            "affine": read["affine"],
            AFFINE: read["affine"],
            "dicom_affine_transform": _LPS @ read["affine"],
            "space": "RAS",
            "row_pixel_spacing": float(row),
            "col_pixel_spacing": float(column),
            "depth_pixel_spacing": float(np.linalg.norm(read["affine"][:3, 2])),
        }
        array = array if array.ndim == 3 else array[:, :, None]
        chosen.image = Image(np.ascontiguousarray(array.T), metadata)
        return chosen.image
