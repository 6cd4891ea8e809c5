"""Preprocessed images with volumes as the components have them, and their files."""

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
)
from PIL import Image

from _helpers.scans import write_scan

KEYS = ("ifim_high", "ifim_orth", "ifim_sensitivity")


def loading(*steps):
    return Compose([LoadImaged("image"), EnsureChannelFirstd("image"), *steps])


def with_volumes(transform, file, keys=KEYS, sensitivity=1.0):
    """The preprocessed image with volumes of the shape and dtypes that the components have."""
    item = transform({"image": str(file)})
    image = item["image"]
    random = torch.Generator().manual_seed(5)
    for key in keys:
        wide = key.endswith("sensitivity")
        values = torch.randn(image.shape, generator=random, dtype=torch.float64)
        values = values.square() * sensitivity if wide else values.float()
        item[key] = MetaTensor(values).copy_meta_from(image)
    return item


def scan(folder, shape, number=1):
    return write_scan(folder / "scan.nii.gz", shape, number)


def picture(folder):
    values = np.random.default_rng(0).integers(0, 256, (11, 13, 3), dtype=np.uint8)
    Image.fromarray(values).save(folder / "scan.png")
    return folder / "scan.png"


def channels(folder):
    """Two channels, the fourth axis of a NIfTI file."""
    return write_scan(folder / "scan.nii.gz", (13, 11, 9, 2), 1)
