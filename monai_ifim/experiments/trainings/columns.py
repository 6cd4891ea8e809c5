"""F of every image, kept apart, so that it can be pooled over any draw of the images.

``pooled_eigenspace`` streams and keeps a sketch. Resampling needs each image's own share instead:
F(x_i) = Σ_j λ_ij v_ij v_ijᵀ, of which a draw with counts c_i has F̄ ∝ Σ_i c_i w_i F(x_i).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from monai_ifim.core import Eigenspace, Likelihood
from monai_ifim.core.spectrum import combine
from monai_ifim.experiments.networks.trained_classifier import TrainedClassifier

# Directions that a subspace iteration carries besides those that are wanted, and its steps.
_SPARE, _STEPS = 8, 20
# It ends where the directions that are wanted lie in the block of the step before but for this.
_CONVERGED = 1e-4
# Eigenvalues of at most this size are rounding.
_TINY = 1e-300


@dataclass(frozen=True, eq=False)
class Columns:
    """Eigenpairs and Jacobians of many images.

    Attributes:
        vectors: (n, M, C, *S), unit length, or zero where an image has fewer.
        values: (n, M) in float64.
        jacobians: ∂(logits - their mean)/∂x, (n, K, C, *S).
    """

    vectors: Tensor
    values: Tensor
    jacobians: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (C, *S) of an image."""
        return tuple(self.vectors.shape[2:])

    @cached_property
    def traces(self) -> Tensor:
        """Of each F, (n,) in float64."""
        return self.values.sum(dim=1)

    def weights(self, kind: str) -> Tensor:
        """What each F is multiplied by before they are added.

        Args:
            kind: ``unit_trace`` or ``equal``.

        Returns:
            (n,) in float64; 0 for an image without a direction.
        """
        usable = torch.isfinite(self.traces) & (self.traces > _TINY)
        if kind == "equal":
            return usable.double()
        return torch.where(usable, 1 / torch.where(usable, self.traces, 1), 0)

    def effective_count(self, kind: str) -> float:
        """(Σ w tr F)² / Σ (w tr F)²: how many images of equal traces would say as much."""
        traces = self.weights(kind) * self.traces
        return float(traces.sum().square() / traces.square().sum())

    def pooled(self, kind: str, rank: int, counts: Tensor | None = None) -> Tensor:
        """Leading eigenvectors of F̄.

        Args:
            kind: ``unit_trace`` or ``equal``.
            rank: how many.
            counts: how often each image was drawn, (D, n); once each by default.

        Returns:
            (D, rank, C, *S), orthonormal; D = 1 without counts.
        """
        squares = (self.weights(kind)[:, None] * self.values).flatten()
        return self._leading(self.vectors, squares, rank, counts)

    def mean_jacobian(self, rank: int, counts: Tensor | None = None) -> Tensor:
        """Orthonormal directions that span the mean Jacobian, strongest first.

        Args:
            rank: how many.
            counts: how often each image was drawn, (D, n); once each by default.

        Returns:
            (D, rank, C, *S).
        """
        flat = self.jacobians.double().flatten(2)
        drawn = _drawn(counts, len(flat))
        sums = torch.einsum("dn,nkx->dkx", drawn, flat)
        _, _, directions = torch.linalg.svd(sums, full_matrices=False)
        return directions[:, :rank].unflatten(2, self.shape).float()

    def _leading(self, rows: Tensor, squares: Tensor, rank: int, counts: Tensor | None) -> Tensor:
        flat = rows.double().flatten(0, 1).flatten(1)
        drawn = _drawn(counts, len(rows)).repeat_interleave(rows.shape[1], dim=1)
        basis: Tensor | None = None
        if flat.shape[0] < flat.shape[1]:
            # Draws differ in how rows are mixed: their span is that of all rows, which is smaller.
            basis, mixing = torch.linalg.qr(flat.T)
            flat = mixing.T
        whole = leading(flat, squares, min(rank + _SPARE, *flat.shape))
        found = torch.stack(
            [
                whole[:rank]
                if bool((count == 1).all())
                else iterated(flat, squares * count, whole, rank)
                for count in drawn
            ]
        )
        found = found if basis is None else found @ basis.T
        return found.unflatten(2, self.shape).float()


def leading(rows: Tensor, squares: Tensor, rank: int) -> Tensor:
    """Leading eigenvectors of Σ_i s_i row_i row_iᵀ.

    Args:
        rows: (m, N).
        squares: s, (m,), not negative.
        rank: how many.

    Returns:
        (rank, N), orthonormal, strongest first.
    """
    scaled = rows * squares.sqrt()[:, None]
    if rows.shape[0] > rows.shape[1]:
        return torch.linalg.eigh(scaled.T @ scaled)[1].flip(1)[:, :rank].T
    mixing = torch.linalg.eigh(scaled @ scaled.T)[1].flip(1)[:, :rank]
    return torch.linalg.qr((mixing.T @ scaled).T).Q.T


def iterated(rows: Tensor, squares: Tensor, start: Tensor, rank: int) -> Tensor:
    """As ``leading``, by subspace iteration from directions that are nearly the answer.

    Args:
        rows: (m, N).
        squares: (m,), not negative.
        start: (q, N), orthonormal; q > rank makes the iteration fast.
        rank: how many.

    Returns:
        (rank, N), orthonormal, strongest first.
    """
    drawn = squares > 0
    rows = rows[drawn] * squares[drawn].sqrt()[:, None]
    block = start.T
    for _ in range(_STEPS):
        before, block = block, torch.linalg.qr(rows.T @ (rows @ block)).Q
        wanted = block[:, :rank]
        if float((wanted - before @ (before.T @ wanted)).norm()) < _CONVERGED:
            break
    small = rows @ block
    return (block @ torch.linalg.eigh(small.T @ small)[1].flip(1)[:, :rank]).T


def columns_of(classifier: TrainedClassifier, images: Tensor) -> Columns:
    """Eigenpairs and Jacobians of images, from one pass of ``eigenspace``.

    Args:
        classifier: the network.
        images: (n, C, *S).

    Returns:
        All of them in float32 but for the eigenvalues.
    """
    parts = [_columns(space) for space in classifier.eigenspaces(images)]
    most = max(vectors.shape[1] for vectors, _, _ in parts)
    return Columns(
        torch.cat([_padded(vectors, most) for vectors, _, _ in parts]),
        torch.cat([_padded(values, most) for _, values, _ in parts]),
        torch.cat([jacobians for _, _, jacobians in parts]),
    )


def _columns(space: Eigenspace) -> tuple[Tensor, Tensor, Tensor]:
    contrasts = cast(Likelihood, space.likelihood).contrasts(space.logits)
    inverse = torch.linalg.pinv(contrasts.transpose(0, 1).transpose(1, 2).double())
    jacobians = combine(space.gradients, inverse)
    return space.eigenvectors.float(), space.eigenvalues.double(), jacobians.float()


def _padded(values: Tensor, most: int) -> Tensor:
    missing = most - values.shape[1]
    if not missing:
        return values
    return torch.cat([values, values.new_zeros(len(values), missing, *values.shape[2:])], dim=1)


def _drawn(counts: Tensor | None, images: int) -> Tensor:
    return torch.ones(1, images, dtype=torch.float64) if counts is None else counts.double()
