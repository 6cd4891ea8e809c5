"""Clinical tasks: images that lie in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.transforms import Compose, EnsureChannelFirstd, ScaleIntensityd, SpatialPadd
from torch.nn.functional import interpolate

from monai_ifim.data.datalist import labelled_images
from monai_ifim.data.sources.arrays import LoadImageOrArrayd
from monai_ifim.experiments.tasks.labelled import Bar, Split, Task


class MissingDataError(FileNotFoundError):
    """The images of a clinical task are not there."""


@dataclass(frozen=True)
class ClinicalSource:
    """Where the images of a clinical task lie, and what they are.

    Attributes:
        places: below the data folder; the first that is there is read.
        classes: their names.
        source: where the images come from, and their licence.
        fetch: how to get them into the folder DATA.
        smallest: pad images at their edge to at least this many pixels along every axis, which
            DenseNet121 and EfficientNet need; 0 leaves them as they are.
        bar: what a network must reach to count in a claim; None where none was stated.
        known_answer: None: the ideal observer of clinical images is unknown.
    """

    places: tuple[str, ...]
    classes: tuple[str, ...]
    source: str
    fetch: str
    smallest: int = 0
    bar: Bar | None = None
    known_answer: None = None

    def load(self, name: str, train: int, test: int, data: Path | None, size: int | None) -> Task:
        """Read at most so many images, spread evenly over those that are there.

        Args:
            name: of the task.
            train: training images.
            test: test images.
            data: folder of the clinical data sets.
            size: resize to this many pixels along every axis.

        Returns:
            The task, each image scaled to [0, 1].

        Raises:
            MissingDataError: the images are not there.
        """
        place = self._place(name, data)
        return Task(
            name=name,
            classes=self.classes,
            source=self.source,
            train=self._read(place, "training", train, size),
            test=self._read(place, "test", test, size),
            bar=self.bar,
        )

    def _place(self, name: str, data: Path | None) -> Path:
        choices = [] if data is None else [data / place for place in self.places]
        for place in choices:
            if place.exists():
                return place
        wanted = " or ".join(map(str, choices or self.places))
        where = "" if choices else " in a folder of clinical data"
        raise MissingDataError(
            f"expected the images of {name} as {wanted}{where}, got none; fetch them with "
            f"{self.fetch}, then say --data DATA; more in docs/experiments.md"
        )

    def _read(self, place: Path, section: str, count: int, size: int | None) -> Split:
        entries = labelled_images(place, section)
        chosen = np.unique(np.linspace(0, len(entries) - 1, min(count, len(entries))).astype(int))
        steps = [LoadImageOrArrayd("image"), EnsureChannelFirstd("image"), ScaleIntensityd("image")]
        if self.smallest:
            axes = entries[0]["image"].ndim
            steps.append(SpatialPadd("image", [self.smallest] * axes, mode="edge"))
        prepare = Compose(steps)
        images = torch.stack([prepare(entries[i])["image"].as_tensor() for i in chosen])
        if size is not None:
            mode = "bilinear" if images.ndim == 4 else "trilinear"
            axes = images.ndim - 2
            images = interpolate(images, [size] * axes, mode=mode, antialias=axes == 2)
        return Split(images, torch.tensor([entries[i]["label"] for i in chosen]))


_PUBLISHED = "the lowest AUC in the tables of MedMNIST v2 (Yang et al., Scientific Data 2023)"
_MEDMNIST = "MedMNIST v2, Yang et al., Scientific Data 2023, CC BY 4.0"
CLINICAL = {
    "pneumoniamnist": ClinicalSource(
        ("pneumoniamnist.npz", "pneumoniamnist/pneumoniamnist.npz"),
        ("normal", "pneumonia"),
        f"PneumoniaMNIST, paediatric chest radiographs ({_MEDMNIST}; Kermany et al., Cell 2018)",
        'medmnist.PneumoniaMNIST("train", download=True, root=DATA)',
        32,
        Bar(0.942, _PUBLISHED),
    ),
    "mednist": ClinicalSource(
        ("MedNIST", "mednist6_64"),
        ("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT"),
        "MedNIST, made available by Dr. Bradley J. Erickson (Mayo Clinic), CC BY-SA 4.0",
        'monai.apps.MedNISTDataset(DATA, "training", download=True)',
        bar=Bar(0.99, "MONAI's tutorial of MedNIST reaches an accuracy above 0.99", "accuracy"),
    ),
    "adrenalmnist3d": ClinicalSource(
        ("adrenalmnist3d.npz", "adrenalmnist3d/adrenalmnist3d.npz"),
        ("normal", "hyperplasia or mass"),
        f"AdrenalMNIST3D, masks of the gland, 28³ ({_MEDMNIST})",
        'medmnist.AdrenalMNIST3D("train", download=True, root=DATA)',
        bar=Bar(0.718, _PUBLISHED),
    ),
    "adrenalmnist3d_64": ClinicalSource(
        ("adrenalmnist3d_64.npz", "adrenalmnist3d/adrenalmnist3d_64.npz"),
        ("normal", "hyperplasia or mass"),
        f"AdrenalMNIST3D, masks of the gland, 64³ ({_MEDMNIST})",
        'medmnist.AdrenalMNIST3D("train", download=True, root=DATA, size=64)',
        bar=Bar(0.718, f"{_PUBLISHED}, there at 28³"),
    ),
    "hippocampus": ClinicalSource(
        ("hippocampus", "hippo3d_dev/hippo3d_dev.npz"),
        ("other", "anterior", "posterior"),
        "Patches of Task04 Hippocampus, Medical Segmentation Decathlon, Antonelli et al., Nature "
        "Communications 2022, CC BY-SA 4.0",
        'monai.apps.DecathlonDataset(DATA, "Task04_Hippocampus", "training", download=True) and '
        "python -m monai_ifim hippocampus-patches DATA/Task04_Hippocampus DATA/hippocampus",
    ),
}
