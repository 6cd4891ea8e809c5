"""A classification bundle as a function from an image in memory to its components."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.image_reader import ImageReader
from monai.transforms import Compose, LoadImaged
from torch import Tensor

from monai_ifim.bundle.classifier import bundle_network
from monai_ifim.bundle.configuration import BundleConfiguration, scripts_of
from monai_ifim.bundle.metadata import class_names
from monai_ifim.core import Space, chosen_options, pooled_note, taken_in
from monai_ifim.data.provenance import pooled_name
from monai_ifim.data.sources.values import check_values
from monai_ifim.messages import RESEARCH_ONLY, is_failure, reason
from monai_ifim.outputs import check_volumes, outputs_of_network, with_class_names
from monai_ifim.transforms.invert import InvertComponentsd
from monai_ifim.transforms.traceable import traceable_preprocessing


@dataclass(frozen=True, eq=False)
class ImageResult:
    """What a bundle gives for one image.

    Attributes:
        numbers: prediction and spectrum, ready for JSON, with a note on their use.
        volumes: (C, *S) float by component, on the image's own grid.
        model: name and version of the bundle, and a digest of its weights.
    """

    numbers: dict[str, Any]
    volumes: Mapping[str, Tensor]
    model: str


class InMemoryBundle:
    """Runs a bundle's preprocessing and network on arrays, and inverts the preprocessing.

    What of a bundle counts is listed in ``BundleConfiguration``; its loaders are given the array in
    the place of a file. One image at a time.

    Args:
        folder: of the bundle.
        volumes: which of ``VOLUMES`` to form.
        device: where to compute; the GPU when empty and there is one.
        options: the fields of ``EigenspaceOptions``; the likelihood is the bundle's where none is
            named.
        space: a pooled eigenspace, or a file of one, in which the components are taken; the
            options' ``rank`` counts its directions then.

    Raises:
        TypeError: a field that is no option.
        ValueError: the folder is not such a bundle, an unknown volume, or an impossible option.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        volumes: str | tuple[str, ...] = ("high", "orth"),
        device: str = "",
        options: Mapping[str, Any] | None = None,
        space: Space = None,
    ) -> None:
        root = Path(os.path.abspath(folder))
        self.volumes = check_volumes(volumes)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            known = self._configuration = BundleConfiguration(root)
            with torch.random.fork_rng([]), torch.inference_mode(False):
                self._network = bundle_network(known, self.device)
            self._preprocessing = traceable_preprocessing(known.content("preprocessing"))
        except Exception as error:  # the code of the bundle's author raises what it likes
            raise ValueError(
                f"expected the folder of a classification bundle, got {str(root)!r}: "
                f"{reason(error)}"
            ) from error
        chosen = chosen_options({"likelihood": known.likelihood, **(options or {})}, {})
        self.space, self.options = taken_in(space, chosen)
        self.axes = len(known.image_shape or (0, 0, 0))
        digest = hashlib.sha256(known.weights.read_bytes()).hexdigest()[:12]
        version = known.metadata.get("version", "")
        self.model = f"{root.name} {version}-{digest}".replace(" -", " ") + pooled_name(self.space)
        self._class_names = class_names(root)
        self._reader = _ArrayReader()
        for loader in _loaders(self._preprocessing, known.image_key):
            loader._loader.register(self._reader)  # MONAI offers no other way to it
        self._lock = threading.Lock()

    def run(self, array: np.ndarray, affine: np.ndarray, name: str = "image") -> ImageResult:
        """Components of one image.

        Args:
            array: spatial axes alone, columns first, as MONAI's readers have them.
            affine: (4, 4), voxels to millimetres, RAS.
            name: of the image, for messages.

        Returns:
            Numbers and volumes.

        Raises:
            ValueError: the bundle cannot take the image, or there is no result, with the reason.
        """
        known, key = self._configuration, self._configuration.image_key
        with self._lock, scripts_of(known.folder), self._reader.holding(array, affine):
            try:
                item = self._preprocessing({key: _ArrayReader.NAME})
                image = item[key]
                if not isinstance(image, MetaTensor):
                    raise ValueError("the preprocessing dropped the image's metadata (track_meta)")
                check_values(item, key, self._preprocessing)
                batch = image.as_tensor()[None].to(self.device)
                outputs = outputs_of_network(
                    self._network, batch, self.options, self.volumes, within=self.space
                )
                if is_failure(outputs.statuses[0]):
                    raise ValueError(outputs.statuses[0])
                formed: dict[Hashable, Tensor] = {
                    n: outputs.values[f"ifim_{n}"][0].to(image.device) for n in self.volumes
                }
                invert = InvertComponentsd(self.volumes, self._preprocessing, key)
                volumes = invert.restore({key: image, **formed}).volumes if formed else {}
            except Exception as error:  # transforms and networks raise what they like
                raise ValueError(
                    f"expected an image that {known.folder.name} can take, got {name} of shape "
                    f"{array.shape}: {reason(error)}"
                ) from error
        numbers = with_class_names(outputs.numbers[0], self._class_names)
        return ImageResult(
            {
                **numbers,
                **pooled_note(self.space),
                "status": outputs.statuses[0],
                "note": RESEARCH_ONLY,
            },
            {str(name): volume for name, volume in volumes.items()},
            self.model,
        )


class _ArrayReader(ImageReader):
    """Gives MONAI's loaders an array, under a name that is no file's."""

    NAME = "image-in-memory"

    def __init__(self) -> None:
        self._held: tuple[np.ndarray, np.ndarray] | None = None

    def holding(self, array: np.ndarray, affine: np.ndarray) -> Any:
        """The reader, which knows the image inside a ``with`` block."""
        self._held = array, affine
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(self, *error: object) -> None:
        self._held = None

    def verify_suffix(self, filename: Any) -> bool:
        return self._is_name(filename)

    def read(self, data: Any, **kwargs: Any) -> Any:
        if self._held is None or not self._is_name(data):
            raise ValueError(f"expected the image in memory, got {data!r}; give one at a time")
        return self._held

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        array, affine = img
        return array, {
            "affine": affine,
            "original_affine": affine.copy(),
            "space": "RAS",
            "spatial_shape": np.asarray(array.shape),
            "original_channel_dim": float("nan"),  # MONAI's word for "no channel axis"
        }

    def _is_name(self, filename: Any) -> bool:
        names = [filename] if isinstance(filename, str) else list(filename)
        return len(names) == 1 and str(names[0]) == self.NAME


def _loaders(preprocessing: Any, key: str) -> list[LoadImaged]:
    flat = preprocessing.flatten().transforms if isinstance(preprocessing, Compose) else ()
    found = [part for part in flat if isinstance(part, LoadImaged) and key in part.keys]
    if not found:
        raise ValueError(f"expected a preprocessing with LoadImaged of {key!r}, got none")
    return found
