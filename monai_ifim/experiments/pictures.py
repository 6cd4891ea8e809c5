"""Images and maps as small tables of numbers, for ``results.json``."""

from __future__ import annotations

from torch import Tensor

_LARGEST = 64 * 64  # entries of a picture: results.json stays small


def plane(vector: Tensor) -> Tensor:
    """A picture of the first channel; of a volume the plane through the middle of the last axes.

    Args:
        vector: (C, *S).

    Returns:
        (H, W).
    """
    picture = vector[0]
    while picture.ndim > 2:
        picture = picture[..., picture.shape[-1] // 2]
    return picture


def is_small(picture: Tensor) -> bool:
    """Whether a picture (H, W) is small enough to be kept among the results."""
    return picture.numel() <= _LARGEST


def rounded(picture: Tensor) -> list[list[float]]:
    """Rows of numbers with two digits, the largest magnitude being 1.

    Args:
        picture: (H, W).

    Returns:
        H rows of W numbers.
    """
    largest = float(picture.abs().max()) or 1.0
    return [[round(value, 2) for value in row] for row in (picture.double() / largest).tolist()]
