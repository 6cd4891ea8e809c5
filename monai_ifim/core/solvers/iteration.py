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

from monai_ifim.core.families.roots import Root
from monai_ifim.core.gradients.jvp import JacobianVectorProducts
from monai_ifim.core.solvers.rows import orthonormal, random_rows
from monai_ifim.core.spectrum import combine, inner_products

# Beyond so many directions, or so many for each pair, the basis costs more memory than it is worth:
# stop, and say so.
LARGEST_BASIS = 200
_LARGEST_PER_PAIR = 6

# 1 % quantile of chi² with so many degrees of freedom. For any spectrum, n squared lengths of
# random images sum to less than the quantile times the trace in 1 % of all cases at most (the worst
# spectrum is a single eigenvalue).
QUANTILES = {2: 0.020101, 5: 0.554298, 8: 1.646497}

# Random probes that look for what the start cannot see, and for how many rounds.
_PROBES, _PROBE_ROUNDS = 5, 4


@dataclass(frozen=True)
class Ritz:
    """Ritz pairs of each image.

    Attributes:
        basis: coordinates Q of the subspace that was searched, (B, M, D), orthonormal rows.
        gradients: Y = G Q, (B, M, C, *S).
        leading: weights w of the leading pairs, (B, M, R) in float64.
        subspace_trace: trace of YᵀY, (B,) in float64.
        residual: ‖F v - θ v‖ / θ₁ at most, (B, R) in float64.
        jacobian_vector_products: how many were made for each image.
    """

    basis: Tensor
    gradients: Tensor
    leading: Tensor
    subspace_trace: Tensor
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
    random_start: bool = False,
) -> Ritz:
    """Add directions until the leading pairs no longer change.

    A small residual proves an eigenpair, not that it is a leading one: a start that spans an
    invariant subspace never leaves it. When all pairs have converged, random probes are therefore
    added, too, until nothing as large as the last pair can be left with a probability of 99 %, or
    for four rounds.

    Args:
        adjoint: coordinates (B, M, D) to Y, (B, M, C, *S).
        products: with the Jacobian, for Gᵀ.
        root: A with G = Jᵀ A.
        start: coordinates to begin with, (B, M, D), orthonormal rows, M >= rank.
        rank: how many pairs must converge.
        tolerance: residual at which a pair counts as converged.
        random_start: whether the start is random; then no random probes are needed.

    Returns:
        The Ritz pairs. A warning says so when they have not converged within
        ``LARGEST_BASIS`` directions.
    """
    search = _Search(adjoint, products, root, start, rank, tolerance)
    if random_start:
        search.probe_rounds = _PROBE_ROUNDS
    while search.basis.shape[1] < root.size:
        converged = search.measure()
        block = search.next_block(converged)
        if block is None or not search.add(block, probing=converged):
            return search.ritz(search.residual)
        search.diagonalise()
    return search.ritz(torch.zeros_like(search.values[:, :rank]))  # the subspace is all there is


