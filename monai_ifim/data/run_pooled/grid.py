"""The grid that pooled images share, if they do, and the eigenvectors on it as NIfTI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_ifim.core import PooledEigenspace
from monai_ifim.data.nifti import write_nifti

GRID = "grid"  # affine of the images as JSON; where they share none, nothing
_DIGITS = 4  # of millimetres: rounding of a preprocessing makes no other grid


def affine_texts(values: Any, count: int) -> list[str]:
    """Where the voxels of each image of a batch are.

    Args:
        values: of the batch, with the images' metadata.
        count: of images.

    Returns:
        One text an image, the same for the same grid; empty where it is not known.
    """
    if not isinstance(values, MetaTensor):
        return [""] * count
    affine = torch.as_tensor(values.affine).as_subclass(Tensor).detach().cpu().double()
    each = affine if affine.ndim == 3 and len(affine) == count else affine.expand(count, -1, -1)
    return [json.dumps((one.round(decimals=_DIGITS) + 0.0).tolist()) for one in each]


def write_eigenvectors(space: PooledEigenspace, path: Path) -> str | None:
    """Write the eigenvectors as one NIfTI file, beside the pooled eigenspace.

    Its fourth axis has the eigenvectors, the leading one first; with several channels those of one
    eigenvector follow each other.

    Args:
        space: whose ``about`` says which grid the images share.
        path: of the file.

    Returns:
        None; or why there is no file.

    Raises:
        OSError: it cannot be written.
    """
    vectors = space.eigenvectors.detach().cpu()
    if vectors.ndim not in (4, 5):
        return f"images of {vectors.ndim - 2} axes are neither slices nor volumes"
    if not space.about.get(GRID):
        return "the preprocessed images share no grid: their affines differ, or they have none"
    affine = np.asarray(json.loads(space.about[GRID]), dtype=np.float64)
    if affine.shape != (4, 4):
        return f"their affine has the shape {affine.shape}, and not (4, 4)"
    values = vectors.flatten(0, 1).float().numpy()
    values = values.reshape(*values.shape, *[1] * (4 - values.ndim))
    image = nib.Nifti1Image(np.moveaxis(values, 0, -1), affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"iFIM pooled eigenvectors; research use only"
    write_nifti(image, path)
    return None
