"""Angles between eigenspaces."""

from __future__ import annotations

import torch
from torch import Tensor


def principal_angles(a: Tensor, b: Tensor) -> Tensor:
    """Principal angles between spaces of image directions, in radians, ascending.

    Args:
        a: directions that span the first space of each image, (B, R, *S); they need not be
            orthonormal, but independent.
        b: directions of the second space, (B, Q, *S), or (1, Q, *S) for one space for all.

    Returns:
        (B, min(R, Q)) in float64. The cosine of the last one is the smallest principal cosine.

    Raises:
        ValueError: images of different size, or a direction that is zero (an eigenvector that
            was not kept).

    Source: A. Bjorck and G. H. Golub, "Numerical methods for computing angles between linear
    subspaces", Mathematics of Computation 27 (1973).

    >>> a = torch.eye(3)[None, :2]
    >>> b = torch.tensor([[[1.0, 0.0, 1.0]]])
    >>> principal_angles(a, b).rad2deg()
    tensor([[45.0000]], dtype=torch.float64)
    """
    if a.ndim < 3 or b.ndim < 3 or a[0, 0].numel() != b[0, 0].numel():
        raise ValueError(
            f"expected directions (B, R, *S) and (B, Q, *S) of one image size, got "
            f"{tuple(a.shape)} and {tuple(b.shape)}; add a leading axis with [None] if it misses"
        )
    a, b = a.double().flatten(2), b.double().flatten(2)
    for directions in (a, b):
        if (directions.norm(dim=2) == 0).any():
            raise ValueError(
                "expected independent directions, got a zero vector; pass only the eigenvectors "
                "that were kept, eigenvectors[:, :rank]"
            )
    if a.shape[1] < b.shape[1]:
        a, b = b, a
    basis_a = torch.linalg.qr(a.transpose(1, 2)).Q
    basis_b = torch.linalg.qr(b.transpose(1, 2)).Q
    overlap = basis_a.transpose(1, 2) @ basis_b
    cosines = torch.linalg.svdvals(overlap)
    # The arc cosine alone loses half of the digits of a small angle; the sines keep them.
    sines = torch.linalg.svdvals(basis_b - basis_a @ overlap).flip(1)
    return torch.atan2(sines, cosines)
