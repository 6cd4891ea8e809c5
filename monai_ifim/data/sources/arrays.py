"""Loading images of which some are arrays already."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform

from monai_ifim.data.sources.pictures import PictureReader


class LoadImageOrArrayd(MapTransform):
    """``LoadPictured``, except that an array is taken as an image already loaded.

    Args:
        keys: of paths or arrays; an array has spatial axes alone.
        name_key: where the dictionary holds a name for an array, which becomes its file name.
        allow_missing_keys: skip keys that are not there.

    >>> image = LoadImageOrArrayd("image")({"image": np.zeros((4, 5), np.uint8)})["image"]
    >>> image.shape, image.dtype, image.meta["original_channel_dim"]
    (torch.Size([4, 5]), torch.float32, nan)
    """

    def __init__(
        self, keys: KeysCollection, name_key: str = "name", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.name_key = name_key

    @cached_property
    def load(self) -> LoadImage:
        """For paths; MONAI warns of absent GPU decoders when it is built."""
        load = LoadImage(image_only=True)
        load.register(PictureReader())
        return load

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load.

        Args:
            data: one image's dictionary.

        Returns:
            A copy with float32 MetaTensors.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            value = result[key]
            if isinstance(value, np.ndarray):
                image = torch.from_numpy(value.astype(np.float32))
                # nan is MONAI's word for "no channel axis"
                meta: dict[str, Any] = {"original_channel_dim": float("nan")}
                if self.name_key in result:
                    meta["filename_or_obj"] = result[self.name_key]
                result[key] = MetaTensor(image, meta=meta)
            else:
                result[key] = self.load(value)
        return result
