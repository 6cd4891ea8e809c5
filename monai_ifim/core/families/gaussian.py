"""Regression: normal distributions around what the network predicts.

With known standard deviations σ, KL(p ‖ q) = ½ Σ ((m - m') / σ)² and F = Jᵀ diag(1/σ²) J. With a
predicted mean m and log-variance s, F = Σ ∇m ∇mᵀ e^(-s) + ½ ∇s ∇sᵀ.

Source: S. Amari, Information Geometry and Its Applications (2016), section 2.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from monai_ifim.core.families.divergence import excess
from monai_ifim.core.families.roots import DiagonalRoot


class _Density:
    """What follows from having a density in the place of probabilities."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """There are no classes, (B, 0) in float64."""
        return torch.empty((len(logits), 0), dtype=torch.float64, device=logits.device)

    def most_probable(self, logits: Tensor) -> tuple[list[str], Tensor]:
        """The predicted numbers as text, and NaN (B,), because a density is no probability."""
        rows = self.means(logits).flatten(1).tolist()
        texts = ["; ".join(f"{number:.6g}" for number in row) for row in rows]
        return texts, self.outcome_probability(logits, logits)

    def outcome_probability(self, logits: Tensor, reference: Tensor) -> Tensor:
        """NaN (B,) in float64: a density is no probability."""
        return torch.full((len(logits),), torch.nan, dtype=torch.float64, device=logits.device)

    def uncertainty(self, logits: Tensor) -> Tensor:
        """1 (B,) in float64: no number is certain."""
        return torch.ones(len(logits), dtype=torch.float64, device=logits.device)

    def means(self, logits: Tensor) -> Tensor:
        """What is predicted, (B, D)."""
        return logits


@dataclass(frozen=True)
class _KnownError(_Density):
    scale: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _checked(self.scale))


@dataclass(frozen=True)
class Gaussian(_KnownError):
    """Regression with known error: D outputs around which the truth is normal.

    Attributes:
        scale: standard deviation σ in units of the output, one for all or one for each: the error
            that is expected, or what counts as a change. F is in its units: λ = 1 moves the output
            by one σ for each input unit.

    Raises:
        ValueError: a scale that is not positive.
    """

    def check(self, logits: Tensor) -> None:
        """Raise unless there is a scale for each output.

        Args:
            logits: the outputs, (B, D).

        Raises:
            ValueError: another number of scales.
        """
        _fitting(self, self.scale, logits)

    def contrasts(self, logits: Tensor) -> Tensor:
        """Cotangents e_d, one for each output, (D, B, D)."""
        return _identities(logits)

    def factor(self, logits: Tensor) -> Tensor:
        """Diagonal factor with entries 1/σ, (B, D, D) in float64."""
        scale = _scales(self.scale, logits).reciprocal().expand(logits.shape)
        return torch.diag_embed(torch.where(logits.isnan(), torch.nan, scale))

    def entropy(self, logits: Tensor) -> Tensor:
        """Differential entropy in nats, the sum over the outputs, (B,) in float64."""
        each = _scales(self.scale, logits).log() + 0.5 * math.log(2 * math.pi * math.e)
        return each.expand(logits.shape).sum(dim=1)

    def divergence(self, before: Tensor, after: Tensor) -> Tensor:
        """KL divergence in nats, the sum over the outputs.

        Args:
            before: outputs (B, D) of the first.
            after: outputs (B, D) of the second.

        Returns:
            (B,) in float64.

        >>> Gaussian(2.0).divergence(torch.zeros(1, 1), torch.ones(1, 1))
        tensor([0.1250], dtype=torch.float64)
        """
        change = (after.double() - before.double()) / _scales(self.scale, before)
        return 0.5 * change.square().sum(dim=1)

    def dense(self) -> VoxelwiseGaussian:
        """The same at every voxel of an image-to-image network."""
        return VoxelwiseGaussian(self.scale)


@dataclass(frozen=True)
class GaussianMeanVariance(_Density):
    """Regression with predicted error: first D means m, then D logarithms s of variances.

    An uncertain output counts less: F = Σ e^(-s) ∇m ∇mᵀ + ½ ∇s ∇sᵀ.
    """

    def check(self, logits: Tensor) -> None:
        """Raise unless there are as many means as log-variances.

        Args:
            logits: (B, 2 D).

        Raises:
            ValueError: an odd number of outputs, or none.
        """
        if logits.shape[1] < 2 or logits.shape[1] % 2:
            raise ValueError(
                "expected D means and then D log-variances for each image, got outputs of shape "
                f"{tuple(logits.shape)}; order them with output_transform, or use Gaussian(scale)"
            )

    def contrasts(self, logits: Tensor) -> Tensor:
        """Cotangents e_d, one for each mean and log-variance, (2 D, B, 2 D)."""
        return _identities(logits)

    def factor(self, logits: Tensor) -> Tensor:
        """Diagonal factor with entries e^(-s/2) and 1/√2, (B, 2 D, 2 D) in float64."""
        mean, variance = logits.double().chunk(2, dim=1)
        half = torch.full_like(mean, 0.5**0.5)
        half = torch.where(variance.isnan() | mean.isnan(), torch.nan, half)
        return torch.diag_embed(torch.cat([torch.exp(-variance / 2), half], dim=1))

    def entropy(self, logits: Tensor) -> Tensor:
        """Differential entropy in nats, the sum over the outputs, (B,) in float64."""
        variance = logits.double().chunk(2, dim=1)[1]
        return 0.5 * (variance + math.log(2 * math.pi * math.e)).sum(dim=1)

    def divergence(self, before: Tensor, after: Tensor) -> Tensor:
        """KL divergence in nats: ½ Σ (e^u - 1 - u + (m - m')² e^(-s')), u = s - s'.

        Args:
            before: means and log-variances (B, 2 D) of the first.
            after: of the second.

        Returns:
            (B,) in float64, with the digits of tiny values.
        """
        (mean, variance), (other, changed) = (z.double().chunk(2, dim=1) for z in (before, after))
        shifted = (mean - other).square() * torch.exp(-changed)
        return 0.5 * (excess(variance - changed) + shifted).sum(dim=1)

    def dense(self) -> NoReturn:
        """At every voxel this is not served.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"expected outputs of shape (batch, 2 D) for {self!r}, got an image; use "
            "Gaussian(scale) for its means, chosen with output_transform"
        )

    def means(self, logits: Tensor) -> Tensor:
        """The means alone, (B, D)."""
        return logits.chunk(2, dim=1)[0]


