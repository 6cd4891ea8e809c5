"""Eigenspaces of what was looked at, when there is too much to look at.

Every method here takes the columns Y = G Q of G = Jᵀ A for some orthonormal coordinates Q of the
root A (``roots``): F_Q = Y Yᵀ is F without the part that lies outside of Q, and that part is
measured with random probes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from monai_ifim.core.eigenspace import Approximation, Eigenspace
from monai_ifim.core.gradients import Forward, JacobianVectorProducts, vector_jacobian_products
from monai_ifim.core.krylov import QUANTILES, iterate, outside, random_rows
from monai_ifim.core.likelihoods import Family
from monai_ifim.core.roots import Root
from monai_ifim.core.spectrum import combine, inner_products, solve


@dataclass
class Columns:
    """Columns of G for one forward pass, with the count of what they cost.

    Attributes:
        forward: the pass.
        root: A.
        chunk: see ``vector_jacobian_products``.
        offload: see there.
        passes: backward passes so far.
    """

    forward: Forward
    root: Root
    chunk: int | str | None = None
    offload: bool = False
    passes: int = field(default=0, init=False)

    def __call__(self, coordinates: Tensor) -> Tensor:
        """Jᵀ A r for coordinates (B, M, D), as (B, M, C, *S)."""
        self.passes += coordinates.shape[1]
        return vector_jacobian_products(
            self.forward,
            self.root.cotangents(coordinates),
            chunk=self.chunk,
            offload=self.offload,
        )


def on_coordinates(
    columns: Columns,
    likelihood: Family,
    coordinates: Tensor,
    *,
    rank: int | None,
    energy: float | None,
    probes: int,
) -> Eigenspace:
    """Eigenspace of F_Q for given coordinates.

    Args:
        columns: of G.
        likelihood: the family.
        coordinates: Q, (B, M, D), orthonormal rows.
        rank: at most so many eigenpairs.
        energy: or the fewest that reach this share of the trace of F_Q.
        probes: how many to measure the rest with; 0 when there is no rest.

    Returns:
        The eigenspace.
    """
    gradients = columns(coordinates)
    space = _space(columns, likelihood, gradients, rank, energy)
    if not probes:
        return space
    residual = torch.full_like(space.eigenvalues, torch.nan)
    return _with_rest(columns, space, coordinates, space.trace, residual, 0, probes)


def iterated(
    columns: Columns,
    likelihood: Family,
    start: Tensor,
    *,
    rank: int,
    tolerance: float,
    probes: int,
    scouts: bool = True,
) -> Eigenspace:
    """Leading eigenpairs by block Krylov iteration.

    Args:
        columns: of G.
        likelihood: the family.
        start: coordinates to begin with, (B, M, D), orthonormal rows.
        rank: how many pairs.
        tolerance: their residual.
        probes: how many to measure the trace of the rest with.
        scouts: see ``iterate``.

    Returns:
        The eigenspace; ``gradients`` holds only the leading columns.
    """
    products = JacobianVectorProducts(columns.forward)
    root = columns.root
    ritz = iterate(columns, products, root, start, rank=rank, tolerance=tolerance, scouts=scouts)
    gradients = combine(ritz.gradients, ritz.leading)
    if columns.offload:
        gradients = gradients.cpu()
    space = _space(columns, likelihood, gradients, rank, None)
    seen = ritz.seen * columns.root.scale.square()
    made = ritz.jacobian_vector_products
    return _with_rest(columns, space, ritz.basis, seen, ritz.residual, made, probes)


def _space(
    columns: Columns,
    likelihood: Family,
    gradients: Tensor,
    rank: int | None,
    energy: float | None,
) -> Eigenspace:
    images, logits = columns.forward.images, columns.forward.logits.detach().as_subclass(Tensor)
    scale = columns.root.scale
    gram = inner_products(gradients, gradients, images.device)
    factor = torch.diag_embed(scale[:, None].expand(-1, gram.shape[1]))
    values, trace, kept, mixing = solve(gram, factor, gradients.dtype, rank, energy)
    logits = logits.to(images.dtype)
    return Eigenspace(logits, values, trace, kept, likelihood, gradients, factor, mixing)


def _with_rest(
    columns: Columns,
    space: Eigenspace,
    basis: Tensor,
    seen: Tensor,
    residual: Tensor,
    products: int,
    probes: int,
) -> Eigenspace:
    """The same with the trace of the whole, and what is known of the rest E = F - F_Q."""
    rest, error = torch.zeros_like(seen), torch.zeros_like(seen)
    bound = rest
    if basis.shape[1] < basis.shape[2]:
        generator = torch.Generator(basis.device).manual_seed(1)
        images = columns(outside(random_rows(basis, probes, generator), basis)).flatten(2)
        lengths = torch.linalg.vector_norm(images, dim=2, dtype=torch.float64).square()
        lengths = lengths.to(seen.device) * columns.root.scale.square()[:, None]
        rest = lengths.mean(dim=1)
        error = lengths.std(dim=1) / probes**0.5
        bound = rest * probes / QUANTILES[probes]
    approximation = Approximation(
        residual=residual,
        lost_trace=rest,
        lost_trace_bound=bound,
        trace_error=error,
        vector_jacobian_products=columns.passes,
        jacobian_vector_products=products,
    )
    return replace(space, trace=seen + rest, approximation=approximation)
