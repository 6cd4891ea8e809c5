"""Eigenvalues and eigenvectors of S B Bᵀ Sᵀ from the Gram matrix SᵀS, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

# Values of S per block that is taken to float64 at a time: 32 MB.
_BLOCK = 1 << 22
# The Gram matrix has the rounding of float64, 2e-16 of the lengths that are summed. An eigenvalue
# that is this share of them has an eigenvector whose length and angles are off by 2e-6 at most.
_CANCELLED = 1e-10


def inner_products(left: Tensor, right: Tensor, device: torch.device | None = None) -> Tensor:
    """(B, M, ...) and (B, L, ...) to (B, M, L), accumulated in float64 block by block.

    A Gram matrix in float32 loses the small eigenvalues: for singular values 1e-3 apart they
    were 20 % off, against 1e-8 in float64.

    Args:
        left: (B, M, ...).
        right: (B, L, ...).
        device: where to compute, when the values are kept elsewhere.

    Returns:
        (B, M, L) in float64.
    """
    same = left is right
    device = left.device if device is None else device
    left, right = left.flatten(2), right.flatten(2)
    block = max(1, _BLOCK // (left.shape[0] * max(left.shape[1], right.shape[1])))
    shape = (left.shape[0], left.shape[1], right.shape[1])
    total = torch.zeros(shape, dtype=torch.float64, device=device)
    for start in range(0, left.shape[2], block):
        stop = start + block
        a = left[:, :, start:stop].to(device).double()
        b = a if same else right[:, :, start:stop].to(device).double()
        total += a @ b.transpose(1, 2)
    return total


def combine(vectors: Tensor, weights: Tensor) -> Tensor:
    """Linear combinations of the vectors of each image.

    Args:
        vectors: (B, M, ...).
        weights: (B, M, R); the result lies on their device and has the vectors' dtype.

    Returns:
        (B, R, ...).
    """
    flat, weights = vectors.flatten(2), weights.to(vectors.dtype).transpose(1, 2)
    with torch.autocast(weights.device.type, enabled=False):
        if flat.device == weights.device:
            result = weights @ flat
        else:  # vectors are kept on the CPU: a few at a time
            block = max(1, _BLOCK // (flat.shape[0] * flat.shape[1]))
            parts = [weights @ part.to(weights.device) for part in flat.split(block, dim=2)]
            result = torch.cat(parts, dim=2)
    return result.view(*result.shape[:2], *vectors.shape[2:])


def solve(
    gram: Tensor, factor: Tensor, dtype: torch.dtype, rank: int | None, energy: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Eigenpairs of S B Bᵀ Sᵀ, all in float64.

    Args:
        gram: SᵀS, (B, M, M).
        factor: B, (B, M, M).
        dtype: of S.
        rank: at most so many eigenpairs.
        energy: or the fewest that reach this share of the trace.

    Returns:
        Eigenvalues (B, R), trace (B,), how many are kept (B,), and T (B, M, R) with the
        eigenvectors S T. NaN, and none kept, for an image whose S or B is not finite.
    """
    bad = ~torch.isfinite(gram).flatten(1).all(dim=1) | ~torch.isfinite(factor).flatten(1).all(1)
    gram = torch.where(bad[:, None, None], 0, gram)
    factor = torch.where(bad[:, None, None], 0, factor)

    # Scaled, because the smallest probabilities square to subnormal numbers.
    size = factor.abs().amax(dim=(1, 2), keepdim=True)
    size = torch.where(size > 0, size, torch.ones_like(size))
    factor, unit = factor / size, size[:, 0].square()
    # The singular values of a root keep twice as many digits of a small eigenvalue as the
    # eigenvalues of its square: those of 1e-14 of the largest had eigenvectors 2 % off.
    _, singular, vectors = torch.linalg.svd(_root(gram) @ factor, full_matrices=False)
    values, vectors = singular.square(), vectors.transpose(1, 2)
    trace = values.sum(dim=1)

    keep = values > _noise(gram, factor @ vectors, values, dtype)
    if energy is not None:
        before = values.cumsum(dim=1) - values
        keep &= before < energy * trace[:, None]
    if rank is not None:
        keep, values, vectors = keep[:, :rank], values[:, :rank], vectors[:, :, :rank]
    values = torch.where(keep, values, 0)
    scale = torch.where(keep, values.clamp_min(torch.finfo(torch.float64).tiny).rsqrt(), 0)
    mixing = (factor @ vectors) * scale[:, None, :]
    mixing = mixing * _signs(gram, factor, mixing)[:, None, :]

    values, trace = values * unit, trace * unit[:, 0]
    keep = keep & (values > 0)
    mixing = torch.where(keep[:, None, :], mixing, 0)
    nan = torch.nan
    return (
        torch.where(bad[:, None], nan, values),
        torch.where(bad, nan, trace),
        torch.where(bad, 0, keep.sum(dim=1)),
        torch.where(bad[:, None, None], nan, mixing),
    )


def _root(gram: Tensor) -> Tensor:
    """R with RᵀR = SᵀS, (B, M, M), to the rounding of each column's own length."""
    lengths = gram.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    unit = torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    cosines = gram / (unit[:, :, None] * unit[:, None, :])
    values, vectors = torch.linalg.eigh((cosines + cosines.transpose(1, 2)) / 2)
    root = values.clamp_min(0).sqrt()[:, :, None] * vectors.transpose(1, 2)
    return root * lengths[:, None, :]


def _noise(gram: Tensor, directions: Tensor, values: Tensor, dtype: torch.dtype) -> Tensor:
    """What an eigenvalue must exceed to be signal: both limits are relative to S and B.

    An eigenvector S t is lost when its length comes from cancellation among the columns of S,
    whose rounding is eps: below sqrt(eps) of the lengths that are summed, its direction is
    rounding. A small probability alone does not cancel anything, so it is no reason to drop it.
    And singular values below 1e-7 of the largest (eigenvalues: 1e-14) have too few digits left.

    Returns:
        (B, R), in float64.
    """
    lengths = gram.diagonal(dim1=1, dim2=2)
    summed = torch.einsum("bm,bmr->br", lengths, directions.square())
    solver = 1e-14 * values[:, :1]
    return torch.maximum(max(torch.finfo(dtype).eps, _CANCELLED) * summed, solver)


def _signs(gram: Tensor, factor: Tensor, mixing: Tensor) -> Tensor:
    """+1 or -1 (B, R) that makes the strongest contrast rise along each eigenvector."""
    slopes = gram @ mixing  # derivative of each contrast along each eigenvector
    weighted = slopes * factor.norm(dim=2, keepdim=True)
    strongest = weighted.abs().argmax(dim=1, keepdim=True)
    return torch.where(slopes.gather(1, strongest)[:, 0] < 0, -1.0, 1.0).to(mixing.dtype)
