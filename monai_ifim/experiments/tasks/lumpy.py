"""The non-Gaussian variant of the signal task: a lumpy background.

Lumps of one shape lie at random places, a Poisson number of them, and white Gaussian noise is
added. Mean and covariance are those of the Gaussian task, so the best linear observer, the
Hotelling template, is the same and known; the ideal observer is not linear, and has no closed
form.

Source: J. P. Rolland and H. H. Barrett, "Effect of random background inhomogeneity on observer
detection performance", Journal of the Optical Society of America A 9 (1992).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monai_ifim.experiments.steps import digest
from monai_ifim.experiments.tasks.blobs import WHITE_SHARE, signal_task
from monai_ifim.experiments.tasks.signal import SignalTask


@dataclass(frozen=True, eq=False)
class LumpyTask(SignalTask):
    """A signal task with the same first two moments, and lumps instead of a Gaussian background.

    ``ideal_logits`` are those of the Hotelling observer here, not of the ideal one.

    Attributes:
        rate: mean number of lumps per pixel. The fewer, the further from a Gaussian.
    """

    rate: float = 0.01

    def __post_init__(self) -> None:
        """Check the spectrum, the signals and the rate.

        Raises:
            ValueError: a spectrum or signals that ``SignalTask`` refuses, or a rate that is not
                positive.
        """
        super().__post_init__()
        if not self.rate > 0:
            raise ValueError(f"expected a rate above 0, got {self.rate}; 0.01 is one in 100 pixels")

    def digest(self) -> str:
        """Short name of what the images are drawn from, for keys of results."""
        return digest(super().digest(), repr(self.rate))

    def background(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw lumps and noise, without a signal.

        Args:
            count: number of images.
            generator: source of lumps and noise, on the CPU.

        Returns:
            (count, *S) in float32.
        """
        axes = tuple(range(1, self.power.dim() + 1))
        rates = torch.full((count, *self.shape), self.rate)
        # Counts of unit variance and mean 0: convolved with the lump, its spectrum comes out.
        counts = (torch.poisson(rates, generator=generator) - self.rate) / self.rate**0.5
        lump = (self.power - WHITE_SHARE).clamp_min(0).sqrt()[..., : self.shape[-1] // 2 + 1]
        spectrum = torch.fft.rfftn(counts, dim=axes) * lump.float()
        lumps = torch.fft.irfftn(spectrum, s=self.shape, dim=axes)
        return lumps + WHITE_SHARE**0.5 * torch.randn(lumps.shape, generator=generator)


def lumpy_task(name: str) -> LumpyTask:
    """The lumpy variant of a task of ``signal_task``.

    Args:
        name: ``"2d"``, ``"2d_small"``, ``"2d_four"`` or ``"3d"``, as in ``signal_task``.

    Returns:
        The task, the same at every call.

    Raises:
        ValueError: unknown name.

    >>> lumpy_task("2d_small").sample([0, 1], torch.Generator()).shape
    torch.Size([2, 1, 32, 32])
    """
    task = signal_task(name)
    return LumpyTask(task.signals, task.power)
