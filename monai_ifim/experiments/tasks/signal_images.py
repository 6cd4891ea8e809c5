"""Images of a signal task as NIfTI files, with the geometry that real scans have."""

from __future__ import annotations

import csv
import gzip
import io
import os
from pathlib import Path

import nibabel as nib
import numpy as np

from monai_ifim.data.atomic import complete_file
from monai_ifim.experiments.tasks.signal import SignalTask
from monai_ifim.experiments.tasks.signal_dataset import SignalDataset


def write_signal_images(
    task: SignalTask, directory: str | os.PathLike[str], count: int, seed: int
) -> Path:
    """Write the first ``count`` images of ``SignalDataset(task, count, seed)``.

    Every file has an affine of its own: oblique, with unequal spacing; volumes also have their
    axes stored in one of the possible orders and directions. Read with MONAI's ``LoadImaged`` and
    ``EnsureChannelFirstd``, in 3D then ``Orientationd`` to ``"RAS"``, the array is the sample
    exactly (in 2D MONAI 1.6.1 cannot undo ``Orientationd`` without warnings). A file bears its
    final name only when it is complete; ``labels.csv`` comes last.

    Args:
        task: of two or three spatial dimensions.
        directory: made if missing; files of the same names are replaced.
        count: number of images.
        seed: of the images and of their geometry.

    Returns:
        Path of ``labels.csv``: columns ``file`` and ``label``, one row an image.

    Raises:
        ValueError: a task of other than two or three dimensions, a count below 1 or a negative
            seed.
    """
    if len(task.shape) not in (2, 3):
        raise ValueError(
            f"expected a task of 2 or 3 spatial dimensions, got shape {task.shape}; NIfTI "
            "orientations exist for images and volumes only"
        )
    dataset = SignalDataset(task, count, seed)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["file", "label"])
    for index in range(count):
        sample = dataset[index]
        # A third number keeps this stream apart from the one that draws the image.
        geometry = np.random.default_rng([seed, index, 1])
        image = _stored(sample["image"][0].numpy(), geometry)
        name = f"signal_{index:04d}.nii.gz"
        # Noise does not compress: the lowest level takes a tenth of the time of the highest.
        content = gzip.compress(image.to_bytes(), compresslevel=1, mtime=0)
        with complete_file(directory / name) as partial:
            partial.write_bytes(content)
        rows.writerow([name, sample["label"]])
    with complete_file(directory / "labels.csv") as partial:
        partial.write_text(table.getvalue(), encoding="utf-8", newline="")
    return directory / "labels.csv"


def _stored(array: np.ndarray, geometry: np.random.Generator) -> nib.Nifti1Image:
    """Image of this array (*S), a volume with its axes permuted and flipped."""
    image = nib.Nifti1Image(array, _oblique_affine(geometry))
    if array.ndim == 3:
        axes, directions = geometry.permutation(3), geometry.choice([-1, 1], 3)
        image = image.as_reoriented(np.stack([axes, directions], axis=1))
    image.header.set_xyzt_units("mm")
    return image


def _oblique_affine(geometry: np.random.Generator) -> np.ndarray:
    """Affine (4, 4) within 12 degrees of RAS about every axis, spacing 0.7 to 1.6 mm."""
    affine = np.eye(4)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        # At least 3 degrees, so that no file is axis-aligned by chance.
        angle = np.deg2rad(geometry.uniform(3, 12) * geometry.choice([-1, 1]))
        turn = np.eye(4)
        turn[[first, second], [first, second]] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        affine = affine @ turn
    spacing = geometry.permutation([0.8, 1.0, 1.4]) * geometry.uniform(0.9, 1.1)
    affine[:3, :3] *= spacing
    affine[:3, 3] = geometry.uniform(-80, 80, 3)
    return affine
