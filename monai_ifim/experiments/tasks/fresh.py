"""Training images of a controlled task that are drawn while they are used, each once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from monai_ifim.experiments.tasks.signal import SignalTask

# Far from the seeds of the images that tasks draw for training and for tests.
_SEEDS = 1 << 32


class FreshImages(IterableDataset[tuple[Tensor, Tensor]]):
    """Batches of images and labels, the same whenever they are passed over.

    Args:
        signal: what they are drawn from.
        batch_size: images of a batch.
        steps: number of batches.
        seed: of images and labels; another one gives other images.
        shuffled: give labels that say nothing about the images.
    """

    def __init__(
        self, signal: SignalTask, batch_size: int, steps: int, seed: int, *, shuffled: bool = False
    ) -> None:
        self.signal = signal
        self.batch_size = batch_size
        self.steps = steps
        self.seed = seed
        self.shuffled = shuffled

    def __len__(self) -> int:
        """Number of batches."""
        return self.steps

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, 1, *S) and labels (B,), all classes equally probable."""
        generator = torch.Generator().manual_seed(_SEEDS + self.seed)
        for _ in range(self.steps):
            labels = self._labels(generator)
            images = self.signal.sample(labels, generator)
            yield images, self._labels(generator) if self.shuffled else labels

    def _labels(self, generator: torch.Generator) -> Tensor:
        return torch.randint(self.signal.classes, (self.batch_size,), generator=generator)
