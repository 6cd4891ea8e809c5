"""Volumes of a single slice, for a network that takes slices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform


class SqueezeSingleSliced(MapTransform, InvertibleTransform):
    """Drop the last axis of a single-slice volume (C, H, W, 1), and give it back on inversion.

    Images that are 2D already pass through. Unlike ``SqueezeDimd`` the inverse restores the
    trailing axis and the affine of the file, so that the components lie on the scan's own grid.

    Args:
        keys: of the images, channel first.
        allow_missing_keys: skip keys that are not there.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Squeeze.

        Args:
            data: one image's dictionary.

        Returns:
            A copy, in which (C, H, W, 1) has become (C, H, W).
        """
        result = dict(data)
        for key in self.key_iterator(result):
            image = result[key]
            single = image.ndim == 4 and image.shape[-1] == 1
            affine = image.affine.clone() if isinstance(image, MetaTensor) else None
            squeezed = image[..., 0] if single else image
            if isinstance(image, MetaTensor):  # its list of transforms is shared until copied
                squeezed = MetaTensor(squeezed.as_tensor()).copy_meta_from(image)
            self.push_transform(squeezed, extra_info={"single": single, "affine": affine})
            result[key] = squeezed
        return result

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Restore axis and affine.

        Args:
            data: one image's dictionary after ``__call__``.

        Returns:
            A copy, in which (C, H, W) is (C, H, W, 1) again where it was.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            info = self.pop_transform(result[key])["extra_info"]
            if info["single"]:
                image = result[key][..., None]
                if isinstance(image, MetaTensor):
                    image.affine = torch.as_tensor(info["affine"])
                result[key] = image
        return result
