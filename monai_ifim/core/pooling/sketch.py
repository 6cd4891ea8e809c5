"""A sum of many F in the memory of a few vectors.

F(x) = Σ_k g_k g_kᵀ with the root columns g_k, so a weighted sum over images is the Gram problem of
all their columns together. A sketch keeps at most so many rows: when twice as many have come,
the singular value decomposition keeps the largest, and what is dropped is counted. With E_t what
truncation t dropped, the sum is that of the rows plus Σ E_t: every eigenvalue lies between that of
the rows and that plus Σ ‖E_t‖, and Σ tr E_t of the trace is missing.

Source: the sketch with shrinking and its guarantee is E. Liberty, "Simple and deterministic matrix
sketching", KDD 2013; plain truncation has the bound above.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from monai_ifim.core.eigenspace import Eigenspace
from monai_ifim.core.families.roots import unit_scale
from monai_ifim.core.spectrum import combine, inner_products


@dataclass(frozen=True, eq=False)
class Rows:
    """Root columns with what they leave out, for P sums side by side.

    Attributes:
        values: (P, r, *X); the sum is scale² Σ row rowᵀ, plus what was dropped.
        scale: (P,) in float64: it keeps probabilities near 0 out of the values.
        trace: of the sum, (P,) in float64, also of what is not in the rows.
        bound: what an eigenvalue may lack at most, (P,) in float64.
    """

    values: Tensor
    scale: Tensor
    trace: Tensor
    bound: Tensor

    @property
    def lost_trace(self) -> Tensor:
        """The trace that is not in the rows, (P,) in float64."""
        kept = torch.linalg.vector_norm(self.values.flatten(1), dim=1, dtype=torch.float64)
        return (self.trace - (kept * self.scale).square()).clamp_min(0)

    def __add__(self, other: Rows) -> Rows:
        scale = torch.maximum(self.scale, other.scale)
        parts = [_times(rows.values, rows.scale / scale) for rows in (self, other)]
        values = torch.cat(parts, dim=1)
        return Rows(values, scale, self.trace + other.trace, self.bound + other.bound)

    def times(self, factor: Tensor) -> Rows:
        """The sum times a factor (P,) >= 0.

        Args:
            factor: positive, (P,) in float64.

        Returns:
            The same values with another scale.
        """
        scale = self.scale * factor.sqrt()
        return replace(self, scale=scale, trace=self.trace * factor, bound=self.bound * factor)

    def decomposed(self, size: int) -> tuple[Rows, Tensor]:
        """Orthogonal rows in falling order of their length, at most ``size``.

        Args:
            size: how many to keep.

        Returns:
            The rows, and their squared lengths times scale², (P, size) in float64.
        """
        gram = inner_products(self.values, self.values)
        squares, vectors = torch.linalg.eigh(gram)
        squares, vectors = squares.flip(1).clamp_min(0), vectors.flip(2)
        kept = combine(self.values, vectors[:, :, :size])
        squares = squares * self.scale.square()[:, None]
        dropped = squares[:, size : size + 1].sum(dim=1)
        return replace(self, values=kept, bound=self.bound + dropped), squares[:, :size]


class Sketch:
    """Rows that are kept few while more and more are added.

    Args:
        size: how many to keep; up to twice as many before anything is dropped.
    """

    def __init__(self, size: int, rows: Rows | None = None) -> None:
        self.size, self.rows = size, rows

    def add(self, rows: Rows) -> None:
        """Add the sum of some rows.

        Args:
            rows: of the same P sums.
        """
        self.rows = rows if self.rows is None else self.rows + rows
        if self.rows.values.shape[1] > 2 * self.size:
            self.rows, _ = self.rows.decomposed(self.size)


def root_columns(space: Eigenspace, weights: Tensor) -> Rows:
    """Root columns of w F(x) for each image of a batch.

    Args:
        space: of the batch, all of its pairs.
        weights: w, (B,) in float64, positive.

    Returns:
        Rows of B sums. Of an image with NaN they are zero.
    """
    root = space.factor * weights.sqrt()[:, None, None]
    good = torch.isfinite(root).flatten(1).all(dim=1) & torch.isfinite(space.trace)
    root = torch.where(good[:, None, None], root, 0)
    scale = unit_scale(root.flatten(1))
    axes = [1] * (space.gradients.ndim - 1)
    gradients = torch.where(good.view(-1, *axes).to(space.gradients.device), space.gradients, 0)
    trace = torch.where(good, space.trace * weights, 0)
    columns = combine(gradients, root / scale[:, None, None])
    rows = Rows(columns, scale, trace, torch.zeros_like(scale))
    known = space.approximation
    if known is None:
        return rows
    unsure = torch.where(good, (known.lost_trace_bound - known.lost_trace) * weights, 0)
    return replace(rows, bound=rows.lost_trace + unsure)


def pooled(rows: Rows) -> Rows:
    """The sum over the P sums, as one.

    Args:
        rows: of P sums.

    Returns:
        Rows of one sum.
    """
    scale = rows.scale.amax()[None]
    values = _times(rows.values, rows.scale / scale).flatten(0, 1)[None]
    return Rows(values, scale, rows.trace.sum()[None], rows.bound.sum()[None])


def _times(values: Tensor, factors: Tensor) -> Tensor:
    if bool((factors == 1).all()):
        return values
    return values * factors.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