class _Search:
    """The subspace that grows, and what is known of its leading pairs.

    Attributes:
        basis: coordinates Q, (B, M, D), orthonormal rows.
        values: all Ritz values θ, (B, M), descending.
        residual: of the leading pairs, relative to the first Ritz value, (B, R).
        probe_rounds: how many rounds of random probes were added.
    """

    def __init__(
        self,
        adjoint: Callable[[Tensor], Tensor],
        products: JacobianVectorProducts,
        root: Root,
        start: Tensor,
        rank: int,
        tolerance: float,
    ) -> None:
        self.basis, self.probe_rounds = start, 0
        self._adjoint, self._products, self._root = adjoint, products, root
        self._rank, self._tolerance = rank, tolerance
        self._largest = max(LARGEST_BASIS, _LARGEST_PER_PAIR * rank)
        self._generator = torch.Generator(start.device).manual_seed(0)
        self._gradients = adjoint(start)
        self._gram = inner_products(self._gradients, self._gradients, start.device)
        self._made = 0
        self._settled: Tensor | None = None  # leading values when all of them had converged
        self._errors = self.basis[:, :0]  # residuals of the leading pairs, before they are scaled
        shape = (len(start), rank)
        self.residual = torch.full(shape, torch.nan, dtype=torch.float64, device=start.device)
        self.diagonalise()

    def diagonalise(self) -> None:
        """Ritz values and their weights in the present subspace."""
        values, vectors = torch.linalg.eigh(_finite(self._gram))
        self.values, self._vectors = values.flip(1), vectors.flip(2)

    def measure(self) -> bool:
        """Whether the leading pairs have converged; their residuals, unless they have not moved."""
        theta = self.values[:, : self._rank]
        known = self._settled
        if known is None or not torch.allclose(theta, known, rtol=self._tolerance, atol=0):
            self._errors = self._errors_of(slice(self._rank))
            self.residual = _relative(self._errors, theta)
            open_ = bool((self.residual > self._tolerance).any())
            self._settled = None if open_ else theta
        return self._settled is not None

    def next_block(self, converged: bool) -> Tensor | None:
        """Coordinates to add, orthonormal; None when there is no more to be done."""
        if converged and self.probe_rounds >= _PROBE_ROUNDS:
            return None
        # What has converged follows for nothing: only the residuals of the others are added.
        open_pairs = int((self.residual > self._tolerance).sum(dim=1).max())
        size = self.basis.shape[1]
        wanted = _PROBES if converged else open_pairs
        room = min(wanted, self._root.size - size, self._largest - size)
        if room <= 0:
            if not converged:
                self._warn()
            return None
        if not converged:  # the least converged first
            worst = self.residual.argsort(dim=1, descending=True)[:, :room, None]
            block = self._errors.gather(1, worst.expand(-1, -1, self._errors.shape[2]))
        elif self.probe_rounds == 0:
            block = random_rows(self.basis, room, self._generator)
        else:  # what the probes have found, followed further
            block = self._errors_of(slice(self._rank, self._rank + room))
        return orthonormal(block, self.basis, self._generator)

    def add(self, block: Tensor, *, probing: bool) -> bool:
        """Extend the subspace; False, without extending it, when probes prove that none is missing.

        Args:
            block: orthonormal coordinates, orthogonal to the basis.
            probing: whether they are random probes, or what follows from them.

        Returns:
            Whether to go on.
        """
        device = self.basis.device
        added = self._adjoint(block)
        cross = inner_products(self._gradients, added, device)
        corner = inner_products(added, added, device)
        if probing:
            self.probe_rounds += 1
            if self.probe_rounds == 1 and self._nothing_is_missing(corner):
                return False
        self.basis = torch.cat([self.basis, block], 1)
        self._gradients = torch.cat([self._gradients, added], 1)
        upper = torch.cat([self._gram, cross], 2)
        self._gram = torch.cat([upper, torch.cat([cross.transpose(1, 2), corner], 2)], 1)
        return True

    def ritz(self, residual: Tensor) -> Ritz:
        """The leading pairs as they are now."""
        leading = self._vectors[:, :, : self._rank]
        trace = self._gram.diagonal(dim1=1, dim2=2).sum(dim=1)
        return Ritz(self.basis, self._gradients, leading, trace, residual, self._made)

    def _errors_of(self, pairs: slice) -> Tensor:
        """Residuals of some pairs on the Gram side, (B, M, D)."""
        weights, theta = self._vectors[:, :, pairs], self.values[:, pairs]
        back = self._root.coordinates(self._products(combine(self._gradients, weights)))
        inside = theta.to(self.basis.dtype)[:, :, None] * combine(self.basis, weights)
        self._made += inside.shape[1]
        return back.to(inside.dtype) - inside

    def _nothing_is_missing(self, corner: Tensor) -> bool:
        """Whether the bound on the rest's trace lies below the last pair's eigenvalue."""
        share = len(corner[0]) / QUANTILES[_PROBES]
        lengths = corner.diagonal(dim1=1, dim2=2).mean(dim=1)
        left = (self._root.size - self.basis.shape[1]) * lengths * share
        last = self.values[:, min(self._rank, self.values.shape[1]) - 1]
        return not (left > last).any()

    def _warn(self) -> None:
        warnings.warn(
            f"the leading {self._rank} eigenpairs have a residual of "
            f"{float(self.residual.max()):.1e} of the largest eigenvalue after "
            f"{self.basis.shape[1]} directions, not {self._tolerance:.1e}; ask for fewer, or raise "
            "tolerance",
            stacklevel=8,
        )


def _relative(error: Tensor, values: Tensor) -> Tensor:
    """‖F v - θ v‖ / θ₁ from the residual on the Gram side: at most √(θ₁/θ) times as large."""
    largest = values[:, :1].clamp_min(torch.finfo(values.dtype).tiny)
    size = error.flatten(2).norm(dim=2, dtype=torch.float64) / largest
    # What rounding made of an eigenvalue that is 0 does not count (``spectrum.solve``).
    kept = values > 1e-14 * largest
    amplified = size * (largest / torch.where(kept, values, largest)).sqrt()
    return torch.where(kept, amplified, 0)


def _finite(gram: Tensor) -> Tensor:
    """Zeros for an image with NaN, so that the other images are unaffected."""
    bad = ~torch.isfinite(gram).flatten(1).all(dim=1)
    return torch.where(bad[:, None, None], 0, gram)
