"""Smooth changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from monai_ifim.core.smoothing import along_axes, gaussian_matrices


@dataclass(frozen=True)
class Smooth:
    """Changes that vary slowly: white noise, smoothed by a Gaussian, of standard deviation 1.

    A = K with the Gaussian kernel along each axis, its rows scaled to length 1, so that A u has the
    variance 1 in every voxel, at the borders too. λ is then the effect of smooth changes in input
    units; single voxels no longer count.

    Attributes:
        sigma_mm: standard deviation of the kernel in mm, one for all axes or one for each.
        spacing: size of a voxel along each axis in mm; 1 takes ``sigma_mm`` in voxels.

    Raises:
        ValueError: a negative width, or a spacing that is not positive.
    """

    sigma_mm: float | tuple[float, ...]
    spacing: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        widths, spacings = _each(self.sigma_mm), _each(self.spacing)
        if any(not 0 <= width < float("inf") for width in widths):
            raise ValueError(f"expected sigma_mm >= 0, got {self.sigma_mm}; for example 2.0")
        if any(not 0 < size < float("inf") for size in spacings):
            raise ValueError(
                f"expected spacing > 0 in mm, got {self.spacing}; a MetaTensor has it as pixdim"
            )

    def check(self, images: Tensor) -> None:
        """Raise unless there is a width for each axis.

        Args:
            images: (B, C, *S).

        Raises:
            ValueError: another number of axes.
        """
        dims = images.ndim - 2
        for name in ("sigma_mm", "spacing"):
            numbers = _each(getattr(self, name))
            if len(numbers) not in (1, dims):
                raise ValueError(
                    f"expected {name} as one number or {dims}, one for each axis of images "
                    f"{tuple(images.shape)}, got {numbers}; give as many"
                )

    def apply(self, values: Tensor) -> Tensor:
        """Smoothed values (M, B, C, *S)."""
        return along_axes(values, self._matrices(values))

    def transpose(self, values: Tensor) -> Tensor:
        """Aᵀ of values (M, B, C, *S)."""
        return along_axes(values, [matrix.T for matrix in self._matrices(values)])

    def _matrices(self, values: Tensor) -> list[Tensor]:
        spatial = values.shape[3:]
        sigmas, sizes = (_each(number, len(spatial)) for number in (self.sigma_mm, self.spacing))
        widths = [sigma / size for sigma, size in zip(sigmas, sizes, strict=True)]
        matrices = gaussian_matrices(spatial, widths)
        return [matrix / matrix.norm(dim=1, keepdim=True) for matrix in matrices]


def _each(value: float | Sequence[float], dims: int = 1) -> tuple[float, ...]:
    """One number for each axis."""
    numbers = tuple(float(v) for v in value) if isinstance(value, Sequence) else (float(value),)
    return numbers * dims if len(numbers) == 1 else numbers
