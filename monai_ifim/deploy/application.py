"""An application of the MONAI Deploy App SDK: a DICOM folder to results of one of its series."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application
from monai.deploy.operators import DICOMDataLoaderOperator, DICOMSeriesSelectorOperator

from monai_ifim.deploy.operator import IFIMOperator
from monai_ifim.deploy.series import SeriesOperator
from monai_ifim.deploy.writer import ResultsWriterOperator

# The first series in each study that holds images; not reports, overlays and results (SR, SEG, OT).
RULES = json.dumps(
    {
        "selections": [
            {"name": "image", "conditions": {"Modality": "^(CT|MR|PT|NM|CR|DX|MG|XA|US)$"}}
        ]
    }
)


class IFIMApplication(Application):
    """DICOM folder → one series → bundle → Parametric Maps and a report of the numbers.

    Folders come from the command line (``--input``, ``--output``, ``--model``: the bundle) or from
    the environment that the SDK's containers set (``HOLOSCAN_INPUT_PATH`` and so on).

    Args:
        argv: program and arguments; those of the process when None.
        rules: of the SDK's series selection, as JSON.
        volumes: which of ``"high"``, ``"orth"``, ``"sensitivity"`` to write.
        options: the fields of ``EigenspaceOptions``, for example ``rank=5``.
    """

    def __init__(
        self,
        argv: Sequence[str] | None = None,
        *,
        rules: str = RULES,
        volumes: Sequence[str] = ("high", "orth"),
        **options: Any,
    ) -> None:
        self._rules, self._volumes, self._options = rules, tuple(volumes), options
        super().__init__(None if argv is None else list(argv))

    def compose(self) -> None:
        """Make the operators and connect them."""
        context = Application.init_app_context(self.argv)
        series = "study_selected_series_list"
        once = CountCondition(self, 1)  # it would load the folder again and again
        folder = Path(context.input_path)
        load = DICOMDataLoaderOperator(self, once, input_folder=folder, name="load")
        select = DICOMSeriesSelectorOperator(self, rules=self._rules, name="select")
        image = SeriesOperator(self, name="image")
        ifim = IFIMOperator(
            self, bundle=Path(context.model_path), volumes=self._volumes, **self._options
        )
        write = ResultsWriterOperator(
            self, output_folder=Path(context.output_path), volumes=self._volumes
        )
        self.add_flow(load, select, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(select, image, {(series, series)})
        self.add_flow(image, ifim, {("image", "image")})
        self.add_flow(select, write, {(series, series)})
        self.add_flow(ifim, write, {(port, port) for port in ("numbers", *self._volumes)})
