"""Patches of the hippocampus for a three-class task, cut from expert segmentations.

The classes are anatomical: 1 holds the anterior and 2 the posterior hippocampus near its centre,
0 neither. The source is Task04 of the Medical Segmentation Decathlon (Antonelli et al., Nature
Communications 2022), as ``monai.apps.DecathlonDataset(task="Task04_Hippocampus",
download=True)`` fetches it.
"""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import from_matvec
from numpy.typing import NDArray

CLASSES = ("other", "anterior", "posterior")

_SIZE = 20
_JITTER = 3  # voxels, each way and axis
_INNER = slice(5, 15)  # where a patch of class 0 has no label
_DRAWS = 1000


class _Case(NamedTuple):
    image: nib.Nifti1Image
    voxels: NDArray[np.generic]
    labels: NDArray[np.integer]


def write_hippocampus_patches(
    task_directory: str | os.PathLike[str], output_directory: str | os.PathLike[str], seed: int = 0
) -> Path:
    """Cut one patch of 20 x 20 x 20 voxels per subject and class.

    A patch of class 1 or 2 is centred on the centroid of that label, moved by up to 3 voxels
    along each axis; one of class 0 lies anywhere with no label in its inner 10 x 10 x 10. A class
    for which a case has no place (too small, or label missing) is left out. Voxel type and
    intensities are the file's own, and the affine is moved to the patch. Subjects are split
    8 : 2 : 3 into train, val and test.

    Patches of the same rule with another random stream than those that the weights of
    ``ifim_hippocampus_3d`` were trained on: expect figures near those in its README, not equal,
    and do not test those weights on these patches, since the subjects are split otherwise.

    Args:
        task_directory: with imagesTr/ and labelsTr/, one ``.nii.gz`` per case in each.
        output_directory: receives nifti/ and labels.csv (path, label, class, subject, split).
        seed: of the split, the jitter and the places of class 0.

    Returns:
        Path of labels.csv.

    Raises:
        FileNotFoundError: no cases, or a case without a segmentation.
    """
    source, target = Path(task_directory), Path(output_directory)
    files = sorted((source / "imagesTr").glob("[!.]*.nii.gz"))
    if not files:
        raise FileNotFoundError(
            f"expected imagesTr/*.nii.gz in {str(source)!r}, got none; pass the folder "
            "Task04_Hippocampus that DecathlonDataset has filled"
        )
    (target / "nifti").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    rows: list[list[str | int]] = []
    for rank, index in enumerate(random.permutation(len(files))):
        file = files[index]
        case = _read(file, source / "labelsTr" / file.name)
        subject = re.sub(r"\D", "", file.name.split(".")[0]) or file.name.split(".")[0]
        split = _split((rank + 0.5) / len(files))
        for label, name in enumerate(CLASSES):
            corner = _corner(case.labels, label, random)
            if corner is not None:
                path = f"nifti/hippo{subject}_{name}.nii.gz"
                nib.save(_patch(case, corner), target / path)
                rows.append([path, label, name, subject, split])
    table = target / "labels.csv"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows([["path", "label", "class", "subject", "split"], *rows])
    return table


def _read(image_file: Path, label_file: Path) -> _Case:
    if not label_file.is_file():
        raise FileNotFoundError(
            f"expected a segmentation {str(label_file)!r}, got none; the download is incomplete"
        )
    image = nib.load(image_file)
    labels = np.asarray(nib.load(label_file).dataobj)
    return _Case(image, np.asarray(image.dataobj), np.rint(labels).astype(int))


def _split(position: float) -> str:
    """8 : 2 : 3 along positions from 0 to 1."""
    return "train" if position < 8 / 13 else "val" if position < 10 / 13 else "test"


def _corner(
    labels: NDArray[np.integer], label: int, random: np.random.Generator
) -> NDArray[np.integer] | None:
    """First voxel of a patch of this class, or None where there is no place for one."""
    room = np.array(labels.shape) - _SIZE
    if (room < 0).any():
        return None
    if label == 0:
        for _ in range(_DRAWS):
            corner = random.integers(0, room + 1)
            if not _box(labels, corner)[_INNER, _INNER, _INNER].any():
                return corner
        return None
    voxels = np.argwhere(labels == label)
    if not len(voxels):
        return None
    centre = np.rint(voxels.mean(axis=0)).astype(int)
    jitter = random.integers(-_JITTER, _JITTER + 1, size=3)
    return np.clip(centre + jitter - _SIZE // 2, 0, room)


def _box(volume: NDArray[np.generic], corner: NDArray[np.integer]) -> NDArray[np.generic]:
    return volume[tuple(slice(first, first + _SIZE) for first in corner)]


def _patch(case: _Case, corner: NDArray[np.integer]) -> nib.Nifti1Image:
    affine = case.image.affine
    moved = from_matvec(affine[:3, :3], affine[:3, :3] @ corner + affine[:3, 3])
    patch = nib.Nifti1Image(_box(case.voxels, corner), moved)
    patch.set_data_dtype(case.voxels.dtype)
    patch.header.set_xyzt_units(*case.image.header.get_xyzt_units())
    return patch
