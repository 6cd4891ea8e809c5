"""Training images that are turned, shifted and scaled anew whenever they are seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.transforms import RandAffine
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

_DEGREES, _SHIFT, _SCALE = 10.0, 0.06, 0.1


class AugmentedImages(Dataset[tuple[Tensor, Tensor]]):
    """The images of a training set, each a little different at every look.

    Args:
        images: pairs (C, *S) and ().
        shape: of one image, (C, *S).
        seed: of the changes.
    """

    def __init__(self, images: TensorDataset, shape: Sequence[int], seed: int) -> None:
        self.images = images
        dims = len(shape) - 1
        self.change = RandAffine(
            prob=1.0,
            rotate_range=[math.radians(_DEGREES)] * (1 if dims == 2 else 3),
            translate_range=[_SHIFT * size for size in shape[1:]],
            scale_range=[_SCALE] * dims,
            padding_mode="border",
        )
        self.change.set_random_state(seed)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """An image (C, *S), changed, and its label ()."""
        image, label = self.images[index]
        return self.change(image).as_subclass(torch.Tensor), label
