"""Gaussian smoothing of volumes along their axes, as matrices with their transposes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gaussian_matrices(spatial: Sequence[int], widths: Sequence[float]) -> list[Tensor]:
    """One matrix for each axis, whose rows are Gaussians that add up to 1.

    Args:
        spatial: sizes of the axes.
        widths: standard deviations along them in voxels; 0 leaves an axis as it is.

    Returns:
        Matrices (n, n) in float64. At the borders the rows are cut off and scaled, so that a
        constant stays the same constant.

    Raises:
        ValueError: another number of widths, or a negative one.

    >>> gaussian_matrices([3], [0.0])[0].tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    if len(widths) != len(spatial) or any(not 0 <= width < float("inf") for width in widths):
        raise ValueError(
            f"expected {len(spatial)} widths >= 0, one for each axis of {tuple(spatial)}, got "
            f"{list(widths)}; give one number, or one for each axis"
        )
    matrices = []
    for size, width in zip(spatial, widths, strict=True):
        places = torch.arange(size, dtype=torch.float64)
        distances = places[:, None] - places
        kernel = torch.exp(-0.5 * (distances / width).square()) if width else torch.eye(size)
        matrices.append((kernel / kernel.sum(dim=1, keepdim=True)).double())
    return matrices


def along_axes(values: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Apply one matrix along each of the last axes.

    Args:
        values: (..., *S).
        matrices: (n, n) for each axis of S.

    Returns:
        (..., *S), in the values' dtype.
    """
    first = values.ndim - len(matrices)
    for axis, matrix in enumerate(matrices, start=first):
        product = torch.tensordot(values, matrix.to(values), dims=([axis], [1]))
        values = product.movedim(-1, axis)
    return values
