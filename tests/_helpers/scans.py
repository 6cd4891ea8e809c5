"""Scans on disk, and the dataset that reads them."""

from pathlib import Path

import nibabel as nib
import numpy as np
from monai.data import Dataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, NormalizeIntensityd

# Pairwise distinct, and distinct from every batch size, channel and class count of the tests.
SHAPES = {2: (13, 11), 3: (13, 11, 9)}


def oblique(number=0):
    """Affine with unequal spacing, two rotations and an offset that no two scans share."""
    a, b = 0.3 + 0.05 * number, -0.2
    about_z = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    affine = np.eye(4)
    affine[:3, :3] = np.array(about_z) @ np.array(about_x) @ np.diag([0.8, 1.3, 2.1])
    affine[:3, 3] = [-31.5 + number, 12.25, 7.75 - number]
    return affine


def write_scan(path, shape, number=0):
    """A NIfTI of smooth waves on noise; what it holds depends on ``number``."""
    random = np.random.default_rng(number)
    grid = np.indices(shape).astype(np.float32)
    waves = sum(np.sin(0.3 * (axis + 1) * g + number) for axis, g in enumerate(grid))
    values = (waves + 0.3 * random.standard_normal(shape)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, oblique(number)), path)
    return str(path)


def write_scans(folder, dims=3, count=5):
    """Paths of ``count`` different scans."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [write_scan(folder / f"scan{i}.nii.gz", SHAPES[dims], i) for i in range(count)]


def unreadable(path):
    """A file with the right name and the wrong bytes."""
    Path(path).write_bytes(b"not an image")
    return str(path)


def preprocessing():
    """File to (C, *S)."""
    return Compose(
        [
            LoadImaged("image", image_only=True),
            EnsureChannelFirstd("image"),
            NormalizeIntensityd("image"),
        ]
    )


def dataset(files, transform=None):
    """Dictionaries with image and label, as a bundle's data list has them."""
    items = [{"image": file, "label": i % 3} for i, file in enumerate(files)]
    return Dataset(items, preprocessing() if transform is None else transform)
