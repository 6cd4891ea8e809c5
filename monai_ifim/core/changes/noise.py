"""Changes like the noise of a scanner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class NoiseSpectrum:
    """Stationary noise with a known power spectrum: A = F⁻¹ √P F, F the Fourier transform.

    A u has the covariance of the noise (with periodic borders), so λ is the effect of one standard
    deviation of scanner noise along an eigenvector: ½λ nats. A is symmetric.

    Attributes:
        power: P on the frequencies of ``torch.fft.fftn``, (*S) for all channels, or (C, *S);
            variance for each frequency, so that its mean is the variance of a voxel, in squared
            input units. P(-k) = P(k).

    Raises:
        ValueError: negative numbers, or a spectrum that no real noise has.
    """

    power: Tensor

    def __post_init__(self) -> None:
        power = self.power
        good = isinstance(power, Tensor) and bool((torch.isfinite(power) & (power >= 0)).all())
        if not good or not bool(power.any()):
            raise ValueError(
                "expected a power spectrum of numbers >= 0, not all of them 0, got something else; "
                "measure it with NoiseSpectrum.measured(flat_regions, spatial)"
            )

    @classmethod
    def measured(cls, patches: Tensor, spatial: Sequence[int]) -> NoiseSpectrum:
        """From flat regions, in which all that varies is noise.

        The periodogram, averaged over the regions; its autocovariance is continued with zeros to
        the size of the images.

        Args:
            patches: (n, *P), of the preprocessed images; no side longer than that of the images.
            spatial: sizes of the images' axes.

        Returns:
            The spectrum, with the variance of the regions.

        Raises:
            ValueError: regions of another number of axes, larger than the images, or constant.
        """
        sizes = tuple(patches.shape[1:])
        fits = len(sizes) == len(spatial) and patches.numel() > 1
        if not fits or any(p > s for p, s in zip(sizes, spatial, strict=True)):
            raise ValueError(
                f"expected flat regions (n, *P) inside images of {tuple(spatial)}, got "
                f"{tuple(patches.shape)}; cut them out of one channel of the preprocessed images"
            )
        values = patches.detach().as_subclass(Tensor).double()
        values = values - values.mean(dim=tuple(range(1, values.ndim)), keepdim=True)
        variance = values.square().mean()
        if not bool(variance > 0):
            raise ValueError(
                "expected flat regions with noise, got constant ones; choose them inside the "
                "image, not in padding or in a background that was set to 0"
            )
        axes = tuple(range(1, values.ndim))
        power = torch.fft.fftn(values, dim=axes).abs().square().mean(dim=0) / values[0].numel()
        covariance = torch.fft.ifftn(power).real
        padded = covariance.new_zeros(tuple(spatial))
        # Lags up to half of the region, on both sides of 0; beyond nothing is known.
        places = [
            torch.arange(-((size - 1) // 2), (size - 1) // 2 + 1) for size in covariance.shape
        ]
        lags = torch.cartesian_prod(*places).reshape(-1, len(places)).T
        padded[tuple(lags)] = covariance[tuple(lags)]
        result = torch.fft.fftn(padded).real.clamp_min(0)
        return cls(result * variance / result.mean())

    def check(self, images: Tensor) -> None:
        """Raise unless the spectrum is that of real noise on the images' grid.

        Args:
            images: (B, C, *S).

        Raises:
            ValueError: another grid, or P(-k) is not P(k).
        """
        spatial, shape = tuple(images.shape[2:]), tuple(self.power.shape)
        if shape not in (spatial, tuple(images.shape[1:])):
            raise ValueError(
                f"expected a power spectrum {spatial} or {tuple(images.shape[1:])} for images "
                f"{tuple(images.shape)}, got {shape}; measure it with NoiseSpectrum.measured"
            )
        axes = tuple(range(self.power.ndim - len(spatial), self.power.ndim))
        mirrored = self.power.flip(axes).roll([1] * len(axes), axes)
        tiny = 1e-6 * float(self.power.max())
        if not torch.allclose(mirrored, self.power, rtol=1e-4, atol=tiny):
            raise ValueError(
                "expected P(-k) = P(k) on the frequencies of torch.fft.fftn, as all real noise "
                "has, got another spectrum; was it shifted? Use torch.fft.ifftshift"
            )

    def apply(self, values: Tensor) -> Tensor:
        """Values (M, B, C, *S), filtered."""
        spatial = values.shape[3:]
        axes = tuple(range(3, values.ndim))
        root = self.power.to(values).sqrt()
        filtered = torch.fft.ifftn(torch.fft.fftn(values, dim=axes) * root, s=spatial, dim=axes)
        return filtered.real

    def transpose(self, values: Tensor) -> Tensor:
        """The same: A is symmetric."""
        return self.apply(values)
