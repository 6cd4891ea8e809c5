"""Square roots of the Fisher matrix of the logits.

F = Jᵀ M J with the K x K matrix M of the predictive family. A root A with M = A Aᵀ gives
F = G Gᵀ with G = Jᵀ A; where G has too many columns to form, its products are all that is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Root(Protocol):
    """A root of M = scale² A Aᵀ as a linear map from D coordinates to cotangents of the logits."""

    @property
    def size(self) -> int:
        """The number D of coordinates of one image."""

    @property
    def scale(self) -> Tensor:
        """(B,) in float64: it keeps probabilities near 0 out of the products."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the coordinates."""

    def cotangents(self, coordinates: Tensor) -> Tensor:
        """A r for coordinates (B, M, D), as (M, *L) for logits of shape L."""

    def coordinates(self, outputs: Tensor) -> Tensor:
        """Aᵀ z for outputs (M, *L), as (B, M, D)."""


@dataclass(frozen=True)
class ContrastRoot:
    """Root of a family with one set of logits per image: its contrasts times its factor B.

    Attributes:
        matrix: A as (B, K, D) in float64.
        scale: (B,) in float64.
    """

    matrix: Tensor
    scale: Tensor

    @classmethod
    def of(cls, contrasts: Tensor, factor: Tensor) -> ContrastRoot:
        """Root from a family's contrasts (D, B, K) and its factor (B, D, D)."""
        scale = unit_scale(factor.flatten(1))
        contrasts = contrasts.permute(1, 2, 0).double()
        return cls(contrasts @ (factor / scale[:, None, None]), scale)

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return self.matrix.shape[2]

    @property
    def dtype(self) -> torch.dtype:
        """Of the coordinates."""
        return self.matrix.dtype

    def cotangents(self, coordinates: Tensor) -> Tensor:
        """A r.

        Args:
            coordinates: (B, M, D).

        Returns:
            (M, B, K).
        """
        return torch.einsum("bkd,bmd->mbk", self.matrix, coordinates)

    def coordinates(self, outputs: Tensor) -> Tensor:
        """Aᵀ z.

        Args:
            outputs: (M, B, K).

        Returns:
            (B, M, D).
        """
        return torch.einsum("bkd,mbk->bmd", self.matrix, outputs.double())


@dataclass(frozen=True)
class DiagonalRoot:
    """Root of independent outputs: a diagonal A, one coordinate for each output.

    Attributes:
        diagonal: of A / scale, (B, *L) in the logits' dtype.
        scale: (B,) in float64.
    """

    diagonal: Tensor
    scale: Tensor

    @classmethod
    def of(cls, diagonal: Tensor, dtype: torch.dtype) -> DiagonalRoot:
        """Root with a diagonal (B, *L) in float64, scaled before it is rounded to a dtype."""
        scale = unit_scale(diagonal.flatten(1))
        scaled = diagonal / scale.view(-1, *[1] * (diagonal.ndim - 1))
        return cls(scaled.to(dtype), scale)

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return self.diagonal[0].numel()

    @property
    def dtype(self) -> torch.dtype:
        """Of the coordinates."""
        return self.diagonal.dtype

    def cotangents(self, coordinates: Tensor) -> Tensor:
        """A r / scale for coordinates (B, M, D), as (M, B, *L)."""
        u = coordinates.transpose(0, 1).reshape(-1, *self.diagonal.shape)
        return self.diagonal * u

    def coordinates(self, outputs: Tensor) -> Tensor:
        """Aᵀ z / scale for outputs (M, B, *L), as (B, M, D)."""
        return (self.diagonal * outputs).flatten(2).transpose(0, 1)


def unit_scale(values: Tensor) -> Tensor:
    """Largest magnitude of each row (B, D), 1 for rows without any: something to divide by."""
    size = values.abs().amax(dim=1)
    return torch.where(size > 0, size, torch.ones_like(size))
