"""The classification tasks of the experiments: with a known answer, and clinical ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.transforms import Compose, EnsureChannelFirstd, ScaleIntensityd, SpatialPadd
from torch import Tensor
from torch.nn.functional import interpolate

from monai_ifim.data.arrays import LoadImageOrArrayd
from monai_ifim.data.datalist import labelled_images
from monai_ifim.experiments.steps import digest
from monai_ifim.experiments.tasks.lumpy import lumpy_task
from monai_ifim.experiments.tasks.signal import SignalTask, signal_task


class MissingDataError(FileNotFoundError):
    """The images of a clinical task are not there."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, C, *S) in float32 and their classes (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Task:
    """Images to train on and to test on.

    Attributes:
        name: in ``TASKS``.
        classes: their names.
        source: where the images come from, and their licence.
        train: to train on.
        test: to test on; disjoint from the others.
        signal: of a controlled task, its templates and ideal decisions.
        known_answer: ``exact`` where the ideal observer's template is known, ``reference`` where
            only the best linear one is, None for clinical tasks.
    """

    name: str
    classes: tuple[str, ...]
    source: str
    train: Split
    test: Split
    signal: SignalTask | None = None
    known_answer: str | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (C, *S) of one image."""
        return tuple(self.train.images.shape[1:])

    @property
    def templates(self) -> Tensor:
        """Templates of the (ideal or best linear) observer, (1, K - 1, 1, *S) in float64.

        Raises:
            ValueError: a clinical task.
        """
        if self.signal is None:
            raise ValueError(
                f"expected a controlled task, got {self.name}, whose answer is unknown"
            )
        return self.signal.templates[None, :, None]

    def digest(self) -> str:
        """Short name of the images and labels, for keys of results."""
        splits = (self.train, self.test)
        return digest(*(tensor for split in splits for tensor in (split.images, split.labels)))


@dataclass(frozen=True)
class _Clinical:
    places: tuple[str, ...]  # below the data folder, the first that is there counts
    classes: tuple[str, ...]
    source: str
    smallest: int = 0


_MEDMNIST = "MedMNIST v2, Yang et al., Scientific Data 2023, CC BY 4.0"
_CLINICAL = {
    "pneumoniamnist": _Clinical(
        ("pneumoniamnist.npz", "pneumoniamnist/pneumoniamnist.npz"),
        ("normal", "pneumonia"),
        f"PneumoniaMNIST, paediatric chest radiographs ({_MEDMNIST}; Kermany et al., Cell 2018)",
        32,
    ),
    "mednist": _Clinical(
        ("MedNIST", "mednist6_64"),
        ("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT"),
        "MedNIST, made available by Dr. Bradley J. Erickson (Mayo Clinic), CC BY-SA 4.0",
    ),
    "adrenalmnist3d": _Clinical(
        ("adrenalmnist3d.npz", "adrenalmnist3d/adrenalmnist3d.npz"),
        ("normal", "hyperplasia or mass"),
        f"AdrenalMNIST3D, masks of the gland, 28³ ({_MEDMNIST})",
    ),
    "adrenalmnist3d_64": _Clinical(
        ("adrenalmnist3d_64.npz", "adrenalmnist3d/adrenalmnist3d_64.npz"),
        ("normal", "hyperplasia or mass"),
        f"AdrenalMNIST3D, masks of the gland, 64³ ({_MEDMNIST})",
    ),
    "hippocampus": _Clinical(
        ("hippocampus", "hippo3d_dev/hippo3d_dev.npz"),
        ("other", "anterior", "posterior"),
        "Patches of Task04 Hippocampus, Medical Segmentation Decathlon, Antonelli et al., Nature "
        "Communications 2022, CC BY-SA 4.0",
    ),
}
_CONTROLLED: dict[str, tuple[Callable[[str], SignalTask], str, str]] = {
    "signal_2d": (signal_task, "2d_small", "exact"),
    "signal_2d_four": (signal_task, "2d_four", "exact"),
    "signal_3d": (signal_task, "3d", "exact"),
    "lumpy_2d": (lumpy_task, "2d_small", "reference"),
}
TASKS = (*_CONTROLLED, *_CLINICAL)


def load_task(
    name: str, *, train: int, test: int, data: Path | None = None, size: int | None = None
) -> Task:
    """A task with at most so many images.

    Clinical images are scaled to [0, 1] each. Where there are more than asked for, those taken
    are spread evenly.

    Args:
        name: in ``TASKS``.
        train: training images.
        test: test images.
        data: folder of the clinical data sets, see ``docs/experiments.md``.
        size: resize clinical images to this many pixels along every axis.

    Returns:
        The task.

    Raises:
        MissingDataError: clinical images that are not there.
        ValueError: unknown name, or fewer than one image.
    """
    if name not in TASKS:
        raise ValueError(f"expected a task in {list(TASKS)}, got {name!r}; choose one of them")
    if train < 1 or test < 1:
        raise ValueError(f"expected at least one image each, got train {train} and test {test}")
    if name in _CLINICAL:
        return _clinical(name, train, test, data, size)
    build, variant, known = _CONTROLLED[name]
    signal = build(variant)
    kind = "lumpy" if known == "reference" else "Gaussian"
    strength = ", ".join(f"{value:.3g}" for value in signal.detectability.tolist())
    return Task(
        name=name,
        classes=("no signal", *(f"signal {i}" for i in range(1, signal.classes))),
        source=f"known signals in a {kind} background, made on the spot, d' = {strength}",
        train=_drawn(signal, train, seed=1),
        test=_drawn(signal, test, seed=2),
        signal=signal,
        known_answer=known,
    )


def _drawn(signal: SignalTask, count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % signal.classes
    # In blocks: the noise of a large set in complex numbers would need several times its memory.
    blocks = [signal.sample(block, generator) for block in labels.split(500)]
    return Split(torch.cat(blocks), labels)


def _clinical(name: str, train: int, test: int, data: Path | None, size: int | None) -> Task:
    found = _CLINICAL[name]
    place = _place(name, data)
    return Task(
        name=name,
        classes=found.classes,
        source=found.source,
        train=_read(place, "training", train, found.smallest, size),
        test=_read(place, "test", test, found.smallest, size),
    )


def _place(name: str, data: Path | None) -> Path:
    choices = [] if data is None else [data / place for place in _CLINICAL[name].places]
    for place in choices:
        if place.exists():
            return place
    raise MissingDataError(
        f"expected the images of {name} in "
        f"{' or '.join(map(str, choices)) or 'a data folder'}, got none; "
        "docs/experiments.md says where they come from"
    )


def _read(place: Path, section: str, count: int, smallest: int, size: int | None) -> Split:
    entries = labelled_images(place, section)
    chosen = np.unique(np.linspace(0, len(entries) - 1, min(count, len(entries))).astype(int))
    steps = [LoadImageOrArrayd("image"), EnsureChannelFirstd("image"), ScaleIntensityd("image")]
    if smallest:  # DenseNet121 and EfficientNet need 32 pixels; the edge goes on
        axes = entries[0]["image"].ndim
        steps.append(SpatialPadd("image", [smallest] * axes, mode="edge"))
    prepare = Compose(steps)
    images = torch.stack([prepare(entries[i])["image"].as_tensor() for i in chosen])
    if size is not None:
        mode = "bilinear" if images.ndim == 4 else "trilinear"
        axes = images.ndim - 2
        images = interpolate(images, [size] * axes, mode=mode, antialias=axes == 2)
    return Split(images, torch.tensor([entries[i]["label"] for i in chosen]))
