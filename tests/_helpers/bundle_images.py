"""Small data in the layout that each of our bundles reads, made on the spot."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from monai_ifim.experiments import signal_task, write_signal_images

ROOT = Path(__file__).parents[2]
BUNDLES = sorted(p.parent.parent for p in (ROOT / "bundles").glob("*/configs/metadata.json"))
MEDNIST = ["AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT"]
PARTS = ["other", "anterior", "posterior"]
OBLIQUE = np.array([[0.9, -0.2, 0, 4], [0.3, 1.1, 0, -7], [0, 0.1, 1.6, 9], [0, 0, 0, 1]])


def make_images(bundle: str, directory: Path) -> Path:
    """Data for bundle ``bundle``, in a new folder."""
    random = np.random.default_rng(0)
    if bundle.startswith("ifim_signal"):
        write_signal_images(signal_task(bundle[-2:]), directory, 5, 0)
    elif bundle == "ifim_mednist_2d":
        for name in MEDNIST:
            (directory / name).mkdir(parents=True)
            for i in range(15 if name == "Hand" else 10):  # an odd number of test images
                image = Image.fromarray(random.integers(0, 256, (64, 64), dtype=np.uint8))
                image.save(directory / name / f"{i:06d}.jpeg")
    else:
        (directory / "nifti").mkdir(parents=True)
        rows = []
        for subject, split in enumerate(["train", "train", "val", "test"]):
            for label, name in enumerate(PARTS):
                path = f"nifti/hippo{subject:03d}_{name}.nii.gz"
                volume = random.integers(0, 200, (20, 20, 20)).astype(np.float32)
                nib.save(nib.Nifti1Image(volume, OBLIQUE), directory / path)
                rows.append([path, label, name, subject, split])
        with (directory / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["path", "label", "class", "subject", "split"], *rows])
    return directory
