"""An evaluator with handler and saving on images of any shape, for long and hostile runs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from torch import Tensor, nn

import monai_ifim as mi


class Moments(nn.Module):
    """Three logits from the mean and the scatter of an image of any size and number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 3)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.2, -1.0]]))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: (B, C, *S).

        Returns:
            (B, 3).
        """
        x = torch.tanh(x.flatten(1))
        return self.head(torch.stack([x.mean(dim=1), x.square().mean(dim=1)], dim=1))


def evaluator(
    files: Sequence[str], output: Path, max_voxels: int | None = None, **loading: Any
) -> SupervisedEvaluator:
    """An evaluator that loads files, writes two volumes and a row for each.

    Args:
        files: paths of images.
        output: folder of the results.
        max_voxels: values of one image at the most.
        loading: further arguments of the loader.

    Returns:
        The evaluator; its handler does not raise at the end for images without a result.
    """
    load = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])
    data = Dataset([{"image": file} for file in files], load)
    save = mi.SaveComponentsd(["ifim_high", "ifim_orth"], output, load, output_ext=".nii")
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=mi.FaultTolerantDataLoader(data, max_voxels=max_voxels, **loading),
        network=Moments(),
        inferer=mi.IFIMInferer(),
        val_handlers=[mi.IFIMHandler(postprocessing=save, output_dir=output)],
    )


def quietly() -> None:
    """One thread, and no warnings of readers about damaged files."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def resident() -> float:
    """Memory of this process in MB, as the system sees it."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
