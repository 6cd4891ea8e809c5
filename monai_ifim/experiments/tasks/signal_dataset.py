"""Images of a signal task, drawn when asked for."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor
from torch.utils.data import Dataset

from monai_ifim.experiments.tasks.blobs import signal_task
from monai_ifim.experiments.tasks.signal import SignalTask


class Sample(TypedDict):
    """One image (1, *S) in float32 and its class."""

    image: Tensor
    label: int


class SignalDataset(Dataset[Sample]):
    """Images of a task, drawn when asked for: item i depends on (seed, i) alone.

    Labels go round the classes, so that any stretch is balanced. The global random state
    is neither read nor changed.
    """

    def __init__(
        self, task: SignalTask | str, length: int, seed: int, *, named: bool = False
    ) -> None:
        """Describe the images; none is drawn yet.

        Args:
            task: a task, or the name of one: ``"2d"``, ``"2d_small"``, ``"2d_four"``, ``"3d"``.
            length: number of images.
            seed: two data sets of different seeds are independent.
            named: give each image a name as a file has it, for tables with a row an image.

        Raises:
            ValueError: a length below 1 or a negative seed.
        """
        if length < 1 or seed < 0:
            raise ValueError(
                f"expected length >= 1 and seed >= 0, got length {length} and seed {seed}; "
                "ask for at least one image"
            )
        self.task = signal_task(task) if isinstance(task, str) else task
        self.length = length
        self.seed = seed
        self.named = named

    def __len__(self) -> int:
        """Number of images."""
        return self.length

    def __getitem__(self, index: int) -> Sample:
        """Draw one image.

        Args:
            index: 0 to length - 1; negative indices count from the end.

        Returns:
            ``image`` (1, *S) in float32 and ``label``.

        Raises:
            IndexError: index out of range.
        """
        if not -self.length <= index < self.length:
            raise IndexError(f"expected an index below {self.length}, got {index}")
        index %= self.length
        # SeedSequence mixes the pair: neighbouring (seed, index) have unrelated streams.
        mixed = np.random.SeedSequence([self.seed, index]).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(mixed))
        label = index % self.task.classes
        image = self.task.sample([label], generator)[0]
        if self.named:
            name = f"seed {self.seed} image {index:06d}"
            image = MetaTensor(image, meta={"filename_or_obj": name})
        return {"image": image, "label": label}
