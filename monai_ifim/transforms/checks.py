"""Refusal of images that the network cannot take."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_ifim.core.checks import check_images, not_finite


class CheckImaged(MapTransform):
    """Stop an image that the network cannot take, with a sentence that says why.

    Args:
        keys: of the images, channel first.
        channels: how many channels the network takes.
        spatial_dims: how many spatial axes it takes.
        spatial_size: their lengths, for a network that takes no other and no resizing before it.
        allow_missing_keys: skip keys that are not there.

    >>> CheckImaged("image", channels=1, spatial_dims=3)({"image": torch.zeros(30, 8, 8, 8)})
    Traceback (most recent call last):
        ...
    ValueError: expected 1 channel and 3 spatial axes, got an image of shape (30, 8, 8, 8), \
channel first; choose one volume of a 4D file, one slice for a 2D network, or make a colour \
picture grey before this step
    """

    def __init__(
        self,
        keys: KeysCollection,
        channels: int,
        spatial_dims: int,
        spatial_size: Sequence[int] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channels = channels
        self.spatial_dims = spatial_dims
        self.spatial_size = None if spatial_size is None else tuple(spatial_size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Pass the dictionary on unchanged.

        Args:
            data: one image's dictionary.

        Returns:
            The same content.

        Raises:
            ValueError: wrong number of channels or axes, wrong size, NaN or infinity.
        """
        for key in self.key_iterator(data):
            shape = tuple(data[key].shape)
            if len(shape) != self.spatial_dims + 1 or shape[0] != self.channels:
                raise ValueError(
                    f"expected {self.channels} channel{'s' if self.channels > 1 else ''} and "
                    f"{self.spatial_dims} spatial axes, got an image of shape {shape}, channel "
                    "first; choose one volume of a 4D file, one slice for a 2D network, or make "
                    "a colour picture grey before this step"
                )
            if self.spatial_size is not None and shape[1:] != self.spatial_size:
                raise ValueError(
                    f"expected spatial axes of length {self.spatial_size}, got {shape[1:]}; "
                    "crop or resample the image to the size that the network was trained on"
                )
            image = torch.as_tensor(data[key])[None].float()
            check_images(image)
            if not_finite(image).any():
                raise ValueError(
                    "expected finite values, got an image with NaN or infinity; replace them "
                    "before this step, or leave the image out"
                )
        return dict(data)
