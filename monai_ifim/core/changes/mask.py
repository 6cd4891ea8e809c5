"""Changes inside a region alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Mask:
    """Changes of an organ, a lesion or a channel alone: A = diag(m).

    The traces of F over masks that cover every voxel once add up to the trace of F.

    Attributes:
        mask: booleans, or weights >= 0, that fit (B, C, *S) with axes of length 1 where all images
            or all channels share it: (1, *S), (C, *S), (C, 1, 1), (B, 1, *S) …

    Raises:
        ValueError: no tensor of numbers >= 0, or an empty region.
    """

    mask: Tensor

    def __post_init__(self) -> None:
        mask = self.mask
        good = isinstance(mask, Tensor) and bool((torch.isfinite(mask) & (mask >= 0)).all())
        if not good or not bool(mask.any()):
            got = tuple(mask.shape) if isinstance(mask, Tensor) else repr(mask)
            what = "an empty one" if good else "something else"
            raise ValueError(
                f"expected a mask of booleans or weights >= 0 with some voxels inside, got {what} "
                f"({got}); look at the label map and at the numbers of its organs"
            )

    @classmethod
    def of_channels(cls, channels: Sequence[int], count: int, dims: int) -> Mask:
        """Changes of some channels alone.

        Args:
            channels: their numbers.
            count: how many channels the images have.
            dims: how many spatial axes.

        Returns:
            The mask, (count, 1, ...).

        Raises:
            ValueError: a channel that does not exist, or none.

        >>> Mask.of_channels([1], 3, 2).mask.flatten().tolist()
        [False, True, False]
        """
        if not channels or min(channels) < 0 or max(channels) >= count:
            raise ValueError(
                f"expected channels from 0 to {count - 1}, got {list(channels)}; count from 0"
            )
        mask = torch.zeros((count, *[1] * dims), dtype=torch.bool)
        mask[list(channels)] = True
        return cls(mask)

    def check(self, images: Tensor) -> None:
        """Raise unless the mask fits the images, and covers a part of each.

        Args:
            images: (B, C, *S).

        Raises:
            ValueError: another grid, or an image without a region.
        """
        mask, shape = self.mask, images.shape
        sizes = (1,) * (len(shape) - mask.ndim) + tuple(mask.shape)
        fits = mask.ndim in (len(shape), len(shape) - 1)
        if not fits or any(m not in (1, n) for m, n in zip(sizes, shape, strict=True)):
            raise ValueError(
                f"expected a mask that fits images {tuple(shape)}, axes of length 1 allowed, got "
                f"{tuple(mask.shape)}; bring it to the grid of the preprocessed images, with the "
                "same transforms (nearest neighbours)"
            )
        empty = ~mask.reshape(sizes).flatten(1).any(dim=1)
        if bool(empty.any()):
            raise ValueError(
                f"expected a region in each image, got an empty one for image "
                f"{int(empty.nonzero()[0])} of the batch (counted from 0); leave that image out"
            )

    def apply(self, values: Tensor) -> Tensor:
        """The values inside, (M, B, C, *S)."""
        return values * self.mask.to(values)

    def transpose(self, values: Tensor) -> Tensor:
        """The same: the matrix is diagonal."""
        return self.apply(values)


def label_masks(label_map: Tensor, labels: Sequence[int] | None = None) -> tuple[Tensor, list[int]]:
    """One region for each label of a label map, for ``Eigenspace.shares``.

    Args:
        label_map: (B, 1, *S) of whole numbers, or (1, *S) for all images.
        labels: numbers of the organs; all that occur by default.

    Returns:
        Booleans (B, Q, 1, *S), and the labels.

    Raises:
        ValueError: numbers that are not whole, or a label that occurs nowhere.

    >>> masks, labels = label_masks(torch.tensor([[[0, 2, 2]]])[None])
    >>> masks.shape, labels
    (torch.Size([1, 2, 1, 1, 3]), [0, 2])
    """
    found = [float(label) for label in label_map.unique().tolist()]
    if not all(label.is_integer() for label in found):
        raise ValueError(
            "expected a label map of whole numbers, got fractions or NaN: was it resampled "
            "linearly? Use nearest neighbours"
        )
    present = [int(label) for label in found]
    chosen = present if labels is None else list(labels)
    missing = [label for label in chosen if label not in present]
    if missing:
        raise ValueError(
            f"expected labels from {present}, which the map has, got {missing}; leave these out"
        )
    return torch.stack([label_map == label for label in chosen], dim=1), chosen
