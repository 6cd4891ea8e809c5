"""Single slices for a network that takes slices, and for one that takes volumes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import InvertibleTransform, MapTransform


class SqueezeSingleSliced(MapTransform, InvertibleTransform):
    """Drop the single axis of a volume of one slice, and give it back on inversion.

    Axial (C, H, W, 1), coronal (C, H, 1, W) and sagittal (C, 1, H, W) slices become (C, H, W);
    images that are 2D already pass through. Unlike ``SqueezeDimd`` the inverse restores the axis
    and the affine of the file, so that the components lie on the scan's own grid.

    Args:
        keys: of the images, channel first.
        allow_missing_keys: skip keys that are not there.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Squeeze.

        Args:
            data: one image's dictionary.

        Returns:
            A copy, in which a volume of one slice has become (C, H, W). The affine of a coronal or
            sagittal slice becomes that of the two axes that are left, as in ``SqueezeDimd``.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            axis = _single_axis(image)
            affine = image.affine.clone() if isinstance(image, MetaTensor) else None
            squeezed = image if axis is None else image.select(axis + 1, 0)
            if isinstance(image, MetaTensor):  # its list of transforms is shared until copied
                squeezed = MetaTensor(squeezed.as_tensor()).copy_meta_from(image)
                if axis in (0, 1):
                    left = [i for i in range(len(image.affine)) if i != axis]
                    squeezed.affine = image.affine[left][:, left]
            self.push_transform(squeezed, extra_info={"axis": axis, "affine": affine})
            result[key] = squeezed
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Restore axis and affine.

        Args:
            data: one image's dictionary after ``__call__``.

        Returns:
            A copy, in which (C, H, W) has its third axis again where it had one.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            info = self.pop_transform(result[key])["extra_info"]
            if info["axis"] is not None:
                image = result[key].unsqueeze(int(info["axis"]) + 1)
                if isinstance(image, MetaTensor):
                    image.affine = torch.as_tensor(info["affine"])
                result[key] = image
        return result


class UnsqueezeSingleSliced(MapTransform, InvertibleTransform):
    """Make a volume of one slice of an image (C, H, W), and take its axis away on inversion.

    Readers give single slices two axes. MONAI's ``Orientation`` and ``Spacing`` see the first two
    rows of their affine alone, which say nothing of a sagittal or coronal slice. Images that are 3D
    already pass through.

    Args:
        keys: of the images, channel first.
        allow_missing_keys: skip keys that are not there.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the axis.

        Args:
            data: one image's dictionary.

        Returns:
            A copy, in which (C, H, W) has become (C, H, W, 1).
        """
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            single = image.ndim == 3
            volume = image.unsqueeze(-1) if single else image
            if isinstance(image, MetaTensor):  # its list of transforms is shared until copied
                volume = MetaTensor(volume.as_tensor()).copy_meta_from(image)
                volume.affine = to_affine_nd(3, image.affine)
            self.push_transform(volume, extra_info={"single": single})
            result[key] = volume
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Take the axis away where it was added.

        Args:
            data: one image's dictionary after ``__call__``.

        Returns:
            A copy.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            if self.pop_transform(result[key])["extra_info"]["single"]:
                result[key] = result[key].squeeze(-1)
        return result


def _single_axis(image: torch.Tensor) -> int | None:
    """The axis of length 1 among three, the last of them where there are several."""
    single = [axis for axis in (2, 1, 0) if image.ndim == 4 and image.shape[axis + 1] == 1]
    return single[0] if single else None
