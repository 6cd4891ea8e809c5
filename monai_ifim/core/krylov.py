"""Leading eigenpairs of F = G Gᵀ from products with G alone, by block Krylov iteration.

Rayleigh-Ritz on the Gram side, where vectors are short: for coordinates Q the columns of
Y = G Q are vector-Jacobian products, the eigenvectors w of YᵀY give the Ritz pairs
(θ, v = Y w / √θ), and Gᵀ v, a Jacobian-vector product, gives both the residual and the directions
that the next round adds. All images of a batch share every pass.

Why not ARPACK: it takes one image and one vector at a time, and a Jacobian-vector product costs
half as much in a block.

Source: the block Lanczos method, G. H. Golub and C. F. Van Loan, Matrix Computations, 4th ed.,
section 10.3.6; the residual bounds are those of section 8.1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from monai_ifim.core.gradients import JacobianVectorProducts
from monai_ifim.core.roots import Root
from monai_ifim.core.spectrum import combine, inner_products

# Beyond so many directions the basis costs more memory than it is worth: stop, and say so.
LARGEST_BASIS = 200


@dataclass(frozen=True)
class Ritz:
    """Ritz pairs of each image.

    Attributes:
        basis: coordinates Q that were looked at, (B, M, D), orthonormal rows.
        gradients: Y = G Q, (B, M, C, *S).
        leading: weights w of the leading pairs, (B, M, R) in float64.
        seen: trace of YᵀY, (B,) in float64.
        residual: ‖F v - θ v‖ / θ₁ at most, (B, R) in float64.
        jacobian_vector_products: how many were made for each image.
    """

    basis: Tensor
    gradients: Tensor
    leading: Tensor
    seen: Tensor
    residual: Tensor
    jacobian_vector_products: int


def iterate(
    adjoint: Callable[[Tensor], Tensor],
    products: JacobianVectorProducts,
    root: Root,
    start: Tensor,
    *,
    rank: int,
    tolerance: float,
) -> Ritz:
    """Add directions until the leading pairs no longer change.

    Args:
        adjoint: coordinates (B, M, D) to Y, (B, M, C, *S).
        products: with the Jacobian, for Gᵀ.
        root: A with G = Jᵀ A.
        start: coordinates to begin with, (B, M, D), orthonormal rows, M >= rank.
        rank: how many pairs must converge.
        tolerance: residual at which a pair counts as converged.

    Returns:
        The Ritz pairs. A warning says so when they have not converged within
        ``LARGEST_BASIS`` directions.
    """
    generator = torch.Generator(start.device).manual_seed(0)
    basis, gradients = start, adjoint(start)
    device = start.device
    gram = inner_products(gradients, gradients, device)
    made = 0
    while True:
        values, vectors = torch.linalg.eigh(_finite(gram))
        values, vectors = values.flip(1)[:, :rank], vectors.flip(2)[:, :, :rank]
        if basis.shape[1] >= root.size:  # nothing is left to look at
            return Ritz(basis, gradients, vectors, _trace(gram), torch.zeros_like(values), made)
        scaled = combine(gradients, vectors)
        back = root.coordinates(products(scaled)).to(basis.dtype)
        made += rank
        error = back - values.to(basis.dtype)[:, :, None] * combine(basis, vectors)
        residual = _relative(error, values)
        if not (residual > tolerance).any():
            return Ritz(basis, gradients, vectors, _trace(gram), residual, made)
        room = min(rank, root.size - basis.shape[1], LARGEST_BASIS - basis.shape[1])
        if room <= 0:
            warnings.warn(
                f"the leading {rank} eigenpairs have a residual of {float(residual.max()):.1e} of "
                f"the largest eigenvalue after {LARGEST_BASIS} directions, not {tolerance:.1e}; "
                "ask for fewer, or raise tolerance",
                stacklevel=4,
            )
            return Ritz(basis, gradients, vectors, _trace(gram), residual, made)
        # The least converged first, where there is no room for all.
        worst = residual.argsort(dim=1, descending=True)[:, :room, None]
        error = error.gather(1, worst.expand(-1, -1, error.shape[2]))
        block = orthonormal(error, basis, generator)
        added = adjoint(block)
        cross = inner_products(gradients, added, device)
        corner = inner_products(added, added, device)
        basis, gradients = torch.cat([basis, block], 1), torch.cat([gradients, added], 1)
        gram = torch.cat(
            [torch.cat([gram, cross], 2), torch.cat([cross.transpose(1, 2), corner], 2)], 1
        )


def orthonormal(block: Tensor, basis: Tensor | None, generator: torch.Generator) -> Tensor:
    """Orthonormal rows, orthogonal to the basis as well.

    Args:
        block: (B, M, D).
        basis: orthonormal rows (B, N, D), M + N <= D; or None.
        generator: of the directions that replace those which vanish.

    Returns:
        (B, M, D), which spans what the block adds to the basis.
    """
    for _ in range(3):  # twice is enough (Kahan), once more for a row that had to be replaced
        length = block.norm(dim=2, keepdim=True)
        chance = torch.randn(block.shape, generator=generator, device=block.device).to(block)
        lost = ~(length > torch.finfo(block.dtype).tiny)
        block = torch.where(lost, chance, block / torch.where(lost, 1, length))
        if basis is not None:
            inside = inner_products(block, basis).to(block.dtype)
            block = block - inside @ basis
        block = torch.linalg.qr(block.transpose(1, 2)).Q.transpose(1, 2)
    return block


def _relative(error: Tensor, values: Tensor) -> Tensor:
    """‖F v - θ v‖ / θ₁ from the residual on the Gram side: at most √(θ₁/θ) times as large."""
    largest = values[:, :1].clamp_min(torch.finfo(values.dtype).tiny)
    size = error.flatten(2).norm(dim=2, dtype=torch.float64) / largest
    # What rounding made of an eigenvalue that is 0 is not looked at (``spectrum.solve``).
    kept = values > 1e-14 * largest
    amplified = size * (largest / torch.where(kept, values, largest)).sqrt()
    return torch.where(kept, amplified, 0)


def _finite(gram: Tensor) -> Tensor:
    """An image with NaN takes part with zeros: it must cost no other its result."""
    bad = ~torch.isfinite(gram).flatten(1).all(dim=1)
    return torch.where(bad[:, None, None], 0, gram)


def _trace(gram: Tensor) -> Tensor:
    return gram.diagonal(dim1=1, dim2=2).sum(dim=1)
