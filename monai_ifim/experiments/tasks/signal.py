"""A detection task whose ideal observer is known in closed form.

Signal-known-exactly detection: an image is a stationary correlated Gaussian background n,
in class c >= 1 with a known signal s_c added. With the background covariance C, the
log posterior ratio of class c against "no signal" is linear in the image x,

    z_c - z_0 = w_cᵀ x - s_cᵀ C⁻¹ s_c / 2,    w_c = C⁻¹ s_c,

so the ideal classifier's Fisher information has the span of the templates w_c as its
leading eigenspace at every image: what a trained network's eigenspace is scored against.

Source: H. H. Barrett and K. J. Myers, "Foundations of Image Science", Wiley 2004, ch. 13
(Hotelling observer, detectability); stationary Gaussian background on a periodic grid, so
that C is circulant and diagonal in the Fourier basis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from monai_ifim.experiments.steps import digest


class Accuracy(NamedTuple):
    """Share of correct decisions and its Monte Carlo standard error (0 if exact)."""

    value: float
    standard_error: float


@dataclass(frozen=True, eq=False)
class SignalTask:
    """Known signals in a stationary Gaussian background, all classes equally probable.

    Attributes:
        signals: (K - 1, *S) in float64, the signal of classes 1 to K - 1; class 0 has none.
        power: (*S) in float64, power spectrum of the background: the eigenvalues of its
            covariance, in the order of ``torch.fft.fftn``; their mean is the variance.
    """

    signals: Tensor
    power: Tensor

    def __post_init__(self) -> None:
        """Check the spectrum and the signals.

        Raises:
            ValueError: the signals' shape does not continue the spectrum's, or the spectrum
                is not that of a real field with an invertible covariance.
        """
        if self.signals.dim() < 2 or self.signals.shape[1:] != self.power.shape:
            raise ValueError(
                f"expected signals (K - 1, {', '.join(map(str, self.power.shape))}), got "
                f"{tuple(self.signals.shape)}; stack one signal per class from 1 on"
            )
        if self.signals.dtype != torch.float64 or self.power.dtype != torch.float64:
            raise ValueError(
                f"expected float64 signals and power, got {self.signals.dtype} and "
                f"{self.power.dtype}; convert them with .double()"
            )
        if not (torch.isfinite(self.power).all() and (self.power > 0).all()):
            raise ValueError(
                "expected a finite power spectrum above 0 at every frequency, got "
                f"{self.power.min():g} to {self.power.max():g}; add white noise"
            )
        axes = tuple(range(self.power.dim()))
        mirrored = self.power.flip(axes).roll((1,) * len(axes), axes)
        if not torch.allclose(mirrored, self.power):
            raise ValueError(
                "expected power(f) = power(-f), as for any real background, got an asymmetric "
                "spectrum; build it from |f|, with the zero frequency first"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape S of the images."""
        return tuple(self.power.shape)

    @property
    def classes(self) -> int:
        """Number of classes K, "no signal" included."""
        return len(self.signals) + 1

    @cached_property
    def templates(self) -> Tensor:
        """Hotelling templates w_c = C⁻¹ s_c, (K - 1, *S) in float64."""
        axes = tuple(range(1, self.signals.dim()))
        spectra = torch.fft.fftn(self.signals, dim=axes) / self.power
        return torch.fft.ifftn(spectra, dim=axes).real

    @cached_property
    def gram(self) -> Tensor:
        """Inner products s_cᵀ C⁻¹ s_d, (K - 1, K - 1) in float64."""
        product = self.signals.flatten(1) @ self.templates.flatten(1).T
        return (product + product.T) / 2

    @property
    def detectability(self) -> Tensor:
        """Detectability d' of each signal against none, (K - 1,) in float64."""
        return self.gram.diagonal().sqrt()

    def digest(self) -> str:
        """Short name of what the images are drawn from, for keys of results."""
        return digest(type(self).__name__, self.signals, self.power)

    def ideal_logits(self, images: Tensor) -> Tensor:
        """Logits of the ideal observer; their softmax is the exact posterior.

        Args:
            images: (B, 1, *S).

        Returns:
            (B, K) in float64, 0 for class 0.

        Raises:
            ValueError: another shape.
        """
        if images.shape[1:] != (1, *self.shape):
            raise ValueError(
                f"expected images (B, 1, {', '.join(map(str, self.shape))}), got "
                f"{tuple(images.shape)}; add the batch and channel axes"
            )
        templates = self.templates.flatten(1).to(images.device)
        bias = self.gram.diagonal().to(images.device) / 2
        logits = images.flatten(1).double() @ templates.T - bias
        return torch.nn.functional.pad(logits, (1, 0))

    def ideal_accuracy(self, draws: int = 1_000_000, seed: int = 0) -> Accuracy:
        """Share of correct decisions of the ideal observer, the highest that is possible.

        Two classes have the closed form Phi(d'/2). More classes are simulated: wᵀx is
        Gaussian with covariance ``gram``, so no image has to be drawn.

        Args:
            draws: simulated decisions, spread evenly over the classes; unused for K = 2.
            seed: of a generator of its own.

        Returns:
            Accuracy with its standard error.

        >>> from monai_ifim.experiments import signal_task
        >>> value, standard_error = signal_task("2d").ideal_accuracy()
        >>> round(value, 6), standard_error
        (0.841345, 0.0)
        """
        if self.classes == 2:
            return Accuracy(0.5 * math.erfc(-float(self.detectability) / math.sqrt(8)), 0.0)
        per_class = math.ceil(draws / self.classes)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(per_class, self.classes - 1, generator=generator, dtype=torch.float64)
        noise = noise @ torch.linalg.cholesky(self.gram).T
        bias = self.gram.diagonal() / 2
        shares = []
        for label, mean in enumerate(torch.nn.functional.pad(self.gram, (0, 0, 1, 0))):
            logits = torch.nn.functional.pad(noise + mean - bias, (1, 0))
            shares.append((logits.argmax(dim=1) == label).double())
        decisions = torch.stack(shares).mean(dim=0)  # the classes share their noise
        return Accuracy(float(decisions.mean()), float(decisions.std()) / math.sqrt(per_class))

    def sample(
        self, labels: Sequence[int] | Tensor, generator: torch.Generator, strength: float = 1
    ) -> Tensor:
        """Draw one image of each of these classes.

        Args:
            labels: (B,) classes.
            generator: source of the background, on the CPU.
            strength: what the signals are multiplied by.

        Returns:
            (B, 1, *S) in float32.

        Raises:
            ValueError: a label outside 0 to K - 1.
        """
        labels = torch.as_tensor(labels, dtype=torch.long)
        if bool(((labels < 0) | (labels >= self.classes)).any()):
            raise ValueError(
                f"expected labels from 0 to {self.classes - 1}, got {labels.tolist()}; "
                "class 0 is the background alone"
            )
        additions = strength * self._additions[labels]
        return (self.background(len(labels), generator) + additions)[:, None]

    def background(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw backgrounds without a signal.

        Args:
            count: how many.
            generator: source of the background, on the CPU.

        Returns:
            (count, *S) in float32.
        """
        axes = tuple(range(1, self.power.dim() + 1))
        noise = torch.randn(count, *self.shape, generator=generator)
        spectrum = torch.fft.rfftn(noise, dim=axes) * self._amplitude
        return torch.fft.irfftn(spectrum, s=self.shape, dim=axes)

    @cached_property
    def _amplitude(self) -> Tensor:
        """Square root of the half spectrum that ``rfftn`` keeps."""
        return self.power[..., : self.shape[-1] // 2 + 1].sqrt().float()

    @cached_property
    def _additions(self) -> Tensor:
        """What each class adds to the background, (K, *S) in float32."""
        return torch.cat([torch.zeros_like(self.signals[:1]), self.signals]).float()
