"""Training images of a controlled task that are drawn while they are used, each once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from monai_ifim.experiments.tasks.signal import SignalTask

# Far from the seeds of the images that tasks draw for training and for tests.
_SEEDS = 1 << 32
# Share of the batches after which signals have their own strength.
_SETTLED = 0.9


class FreshImages(IterableDataset[tuple[Tensor, Tensor]]):
    """Batches of images and labels, the same whenever they are passed over.

    Args:
        signal: what they are drawn from.
        batch_size: images of a batch.
        steps: number of batches.
        seed: of images and labels; another one gives other images.
        strength: what the signals are multiplied by at first; that comes down to 1 along a straight
            line, by nine tenths of the batches (Y. Bengio et al., "Curriculum learning", ICML
            2009).
        shuffled: give labels that say nothing about the images.
    """

    def __init__(
        self,
        signal: SignalTask,
        batch_size: int,
        steps: int,
        seed: int,
        *,
        strength: float = 1,
        shuffled: bool = False,
    ) -> None:
        self.signal = signal
        self.batch_size = batch_size
        self.steps = steps
        self.seed = seed
        self.strength = strength
        self.shuffled = shuffled

    def __len__(self) -> int:
        """Number of batches."""
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, 1, *S) and labels (B,), all classes equally probable."""
        generator = torch.Generator().manual_seed(_SEEDS + self.seed)
        for step in range(self.steps):
            labels = self._labels(generator)
            images = self.signal.sample(labels, generator, self.strength_at(step))
            yield images, self._labels(generator) if self.shuffled else labels

    def strength_at(self, step: int) -> float:
        """What the signals of a batch are multiplied by.

        Args:
            step: number of the batch, from 0.

        Returns:
            ``strength`` at the first, 1 in the last tenth of at least 10 batches.

        >>> from monai_ifim.experiments.tasks.blobs import signal_task
        >>> images = FreshImages(signal_task("2d_small"), 64, 100, seed=0, strength=4)
        >>> [round(images.strength_at(step), 6) for step in (0, 30, 90, 99)]
        [4.0, 3.0, 1.0, 1.0]
        """
        return 1 + (self.strength - 1) * max(0.0, 1 - step / (_SETTLED * self.steps))

    def settled(self) -> FreshImages:
        """The same backgrounds and labels, with signals of their own strength from the start."""
        return FreshImages(
            self.signal, self.batch_size, self.steps, self.seed, shuffled=self.shuffled
        )

    def _labels(self, generator: torch.Generator) -> Tensor:
        return torch.randint(self.signal.classes, (self.batch_size,), generator=generator)
