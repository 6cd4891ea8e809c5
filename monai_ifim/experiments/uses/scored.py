"""The images that are scored: as they are, corrupted, and of another kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from monai_ifim.experiments.measures.corruptions import corrupt
from monai_ifim.experiments.steps import digest
from monai_ifim.experiments.tasks.catalogue import load_task
from monai_ifim.experiments.tasks.clinical import MissingDataError
from monai_ifim.experiments.tasks.labelled import Split, Task, balanced
from monai_ifim.experiments.tasks.lumpy import LumpyTask
from monai_ifim.experiments.tasks.signal import SignalTask

_FITTED = 2000  # training images for the Gaussians of the features, at the most
_FOREIGN = {"pneumoniamnist": ("mednist", "CXR")}  # whose images, but for those of which class
_FOREIGN_SEED = 3  # 1 and 2 are those of the tasks' own images


@dataclass(frozen=True, eq=False)
class Scored:
    """Images of a task, the same for all of its networks.

    Attributes:
        train: training images, which say what is usual.
        clean: test images (n, C, *S) with their classes.
        corrupted: by the corruption's name the same images, (n, C, *S).
        foreign: by their name images of another kind, (m, C, *S).
    """

    train: Split
    clean: Split
    corrupted: Mapping[str, Tensor] = field(default_factory=dict)
    foreign: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def images(self) -> dict[str, Tensor]:
        """All by name; those that are neither corrupted nor foreign as ``clean``."""
        return {"clean": self.clean.images, **self.corrupted, **self.foreign}

    @cached_property
    def digests(self) -> dict[str, str]:
        """Short names of all images, for keys of results."""
        return {
            "train": self.train.digest(),
            **{name: digest(images) for name, images in self.images.items()},
        }


def scored_images(
    task: Task, count: int, corruptions: Sequence[str], seed: int, data: Path | None = None
) -> Scored:
    """Choose and corrupt images.

    Args:
        task: whose test images are scored.
        count: how many of each kind, at the most.
        corruptions: names in ``CORRUPTIONS``.
        seed: of the corruptions.
        data: folder of the clinical data sets, for foreign images.

    Returns:
        All images that are scored.

    Raises:
        ValueError: constant images.
    """
    clean = balanced(task.test, count)
    return Scored(
        train=balanced(task.train, _FITTED),
        clean=clean,
        corrupted={name: corrupt(clean.images, name, 1.0, seed) for name in corruptions},
        foreign=foreign_images(task, len(clean), data),
    )


def no_foreign_images(task: Task) -> str:
    """Why there are none, for people.

    Args:
        task: for which ``foreign_images`` found nothing.

    Returns:
        A line.
    """
    wanted = _FOREIGN.get(task.name)
    if wanted is None:
        return f"{task.name}: no data set of foreign images is known for it; they are left out"
    return (
        f"{task.name}: expected images of {wanted[0]} as foreign ones, got none; they are left out "
        "(name its folder with --data)"
    )


def foreign_images(task: Task, count: int, data: Path | None = None) -> dict[str, Tensor]:
    """Images of another kind and of the same shape.

    Args:
        task: whose images they are compared with.
        count: how many at the most.
        data: folder of the clinical data sets.

    Returns:
        By their name (m, C, *S). For a controlled task the same signals in the other background,
        Gaussian or lumpy; for chest radiographs MedNIST's five other kinds of image, where the
        data are there. Nothing otherwise.
    """
    if task.signal is not None:
        signal = task.signal
        lumpy = isinstance(signal, LumpyTask)
        other = (SignalTask if lumpy else LumpyTask)(signal.signals, signal.power)
        generator = torch.Generator().manual_seed(_FOREIGN_SEED)
        images = other.sample(torch.arange(count) % other.classes, generator)
        return {"Gaussian background" if lumpy else "lumpy background": images}
    if task.name not in _FOREIGN:
        return {}
    name, same_kind = _FOREIGN[task.name]
    try:
        whole = load_task(name, train=1, test=2 * count, data=data, size=task.shape[-1])
    except MissingDataError:
        return {}
    split = whole.test
    kept = split.labels != whole.classes.index(same_kind)
    found = balanced(Split(split.images[kept], split.labels[kept]), count).images
    return {name: found} if found.shape[1:] == task.shape else {}
