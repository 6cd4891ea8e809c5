"""From the network's grid back to the grid of the scan, all volumes in one pass."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from copy import copy, deepcopy
from itertools import pairwise
from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.utils import no_collation, to_affine_nd
from monai.transforms import (
    Compose,
    ConcatItemsd,
    CopyItemsd,
    InvertibleTransform,
    Lambdad,
    LoadImage,
    LoadImaged,
    MapTransform,
    ToTensord,
)
from monai.utils.enums import TraceKeys
from torch import Tensor

from monai_ifim.transforms.single_slice import SqueezeSingleSliced, UnsqueezeSingleSliced

# Transforms that treat every channel alike, in spite of other classes of their modules.
_CHANGES_AXES = (SqueezeSingleSliced, UnsqueezeSingleSliced)
_CHANNELWISE = (ToTensord, *_CHANGES_AXES)
_CHANNELWISE_MODULES = ("monai.transforms.spatial.", "monai.transforms.croppad.")
_PADDED_BY_COLLATE = "PadListDataCollate"


class ScanGrid:
    """Undoes a preprocessing on the volumes of one image.

    The volumes are stacked as channels, so that a sampling grid is built and interpolated once for
    all of them. A preprocessing with an invertible transform that may treat channels differently,
    such as ``Lambdad``, is undone on each volume alone. Channels that were preprocessed under keys
    of their own go the way back of the first: after ``ConcatItemsd`` they are on one grid. What a
    padding collate function added is cut off.

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
        flat = transform.flatten().transforms if isinstance(transform, Compose) else (transform,)
        recorded = list(_way_back(flat, orig_keys))
        self._back = [(_alone(part), key) for part, key in recorded]
        self._parts = [part for part, _ in self._back]
        # MONAI compares the transform that undoes with the one that was recorded.
        self._ids = {
            id(part): id(own) for (part, _), own in zip(recorded, self._parts, strict=True)
        }
        self._recorded = [part for part, _ in recorded]  # alive, so that their ids stay theirs
        self.loads_files = any(isinstance(part, LoadImage | LoadImaged) for part in flat)
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
            ValueError: the image has no record of the transforms, or one that cannot be followed
                back; or a volume has another shape.
        """
        self._check(volumes, image)
        plain = {key: _floating(volume) for key, volume in volumes.items()}
        if not self._parts and not _padded_by_collate(image):
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

    def _undo(self, volume: Tensor, image: MetaTensor) -> MetaTensor:
        current = MetaTensor(volume, meta=deepcopy(image.meta))
        current.applied_operations = deepcopy(image.applied_operations)
        for record in current.applied_operations:
            record[TraceKeys.ID] = self._ids.get(record.get(TraceKeys.ID), record.get(TraceKeys.ID))
        current = _without_padding(current)
        for part, key in self._back:
            current = part.inverse({key: current})[key]
        return current

    def _check(self, volumes: Mapping[Hashable, Tensor], image: Tensor) -> None:
        recorded = isinstance(image, MetaTensor) and image.applied_operations
        if self._parts and not recorded:
            got = "none" if isinstance(image, MetaTensor) else f"a plain {type(image).__name__}"
            raise ValueError(
                f"expected {self.orig_keys!r} with a record of the transforms that made it, got "
                f"{got}; ToTensord forgets it: use EnsureTyped in its place, or "
                "monai_ifim.traceable_preprocessing for both the dataset and this; a "
                "PersistentDataset needs track_meta=True and weights_only=False"
            )
        if self._parts and isinstance(image, MetaTensor):
            _refuse_lost_axes(image)
        for key, volume in volumes.items():
            if volume.shape[1:] != image.shape[1:]:
                raise ValueError(
                    f"expected {key!r} on the grid of {self.orig_keys!r}, {tuple(image.shape[1:])},"
                    f" got {tuple(volume.shape[1:])}; save it before anything changes its shape"
                )


def _way_back(transforms: Any, key: Hashable) -> Any:
    """The transforms to undo, the last one first, each with the key under which it was recorded."""
    for part in reversed(list(transforms)):
        if isinstance(part, ConcatItemsd) and part.name == key and part.keys:
            key = part.keys[0]  # whose record the concatenated image has
        elif isinstance(part, CopyItemsd) and key in part.names:
            key = part.keys[part.names.index(key) % len(part.keys)]
        elif isinstance(part, InvertibleTransform) and key in getattr(part, "keys", [key]):
            yield part, key


def _alone(transform: InvertibleTransform) -> InvertibleTransform:
    """The transform for one of its keys; a copy, since the loader may use it at the same time."""
    if not isinstance(transform, MapTransform):
        return transform
    own = copy(transform)
    own.allow_missing_keys = True
    return own


def _padded_by_collate(image: Any) -> bool:
    operations = image.applied_operations if isinstance(image, MetaTensor) else []
    return bool(operations) and operations[-1].get(TraceKeys.CLASS_NAME) == _PADDED_BY_COLLATE


def _without_padding(volume: MetaTensor) -> MetaTensor:
    """Cut off what ``pad_list_data_collate`` added, where it added it: not always around."""
    if not _padded_by_collate(volume):
        return volume
    record = volume.applied_operations.pop()
    extra = record.get(TraceKeys.EXTRA_INFO, {})
    padded = extra.get(TraceKeys.EXTRA_INFO, extra).get("padded")
    size = [int(n) for n in record[TraceKeys.ORIG_SIZE]]
    before = [0] * len(size) if padded is None else [int(each[0]) for each in padded[1:]]
    cut = [slice(None)] + [slice(b, b + n) for b, n in zip(before, size, strict=True)]
    result = MetaTensor(volume.as_tensor()[tuple(cut)]).copy_meta_from(volume)
    shift = torch.eye(len(size) + 1, dtype=torch.float64)
    shift[:-1, -1] = torch.tensor(before, dtype=torch.float64)
    affine = torch.as_tensor(volume.affine).to(torch.float64)
    result.affine = affine @ torch.as_tensor(to_affine_nd(len(affine) - 1, shift))
    return result


def _refuse_lost_axes(image: MetaTensor) -> None:
    """Refuse a record in which the number of axes changes between two transforms to undo."""
    records = [
        (record.get(TraceKeys.CLASS_NAME, "?"), len(record[TraceKeys.ORIG_SIZE]))
        for record in image.applied_operations
        if record.get(TraceKeys.ORIG_SIZE) is not None
    ]
    records.append(("the end", image.ndim - 1))
    for (former, before), (latter, after) in pairwise(records):
        if before != after and latter not in {each.__name__ for each in _CHANGES_AXES}:
            cause = (
                "a transform without an inverse, such as SqueezeDimd, came between, and what was "
                "done before it cannot be undone; use monai_ifim.SqueezeSingleSliced in its place"
                if after < before
                else "it was made a volume of a single slice, which cannot be undone; give this "
                "network volumes, and leave single slices out"
            )
            raise ValueError(
                f"expected {before} spatial axes after {former}, got {after} before {latter}: "
                f"{cause}"
            )


def _channelwise(transform: Any) -> bool:
    if isinstance(transform, Lambdad):  # whose inverse is nothing, unless it is given
        return all(inverse is no_collation for inverse in transform.inv_func)
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