@dataclass(frozen=True)
class VoxelwiseGaussian(_KnownError):
    """Image to image with known error: F = Σ over voxels and channels ∇z ∇zᵀ / σ².

    Attributes:
        scale: standard deviation σ of a voxel in units of the output, one for all channels or one
            for each.

    Raises:
        ValueError: a scale that is not positive.
    """

    def check(self, logits: Tensor) -> None:
        """Raise unless the output is an image with a scale for each channel.

        Args:
            logits: (B, C, *S).

        Raises:
            ValueError: no image, or another number of scales.
        """
        if logits.ndim < 3:
            raise ValueError(
                f"expected an image (batch, channels, *spatial) as the output for {self!r}, got "
                f"{tuple(logits.shape)}; for one outcome per image use Gaussian(scale)"
            )
        _fitting(self, self.scale, logits)

    def root(self, logits: Tensor) -> DiagonalRoot:
        """Root of the Fisher matrix of all voxels.

        Args:
            logits: (B, C, *S).

        Returns:
            The root, with one coordinate for each voxel and channel.
        """
        each = _scales(self.scale, logits).reciprocal().expand(logits.shape)
        return DiagonalRoot.of(each, logits.dtype)

    def entropy(self, logits: Tensor) -> Tensor:
        """Differential entropy in nats, the sum over voxels, (B,) in float64."""
        each = _scales(self.scale, logits).log() + 0.5 * math.log(2 * math.pi * math.e)
        return each.expand(logits.shape).flatten(1).sum(dim=1)

    def divergence(self, before: Tensor, after: Tensor) -> Tensor:
        """KL divergence in nats between two images, the sum over voxels, (B,) in float64."""
        change = (after.double() - before.double()) / _scales(self.scale, before)
        return 0.5 * change.square().flatten(1).sum(dim=1)

    def means(self, logits: Tensor) -> Tensor:
        """The mean of each channel over its voxels, (B, C)."""
        return logits.double().flatten(2).mean(dim=2)


def _checked(scale: float | Sequence[float]) -> float | tuple[float, ...]:
    numbers = tuple(scale) if isinstance(scale, Sequence) else (scale,)
    good = all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers)
    if not numbers or not good or not all(0 < n < math.inf for n in numbers):
        raise ValueError(
            f"expected scale as a standard deviation > 0, or one for each output, got {scale!r}; "
            "for example the error on a validation set"
        )
    return tuple(map(float, numbers)) if isinstance(scale, Sequence) else float(numbers[0])


def _fitting(family: object, scale: float | tuple[float, ...], logits: Tensor) -> None:
    count = len(scale) if isinstance(scale, tuple) else logits.shape[1]
    if count != logits.shape[1] or not count:
        raise ValueError(
            f"expected a scale for each of the {logits.shape[1]} outputs, got {family!r}; give one "
            "number for all, or one for each"
        )


def _scales(scale: float | tuple[float, ...], logits: Tensor) -> Tensor:
    """σ as (1, D or 1, 1...) in float64."""
    numbers = scale if isinstance(scale, tuple) else (scale,)
    values = torch.tensor(numbers, dtype=torch.float64, device=logits.device)
    return values.view(1, -1, *[1] * (logits.ndim - 2))


def _identities(logits: Tensor) -> Tensor:
    identity = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
    return identity[:, None, :].expand(-1, logits.shape[0], -1)
