"""The components back on the scan's grid, each written as one file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from torch import Tensor

from monai_ifim.data.batches import MODEL_KEY, PART_KEY
from monai_ifim.data.layouts import DistinctFolderLayout
from monai_ifim.data.writers import write_component
from monai_ifim.transforms.invert import InvertComponentsd

_EXTENSIONS = (".nii.gz", ".nii")


class SaveComponentsd(MapTransform):
    """Brings component volumes back to the scan's grid and writes each as ``<name>_<key>.nii.gz``.

    All volumes of an image return in one pass through the inverse of the preprocessing. A file
    appears only when complete. A volume with NaN or infinity is logged and not written:
    ``IFIMHandler`` gives NaN to an image without a result only, and its row says why.

    What is written has the shape and the affine of the image's file, and a NIfTI's header: unit,
    codes, both transforms, intent; ``descrip`` names component and network. An image whose volumes
    do not come back to that grid is refused with what differs, and nothing is written for it;
    ``transform=None`` asks for the grid that the volumes are on. The number of a patch
    (``patch_index``) ends its names; of several images of one file in a run (slices, time points)
    the second is ``_1``, the third ``_2``, in the order in which they come. The same image again
    replaces its own files.

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

    in_background = True  # one thread may call it while another one loads and computes

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
        # What tells one run from another.
        self.data_root_dir, self.output_ext = os.fspath(data_root_dir), output_ext
        self._invert = InvertComponentsd(keys, transform, orig_keys, allow_missing_keys)
        self._layouts = {
            key: DistinctFolderLayout(output_dir, str(key), output_ext, data_root_dir)
            for key in self.keys
        }
        self._unnamed = 0
        self._seen: dict[tuple[str, Any], list[bytes]] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the volumes of one image.

        Args:
            data: one image's dictionary, with the image under ``orig_keys``.

        Returns:
            A copy with the volumes (C, *T) as they were written, on the grid of the file.

        Raises:
            KeyError: the image or, unless allowed, a volume is missing.
            ValueError: the image forgot its file or the record of its transforms, a volume has not
                the image's shape or does not come back to the file's grid, or the file's name is
                taken or lies outside ``output_dir``.
            OSError: a file cannot be written.
        """
        restored = self._invert.restore(data)
        if not restored.volumes:
            return dict(data)
        image = data[self.orig_keys]
        volumes = _on_cpu(restored.volumes)
        subject, index = self._name(restored.file, image, data.get(PART_KEY))
        for key, volume in volumes.items():
            path = self._layouts[key].filename(subject, index)
            write_component(
                volume,
                path,
                str(key),
                restored.source,
                restored.placed,
                str(data.get(MODEL_KEY, "")),
            )
        return dict(data) | dict(restored.volumes)

    def _name(self, file: str | None, image: Tensor, part: int | None) -> tuple[str, str | None]:
        """Path of the image's file, or a running number, and the end of its names."""
        if file is None:
            self._unnamed += 1
            return str(self._unnamed - 1), None
        patch = image.meta.get("patch_index") if isinstance(image, MetaTensor) else None
        patch = None if patch is None else str(int(patch))
        if part is None:
            seen, own = self._seen.setdefault((file, patch), []), _digest(image)
            if own not in seen:
                seen.append(own)
            part = seen.index(own)
        ends = [end for end in (patch, str(part) if part else None) if end is not None]
        return file, "_".join(ends) or None


def _on_cpu(volumes: Mapping[Hashable, Tensor]) -> Mapping[Hashable, Tensor]:
    """The volumes where they can be written; from a GPU they come in one block."""
    first = next(iter(volumes.values()))
    alike = all((v.dtype, v.shape) == (first.dtype, first.shape) for v in volumes.values())
    if first.device.type == "cpu" or not alike:  # the writer brings them one by one
        return volumes
    block = torch.stack([volume.as_subclass(Tensor) for volume in volumes.values()]).cpu()
    return {
        key: MetaTensor(own).copy_meta_from(volume) if isinstance(volume, MetaTensor) else own
        for own, (key, volume) in zip(block, volumes.items(), strict=True)
    }


def _digest(image: Tensor) -> bytes:
    """Of values and affine: whether an image is the same as before."""
    values = image.detach().as_subclass(Tensor).cpu().contiguous()
    digest = hashlib.blake2b(values.view(torch.uint8).numpy().tobytes(), digest_size=16)
    if isinstance(image, MetaTensor):
        digest.update(repr(torch.as_tensor(image.affine).tolist()).encode())
    return digest.digest()
