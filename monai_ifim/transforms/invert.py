"""Components back on the grid of their image's file."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from torch import Tensor

from monai_ifim.data.batches import FILE_KEY
from monai_ifim.data.source_grid import SourceGrid, check_affine, source_grid
from monai_ifim.transforms.scan_grid import ScanGrid


@dataclass(frozen=True)
class RestoredVolumes:
    """Volumes of one image as they are to be written.

    Attributes:
        volumes: (C, *T) by key.
        file: of the image, None where it never had one.
        source: grid of that file, None where it has none.
        placed: the volumes are on that grid, and not on one of their own.
    """

    volumes: Mapping[Hashable, Tensor]
    file: str | None
    source: SourceGrid | None
    placed: bool


class InvertComponentsd(MapTransform):
    """Undoes the preprocessing on component volumes, and compares what comes back with the file.

    In place of MONAI's ``Invertd``: all volumes of an image return in one pass, axes that a
    transform dropped are restored, and volumes that are not on the grid of the image's file are
    refused with what differs.

    Args:
        keys: of the volumes, (C, *S) each.
        transform: the preprocessing that made the image, to be undone; None where the volumes stay
            on the grid that they are on.
        orig_keys: key of the preprocessed image, which knows its file and its transforms.
        allow_missing_keys: bring back those of the volumes that are there.

    Raises:
        ValueError: a transform that cannot be inverted.
    """

    def __init__(
        self,
        keys: KeysCollection,
        transform: InvertibleTransform | None,
        orig_keys: Hashable = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.orig_keys = orig_keys
        self._grid = None if transform is None else ScanGrid(transform, orig_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Bring back the volumes of one image.

        Args:
            data: one image's dictionary, with the image under ``orig_keys``.

        Returns:
            A copy with the volumes (C, *T) on the grid of the file.

        Raises:
            KeyError: the image or, unless allowed, a volume is missing.
            ValueError: as ``restore``.
        """
        return dict(data) | dict(self.restore(data).volumes)

    def restore(self, data: Mapping[Hashable, Any]) -> RestoredVolumes:
        """The volumes of one image, and the grid that they are on.

        Args:
            data: as for a call.

        Returns:
            No volume where all are missing and may be.

        Raises:
            KeyError: the image or, unless allowed, a volume is missing.
            ValueError: the image forgot its file or the record of its transforms, or a volume has
                not the image's shape or does not come back to the file's grid.
        """
        volumes = {key: data[key] for key in self.key_iterator(dict(data))}
        if not volumes:
            return RestoredVolumes({}, None, None, False)
        if self.orig_keys not in data:
            raise KeyError(
                f"expected the preprocessed image under {self.orig_keys!r}, got the keys "
                f"{sorted(map(str, data))}; keep it, or name it by orig_keys"
            )
        image = data[self.orig_keys]
        if self._grid is not None:
            volumes = self._grid(volumes, image)
        file = self._file(image, data.get(FILE_KEY))
        source = None if file is None else source_grid(file, image.meta)
        placed = source is not None and (self._grid is not None or _lie_on(source, volumes))
        if placed and source is not None:
            volumes = {key: _placed(volume, source) for key, volume in volumes.items()}
        else:
            _check(volumes, str(file))
        return RestoredVolumes(volumes, file, source, placed)

    def _file(self, image: Tensor, listed: str | None) -> str | None:
        """Path of the image's file, None where it never had one."""
        file = image.meta.get("filename_or_obj") if isinstance(image, MetaTensor) else None
        if file is not None:
            return str(file)
        loaded = self._grid is not None and self._grid.loads_files
        if listed is not None or loaded:
            raise ValueError(
                f"expected {self.orig_keys!r} with its file's name and affine, got "
                f"a {type(image).__name__} without them; a cache or a transform forgot them: use "
                "track_meta=True (EnsureTyped, PersistentDataset, the latter with "
                "weights_only=False)"
            )
        return None


def _placed(volume: Tensor, source: SourceGrid) -> MetaTensor:
    affine = volume.affine if isinstance(volume, MetaTensor) else source.affine
    values = source.place(volume.detach().as_subclass(Tensor), affine)
    meta = dict(volume.meta) if isinstance(volume, MetaTensor) else {}
    return MetaTensor(values, meta=meta | {"affine": torch.as_tensor(source.affine)})


def _lie_on(source: SourceGrid, volumes: Mapping[Hashable, Tensor]) -> bool:
    """Whether volumes that stay where they are happen to be on the file's grid."""
    try:
        for volume in volumes.values():
            _placed(volume, source)
    except ValueError:
        return False
    return True


def _check(volumes: Mapping[Hashable, Tensor], file: str) -> None:
    for volume in volumes.values():
        if isinstance(volume, MetaTensor):
            affine = torch.eye(4, dtype=torch.float64)
            own = torch.as_tensor(volume.affine)[:4, :4]
            affine[: len(own), : len(own)] = own
            check_affine(affine, volume.ndim - 1 if len(own) == 4 else len(own) - 1, file)
