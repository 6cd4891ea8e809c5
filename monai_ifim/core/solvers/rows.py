"""Rows of coordinates: orthonormal ones, random ones, and what lies outside of others."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_ifim.core.spectrum import inner_products


def orthonormal(block: Tensor, basis: Tensor, generator: torch.Generator) -> Tensor:
    """Orthonormal rows, orthogonal to the basis as well.

    A row that lies in the basis up to rounding (the residual of a pair that has converged) is
    replaced before it is scaled to length 1: scaled, it would be counted twice.

    Args:
        block: (B, M, D).
        basis: orthonormal rows (B, N, D), M + N <= D.
        generator: of the directions that replace those which vanish.

    Returns:
        (B, M, D), which spans what the block adds to the basis.
    """
    block = _outside_or_random(block, generator, basis)
    rows = block[:, :0]
    for row in block.split(1, dim=1):
        rows = torch.cat([rows, _outside_or_random(row, generator, rows, basis)], 1)
    return _unit(outside(rows, basis))


def random_rows(like: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Normal numbers (B, count, D) for rows (B, M, D)."""
    shape = (like.shape[0], count, like.shape[2])
    double = torch.float64  # so that float32 rows are those of float64, rounded
    return torch.randn(shape, generator=generator, device=like.device, dtype=double).to(like.dtype)


def outside(rows: Tensor, *bases: Tensor) -> Tensor:
    """What of the rows (B, M, D) is orthogonal to orthonormal ones; twice is enough (Kahan)."""
    for basis in bases * 2:
        rows = rows - inner_products(rows, basis).to(rows.dtype) @ basis
    return rows


def _outside_or_random(block: Tensor, generator: torch.Generator, *bases: Tensor) -> Tensor:
    """Rows of length 1 outside of the bases; random ones for those of which nothing is left."""
    rest = outside(_unit(block), *bases)
    lost = ~(rest.norm(dim=2, keepdim=True) > torch.finfo(block.dtype).eps ** 0.5)
    if lost.any():  # NaN, too
        chance = random_rows(block, block.shape[1], generator)
        rest = torch.where(lost, outside(_unit(chance), *bases), rest)
    return _unit(rest)


def _unit(rows: Tensor) -> Tensor:
    length = rows.norm(dim=2, keepdim=True)
    return rows / torch.where(length > 0, length, 1)
