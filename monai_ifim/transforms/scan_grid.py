"""From the network's grid back to the grid of the scan, all volumes in one pass."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, InvertibleTransform, ToTensord
from torch import Tensor

from monai_ifim.transforms.single_slice import SqueezeSingleSliced

# Transforms that treat every channel alike, in spite of other classes of their modules.
_CHANNELWISE = (ToTensord, SqueezeSingleSliced)
_CHANNELWISE_MODULES = ("monai.transforms.spatial.", "monai.transforms.croppad.")
_STACK = "ifim_stack"


class ScanGrid:
    """Undoes a preprocessing on the volumes of one image.

    The volumes are stacked as channels, so that a sampling grid is built and interpolated once for
    all of them. A preprocessing with an invertible transform that may treat channels differently,
    such as ``Lambdad``, is undone on each volume alone.

    Args:
        transform: the preprocessing that made the image.
        orig_keys: the image's key in it.

    Raises:
        ValueError: the transform cannot be inverted.
    """

    def __init__(self, transform: InvertibleTransform, orig_keys: Hashable) -> None:
        if not isinstance(transform, InvertibleTransform):
            raise ValueError(
                "expected the preprocessing as an invertible transform, got "
                f"{type(transform).__name__}; give the Compose that made the images, or None for "
                "volumes that stay on the network's grid"
            )
        self.orig_keys = orig_keys
        self._invert = Invertd(_STACK, transform, orig_keys=orig_keys, nearest_interp=False)
        parts = transform.flatten().transforms if isinstance(transform, Compose) else [transform]
        self._parts = [
            part
            for part in parts
            if isinstance(part, InvertibleTransform)
            and orig_keys in getattr(part, "keys", [orig_keys])
        ]
        self._channelwise = all(map(_channelwise, self._parts))

    def __call__(
        self, volumes: Mapping[Hashable, Tensor], image: Tensor
    ) -> dict[Hashable, MetaTensor]:
        """Bring the volumes to the scan's grid.

        Args:
            volumes: (C, *S) each, by key.
            image: (C, *S), the preprocessed image, with the record of its transforms.

        Returns:
            The volumes (C, *T) on the grid of the file, in float32, or float64 where they were.

        Raises:
            ValueError: the image has no record of the transforms, or a volume another shape.
        """
        self._check(volumes, image)
        plain = {key: _floating(volume) for key, volume in volumes.items()}
        if not self._parts:
            meta = image.meta if isinstance(image, MetaTensor) else {}
            return {key: MetaTensor(volume, meta=dict(meta)) for key, volume in plain.items()}
        if not self._channelwise:
            return {
                key: self._undo(volume, image).to(volume.dtype) for key, volume in plain.items()
            }
        exponents = {key: _exponent(volume) for key, volume in plain.items()}
        scaled = [_times_power_of_two(v, -exponents[key]) for key, v in plain.items()]
        stack = self._undo(torch.cat(scaled), image)  # in the widest of the dtypes
        parts = stack.as_tensor().split([len(volume) for volume in scaled])
        back = {
            key: _times_power_of_two(part.to(plain[key].dtype), exponents[key])
            for key, part in zip(plain, parts, strict=True)
        }
        return {key: MetaTensor(volume).copy_meta_from(stack) for key, volume in back.items()}

    def _undo(self, volume: Tensor, image: Tensor) -> MetaTensor:
        return self._invert({self.orig_keys: image, _STACK: MetaTensor(volume)})[_STACK]

    def _check(self, volumes: Mapping[Hashable, Tensor], image: Tensor) -> None:
        recorded = isinstance(image, MetaTensor) and image.applied_operations
        if self._parts and not recorded:
            got = "none" if isinstance(image, MetaTensor) else f"a plain {type(image).__name__}"
            raise ValueError(
                f"expected {self.orig_keys!r} with a record of the transforms that made it, got "
                f"{got}; ToTensord forgets it: use EnsureTyped in its place, or "
                "monai_ifim.traceable_preprocessing for both the dataset and this"
            )
        for key, volume in volumes.items():
            if volume.shape[1:] != image.shape[1:]:
                raise ValueError(
                    f"expected {key!r} on the grid of {self.orig_keys!r}, {tuple(image.shape[1:])},"
                    f" got {tuple(volume.shape[1:])}; save it before anything changes its shape"
                )


def _channelwise(transform: Any) -> bool:
    module = f"{type(transform).__module__}."
    return isinstance(transform, _CHANNELWISE) or module.startswith(_CHANNELWISE_MODULES)


def _floating(volume: Tensor) -> Tensor:
    volume = torch.as_tensor(volume).detach().as_subclass(Tensor)
    return volume.to(torch.promote_types(torch.float32, volume.dtype))


def _times_power_of_two(volume: Tensor, exponent: int) -> Tensor:
    return volume * 2.0**exponent if exponent else volume


def _exponent(volume: Tensor) -> int:
    """Of the power of two just above the largest value, for float64 volumes.

    MONAI interpolates in float32, in which the sensitivities of a confident prediction, 1e-60
    say, would be zero. Interpolation is linear, and a power of two changes no digit.

    Args:
        volume: (C, *S).

    Returns:
        The exponent; 0 for other types, and where a value is not finite.
    """
    if volume.dtype != torch.float64:
        return 0
    largest = float(volume.abs().max())
    if not math.isfinite(largest):
        return 0
    return max(-1000, min(1000, math.frexp(largest)[1]))
