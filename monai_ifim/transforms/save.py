"""The components back on the scan's grid, each written as one file."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from torch import Tensor

from monai_ifim.data.layouts import DistinctFolderLayout
from monai_ifim.data.writers import AtomicNibabelWriter
from monai_ifim.transforms.scan_grid import ScanGrid

_EXTENSIONS = (".nii.gz", ".nii")


class SaveComponentsd(MapTransform):
    """Brings component volumes back to the scan's grid and writes each as ``<name>_<key>.nii.gz``.

    All volumes of an image return in one pass through the inverse of the preprocessing. A file
    appears only when complete. A volume with NaN or infinity is logged and not written:
    ``IFIMHandler`` gives NaN to an image without a result only, and its row says why.

    Use it as ``IFIMHandler(postprocessing=...)``, after ``IFIMComponentsd`` in a bundle's
    postprocessing, or alone:

        save = SaveComponentsd(["ifim_high", "ifim_orth"], "out", transform=preprocessing)
        save(IFIMComponentsd("image", network)(preprocessing({"image": "scan.nii.gz"})))

    Args:
        keys: of the volumes, (C, *S) each; the end of their files' names.
        output_dir: folder of the files; made if missing.
        transform: the preprocessing that made the image, to be undone; None where the volumes are
            to be written on the grid they are on.
        orig_keys: key of the preprocessed image, which knows its file and its transforms.
        data_root_dir: the images' folders below it are kept in ``output_dir``, so that equal
            file names in different folders do not meet.
        output_ext: ``".nii.gz"`` or ``".nii"``.
        allow_missing_keys: write those of the volumes that are there.

    Raises:
        ValueError: another extension, the same key twice, or a transform that cannot be inverted.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | os.PathLike[str],
        transform: InvertibleTransform | None,
        orig_keys: Hashable = "image",
        data_root_dir: str | os.PathLike[str] = "",
        output_ext: str = ".nii.gz",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if output_ext not in _EXTENSIONS:
            raise ValueError(
                f"expected output_ext from {_EXTENSIONS}, got {output_ext!r}; components have "
                "signs and small values, which picture formats lose"
            )
        if len(set(self.keys)) != len(self.keys):
            raise ValueError(f"expected different keys, got {self.keys}; name each volume once")
        self.orig_keys = orig_keys
        self._grid = None if transform is None else ScanGrid(transform, orig_keys)
        self._layouts = {
            key: DistinctFolderLayout(output_dir, str(key), output_ext, data_root_dir)
            for key in self.keys
        }
        self._unnamed = 0

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the volumes of one image.

        Args:
            data: one image's dictionary, with the image under ``orig_keys``.

        Returns:
            A copy with the volumes (C, *T) as they were written, on the grid of the file.

        Raises:
            KeyError: the image or, unless allowed, a volume is missing.
            ValueError: the image has no record of its transforms, a volume has not the image's
                shape, or the file's name is taken or lies outside ``output_dir``.
            OSError: a file cannot be written.
        """
        result = dict(data)
        volumes = {key: data[key] for key in self.key_iterator(result)}
        if not volumes:
            return result
        if self.orig_keys not in data:
            raise KeyError(
                f"expected the preprocessed image under {self.orig_keys!r}, got the keys "
                f"{sorted(map(str, data))}; keep it, or name it by orig_keys"
            )
        image = data[self.orig_keys]
        if self._grid is not None:
            volumes = self._grid(volumes, image)
        subject, patch = self._name(image)
        for key, volume in volumes.items():
            _write(volume, self._layouts[key].filename(subject, patch))
        return result | volumes

    def _name(self, image: Tensor) -> tuple[str, Any]:
        """Path of the image's file, or a running number, and the number of the patch in it."""
        meta = image.meta if isinstance(image, MetaTensor) else {}
        subject = meta.get("filename_or_obj")
        if subject is None:
            subject, self._unnamed = str(self._unnamed), self._unnamed + 1
        return subject, meta.get("patch_index")


def _write(volume: Tensor, path: str) -> None:
    """The one place where a component volume becomes a file with a header."""
    dtype = np.float64 if volume.dtype == torch.float64 else np.float32
    writer = AtomicNibabelWriter(output_dtype=dtype)
    writer.set_data_array(volume, channel_dim=0)
    writer.set_metadata(volume.meta if isinstance(volume, MetaTensor) else None, resample=False)
    writer.write(path)
