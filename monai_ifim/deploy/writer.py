"""The results of one image as DICOM objects in the study of its series."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from monai.deploy.core import Operator

from monai_ifim.data.atomic import complete_file
from monai_ifim.deploy.images import array_of
from monai_ifim.deploy.series import datasets_of
from monai_ifim.dicom.identity import Result
from monai_ifim.dicom.numbers import numbers_report, told_numbers
from monai_ifim.dicom.parametric_map import check_highdicom, parametric_map
from monai_ifim.dicom.series import read_series


class ResultsWriterOperator(Operator):
    """Writes components as Parametric Maps, and the numbers as a structured report and as JSON.

    Named inputs:
        numbers: of ``IFIMOperator``.
        high, orth, sensitivity: those in ``volumes``.
        study_selected_series_list: of the SDK's selector; the series that the image was made of.

    Files in the output folder: ``ifim_high.dcm``, ``ifim_orth.dcm``, ``ifim_sensitivity.dcm``,
    ``ifim_numbers.dcm`` and ``ifim_numbers.json``. Each appears only when complete, and replaces
    one of its name. Of a picture without a place in the patient no map can be written:
    ``ifim_numbers.json`` says why.

    Args:
        fragment: the application.
        args: of ``Operator``: conditions and resources.
        output_folder: for the files; made where it is not there.
        volumes: names of the components that are connected.
        name: of the operator.

    Raises:
        ModuleNotFoundError: highdicom is not installed.
    """

    def __init__(
        self,
        fragment: Any,
        *args: Any,
        output_folder: str | os.PathLike[str],
        volumes: tuple[str, ...] = ("high", "orth"),
        name: str = "results",
    ) -> None:
        check_highdicom()
        self.output_folder, self.volumes = Path(output_folder), volumes
        super().__init__(fragment, *args, name=name)

    def setup(self, spec: Any) -> None:
        """Declare the ports.

        Args:
            spec: of the SDK.
        """
        for port in ("numbers", "study_selected_series_list", *self.volumes):
            spec.input(port)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        """Write the results of one image.

        Args:
            op_input: of the SDK.
            op_output: of the SDK.
            context: of the SDK.
        """
        numbers = op_input.receive("numbers")
        datasets = datasets_of(op_input.receive("study_selected_series_list"))
        components = {name: op_input.receive(name) for name in self.volumes}
        write_results(self.output_folder, datasets, numbers, components)


def write_results(
    folder: Path, datasets: list[Any], numbers: Mapping[str, Any], components: Mapping[str, Any]
) -> list[Path]:
    """Write the results of one image.

    Args:
        folder: for the files.
        datasets: pydicom data sets of the series.
        numbers: of ``IFIMOperator``.
        components: images of the SDK by component.

    Returns:
        Paths of the files.

    Raises:
        ValueError: the components are not on the series' grid, or highdicom does not take its
            headers.
    """
    source = read_series(datasets)
    result = Result(str(numbers.get("model", "")), datetime.now())
    made: dict[str, Any] = {}
    for component, image in components.items() if source.planes is not None else ():
        array, affine = array_of(image, 3)
        volume = np.atleast_3d(array)
        made[component] = parametric_map(volume, affine, source, component, result)
    report = numbers_report(told_numbers(numbers), source, result, list(made.values()))
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, dataset in {**made, "numbers": report}.items():
        paths.append(folder / f"ifim_{kind}.dcm")
        with complete_file(paths[-1]) as partial:
            dataset.save_as(partial, enforce_file_format=True)
    paths.append(folder / "ifim_numbers.json")
    told = {**numbers, "maps": source.why or "written"}
    with complete_file(paths[-1]) as partial:
        Path(partial).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return paths
