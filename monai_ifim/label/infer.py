"""Inference tasks: a bundle's components, and its sensitivity as a label map for 3D Slicer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import ITKWriter, MetaTensor
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from torch import Tensor

from monai_ifim.data.writers import write_component
from monai_ifim.label.bundle import ClassificationBundle, Components, stored_dtype
from monai_ifim.label.options import SPACES, Options, parse_options
from monai_ifim.outputs import VOLUMES

# Shares of the image with the largest sensitivity; the last is the most sensitive.
LEVELS = {"top 10 % sensitivity": 0.10, "top 5 % sensitivity": 0.05, "top 1 % sensitivity": 0.01}


class BundleTask(InferTask):
    """What the two tasks of a bundle share.

    Args:
        bundle: to run.
        name: of the task, under which clients find it.
        options: type, labels, description and config of MONAI Label's ``InferTask``.
    """

    def __init__(self, bundle: ClassificationBundle, name: str, **options: Any) -> None:
        super().__init__(dimension=bundle.dimension, **options)
        self.bundle = bundle
        self.name = name

    def is_valid(self) -> bool:
        """Always: a folder that is no bundle never becomes a task."""
        return True

    def get_path(self, validate: bool = True) -> str:
        """Weights of the bundle.

        Args:
            validate: ignored; a bundle without weights never becomes a task.

        Returns:
            Path of the file.
        """
        return str(self.bundle.weights)

    def info(self) -> dict[str, Any]:
        """For ``/info/``.

        Returns:
            Type, labels, options and versions.
        """
        versions = {"version": self.bundle.version, "model_version": self.bundle.model_version}
        return {**super().info(), **versions, "class_names": self.bundle.class_names}

    def __call__(self, request: Mapping[str, Any]) -> tuple[None, dict[str, Any]]:
        """Numbers alone, for hosts that call a task by itself.

        Args:
            request: ``image`` is a path; the rest are options.

        Returns:
            No file, and the numbers.
        """
        options = parse_options({k: v for k, v in request.items() if k != "image"})
        return None, self.bundle.run(Path(request["image"]), options).numbers

    @abstractmethod
    def write(self, result: Components, options: Options, folder: Path) -> dict[str, Path]:
        """Files of a result by the tag's last part, the one to send back first."""

    @abstractmethod
    def describe(self, result: Components, options: Options) -> dict[str, Any]:
        """The parameters sent with the file."""


class ComponentTask(BundleTask):
    """The component volumes, and the numbers.

    Args:
        bundle: to run.
        stores: whether clients may ask for the result to be stored in the PACS.
    """

    def __init__(self, bundle: ClassificationBundle, *, stores: bool = False) -> None:
        super().__init__(
            bundle,
            bundle.name,
            # "segmentation" would make 3D Slicer take the floats for labels.
            type=InferType.OTHERS,
            labels=[],
            description=f"{bundle.description} Components of its Fisher information.",
            config={
                "component": list(VOLUMES),
                "rank": "",
                "energy": "",
                "device": [bundle.device],
                **({"space": list(SPACES)} if bundle.space else {}),
                **_config(stores),
            },
        )

    def write(self, result: Components, options: Options, folder: Path) -> dict[str, Path]:
        """Write all components as NIfTI.

        Args:
            result: of one image.
            options: the component to send back.
            folder: where to write.

        Returns:
            Paths by component, the chosen one first.
        """
        ordered = sorted(VOLUMES, key=lambda name: name != options.component)
        return {
            name: _write(result, name, result.volumes[name], folder / f"ifim_{name}.nii.gz")
            for name in ordered
        }

    def describe(self, result: Components, options: Options) -> dict[str, Any]:
        """Prediction and spectrum.

        Args:
            result: of one image.
            options: the component that is sent back.

        Returns:
            Ready for JSON.
        """
        dtypes = {name: stored_dtype(volume).name for name, volume in result.volumes.items()}
        return {"component": options.component, **result.numbers, "dtypes": dtypes}


class OverlayTask(BundleTask):
    """The sensitivity map in three levels, which 3D Slicer shows as a segmentation.

    Args:
        bundle: to run.
        stores: whether clients may ask for the result to be stored in the PACS.
    """

    def __init__(self, bundle: ClassificationBundle, *, stores: bool = False) -> None:
        super().__init__(
            bundle,
            f"{bundle.name}_overlay",
            type=InferType.SEGMENTATION,
            labels={name: i + 1 for i, name in enumerate(LEVELS)},
            description=f"{bundle.description} Where it is most sensitive.",
            config={"rank": "", "energy": "", "device": [bundle.device], **_config(stores)},
        )

    def write(self, result: Components, options: Options, folder: Path) -> dict[str, Path]:
        """Write the label map.

        Args:
            result: of one image.
            options: the file's extension.
            folder: where to write.

        Returns:
            One path.
        """
        levels = sensitivity_levels(result.volumes["sensitivity"])
        path = folder / f"ifim_overlay{options.extension}"
        if options.extension == ".nrrd":
            writer = ITKWriter(output_dtype=np.uint8)
            writer.set_data_array(levels, channel_dim=0)
            writer.set_metadata(levels.meta, resample=False)
            writer.write(path, compression=True)
        else:
            _write(result, "levels", levels, path)
        return {"overlay": path}

    def describe(self, result: Components, options: Options) -> dict[str, Any]:
        """Prediction, spectrum and names of the levels.

        Args:
            result: of one image.
            options: ignored; there is one label map.

        Returns:
            Ready for JSON.
        """
        return {**result.numbers, "label_names": self.labels}


def sensitivity_levels(sensitivity: Tensor) -> MetaTensor:
    """The sensitivity map in levels.

    Args:
        sensitivity: (C, *S), not negative; channels are added up.

    Returns:
        (1, *S) of uint8: 0, or the number of the highest of ``LEVELS`` that a voxel reaches among
        the voxels whose sensitivity is not 0.

    >>> sensitivity_levels(torch.arange(200.0).reshape(1, 10, 20)).as_tensor().flatten().bincount()
    tensor([180,  10,   8,   2])
    """
    total = sensitivity.as_subclass(Tensor).double().sum(dim=0, keepdim=True)
    levels = torch.zeros_like(total, dtype=torch.uint8)
    seen = total[total > 0].sort().values
    for level, share in enumerate(LEVELS.values(), start=1):
        count = max(1, round(share * len(seen)))
        if len(seen):
            levels[total >= seen[-count]] = level
    result = MetaTensor(levels)
    return result.copy_meta_from(sensitivity) if isinstance(sensitivity, MetaTensor) else result


def _config(stores: bool) -> dict[str, Any]:
    """What 3D Slicer shows as a box to tick."""
    return {"store_in_pacs": False} if stores else {}


def _write(result: Components, name: str, volume: Tensor, path: Path) -> Path:
    if volume.is_floating_point():
        volume = volume.to(getattr(torch, stored_dtype(volume).name))
    write_component(volume, path, name, result.source, result.source is not None, result.model)
    return path
