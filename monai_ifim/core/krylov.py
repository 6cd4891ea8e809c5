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

# Beyond so many directions, or so many for each pair, the basis costs more memory than it is worth:
# stop, and say so.
LARGEST_BASIS = 200
_LARGEST_PER_PAIR = 6

# 1 % quantile of chi² with so many degrees of freedom. Whatever the spectrum, n squared lengths of
# random images sum to less than the quantile times the trace in 1 % of all cases at most (the worst
# spectrum is a single eigenvalue).
QUANTILES = {2: 0.020101, 5: 0.554298, 8: 1.646497}

# Random directions that look for what the start cannot see, and for how many rounds.
_SCOUTS, _SCOUTING = 5, 4


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
    scouts: bool = True,
) -> Ritz:
    """Add directions until the leading pairs no longer change.

    A small residual proves an eigenpair, not that it is a leading one: a start that spans an
    invariant subspace never leaves it. When all pairs have converged, random directions are
    therefore looked at, too, until nothing as large as the last pair can be left with a
    probability of 99 %, or for four rounds.

    Args:
        adjoint: coordinates (B, M, D) to Y, (B, M, C, *S).
        products: with the Jacobian, for Gᵀ.
        root: A with G = Jᵀ A.
        start: coordinates to begin with, (B, M, D), orthonormal rows, M >= rank.
        rank: how many pairs must converge.
        tolerance: residual at which a pair counts as converged.
        scouts: whether to look at random directions; a random start needs none.

    Returns:
        The Ritz pairs. A warning says so when they have not converged within
        ``LARGEST_BASIS`` directions.
    """
    generator = torch.Generator(start.device).manual_seed(0)
    largest = max(LARGEST_BASIS, _LARGEST_PER_PAIR * rank)
    scouting = 0 if scouts else _SCOUTING
    basis, gradients = start, adjoint(start)
    device = start.device
    gram = inner_products(gradients, gradients, device)
    made = 0
    settled: Tensor | None = None  # leading values when all of them had converged
    residual = torch.full((len(start), rank), torch.nan, dtype=torch.float64, device=device)
    while True:
        values, vectors = torch.linalg.eigh(_finite(gram))
        values, vectors = values.flip(1), vectors.flip(2)
        leading = vectors[:, :, :rank]
        if basis.shape[1] >= root.size:  # nothing is left to look at
            found = torch.zeros_like(values[:, :rank])
            return Ritz(basis, gradients, leading, _trace(gram), found, made)

        def errors(chosen: slice) -> Tensor:
            """Residuals of some pairs on the Gram side, (B, M, D)."""
            weights, theta = vectors[:, :, chosen], values[:, chosen]  # noqa: B023
            back = root.coordinates(products(combine(gradients, weights)))  # noqa: B023
            inside = theta.to(basis.dtype)[:, :, None] * combine(basis, weights)  # noqa: B023
            return back.to(inside.dtype) - inside

        theta = values[:, :rank]
        if settled is None or not torch.allclose(theta, settled, rtol=tolerance, atol=0):
            error = errors(slice(rank))
            made += error.shape[1]
            residual = _relative(error, theta)
            settled = None if (residual > tolerance).any() else theta
        done = settled is not None
        if done and scouting >= _SCOUTING:
            return Ritz(basis, gradients, leading, _trace(gram), residual, made)
        # What has converged follows for nothing: only the residuals of the others are added.
        wanted = _SCOUTS if done else int((residual > tolerance).sum(dim=1).max())
        room = min(wanted, root.size - basis.shape[1], largest - basis.shape[1])
        if room <= 0:
            if not done:
                _complain(rank, residual, tolerance, basis.shape[1])
            return Ritz(basis, gradients, leading, _trace(gram), residual, made)
        if not done:  # the least converged first
            worst = residual.argsort(dim=1, descending=True)[:, :room, None]
            error = error.gather(1, worst.expand(-1, -1, error.shape[2]))
        elif scouting == 0:
            error = random_rows(basis, room, generator)
        else:
            error = errors(slice(rank, rank + room))
            made += error.shape[1]
        block = orthonormal(error, basis, generator)
        added = adjoint(block)
        cross = inner_products(gradients, added, device)
        corner = inner_products(added, added, device)
        if done:
            scouting += 1
            if scouting == 1:
                share = len(corner[0]) / QUANTILES[_SCOUTS]
                lengths = corner.diagonal(dim1=1, dim2=2).mean(dim=1)
                left = (root.size - basis.shape[1]) * lengths * share  # bounds the rest's trace
                if not (left > values[:, min(rank, values.shape[1]) - 1]).any():
                    return Ritz(basis, gradients, leading, _trace(gram), residual, made)
        basis, gradients = torch.cat([basis, block], 1), torch.cat([gradients, added], 1)
        gram = torch.cat(
            [torch.cat([gram, cross], 2), torch.cat([cross.transpose(1, 2), corner], 2)], 1
        )


def _complain(rank: int, residual: Tensor, tolerance: float, directions: int) -> None:
    warnings.warn(
        f"the leading {rank} eigenpairs have a residual of {float(residual.max()):.1e} of the "
        f"largest eigenvalue after {directions} directions, not {tolerance:.1e}; ask for fewer, "
        "or raise tolerance",
        stacklevel=5,
    )


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
