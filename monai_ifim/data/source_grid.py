"""Where the voxels of a source file lie, and whether a volume lies on them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data.utils import to_affine_nd
from torch import Tensor

_READ_BY_NIBABEL = (".nii", ".nii.gz", ".hdr", ".img", ".mgz", ".mgh")
_OF_A_VOXEL = 0.01  # by which two grids may differ; MONAI's inverses differ by 1e-6


@dataclass(frozen=True, eq=False)
class SourceGrid:
    """Shape and affine of a source file.

    Attributes:
        file: its name.
        shape: as nibabel reads it, channels or times last; in other formats the spatial shape.
        affine: (4, 4) from voxels to the file's unit.
        loaded: (4, 4) as the pipeline's reader had it. MONAI changes the affine of a NIfTI whose
            sform and voxel sizes disagree, but not the order of its voxels.
        canonical: the reader turned the voxels to the closest canonical order.
        header: of a NIfTI.
    """

    file: str
    shape: tuple[int, ...]
    affine: np.ndarray
    loaded: np.ndarray
    canonical: bool = False
    header: nib.Nifti1Header | None = None

    @property
    def spatial(self) -> tuple[int, ...]:
        """At most three axes."""
        return self.shape[:3]

    def place(self, volume: Tensor, affine: Any) -> Tensor:
        """A volume with the axes of the file.

        Single axes that a transform dropped are restored, and a volume on the same voxels in
        another order is turned; nothing is interpolated.

        Args:
            volume: (C, *S).
            affine: of the volume.

        Returns:
            (C, *T), T being ``spatial``; (C, H, W) where the channels are the file's last axis.

        Raises:
            ValueError: the volume is not on the file's grid, or the file has none.
        """
        check_affine(self.affine, len(self.spatial), self.file)
        size, axes = tuple(volume.shape[1:]), len(self.spatial)
        if size == self.spatial and self._known(affine):
            return volume
        if len(size) != axes and not self.canonical:
            if _not_single(size) == _not_single(self.spatial):
                return volume.reshape(len(volume), *self.spatial)
            if _not_single((*size, len(volume))) == _not_single(self.shape):
                return volume
        if len(size) == axes == 3:
            for target in (self.affine, self.loaded):
                turned = _turned(volume, np.asarray(to_affine_nd(3, affine)), target)
                if turned is not None and tuple(turned.shape[1:]) == self.spatial:
                    return turned
        name = Path(self.file).name
        if size != self.spatial:
            raise ValueError(
                f"expected the shape {self.spatial} of {name}, got {size} after undoing the "
                "preprocessing; a transform without an inverse took a part of it or changed its "
                "size: use one with an inverse"
            )
        raise ValueError(
            f"expected the affine {_short(self.affine)} of {name}, got "
            f"{_short(to_affine_nd(3, affine))}, {self._off(affine):.2g} voxels beside it, after "
            "undoing the preprocessing; a transform without an inverse moved it: use one with an "
            "inverse"
        )

    def array(self, volume: Tensor) -> np.ndarray:
        """Values of a placed volume in the file's order of axes.

        Args:
            volume: (C, *T) of ``place``.

        Returns:
            The file's shape where the number of values is the file's; else T, with the channels
            as the fourth axis if there are several.
        """
        values = np.moveaxis(volume.as_subclass(Tensor).cpu().numpy(), 0, -1)
        if _not_single(values.shape) == _not_single(self.shape):
            return values.reshape(self.shape)
        if values.shape[-1] == 1:
            return values[..., 0]
        return values if values.ndim > 3 else values[:, :, None]

    def _known(self, affine: Any) -> bool:
        # With all three rows: the two first ones of a sagittal or coronal slice are singular.
        wanted = (self.affine,) if self.canonical else (self.affine, self.loaded)
        own = to_affine_nd(3, np.asarray(affine, dtype=np.float64))
        return any(same_grid(own, each, self.spatial) for each in wanted)

    def _off(self, affine: Any) -> float:
        own = to_affine_nd(3, np.asarray(affine, dtype=np.float64))
        return _voxels_apart(own, self.affine, self.spatial)


def source_grid(file: str | os.PathLike[str], meta: Mapping[Any, Any]) -> SourceGrid | None:
    """The grid of an image's file.

    Args:
        file: its path; read where nibabel can, of which the header is enough.
        meta: of the image as MONAI loaded it, for other formats and for files that are gone.

    Returns:
        The grid; None where there is nothing to know, as of an array with a name.
    """
    loaded = meta.get("original_affine")
    if loaded is not None:
        loaded = np.asarray(to_affine_nd(3, _numpy(loaded)))
    if str(file).lower().endswith(_READ_BY_NIBABEL) and Path(file).is_file():
        try:
            image = nib.load(file)
        except Exception:  # of whatever kind nibabel raises: another reader took it
            image = None
        if image is not None and image.affine is not None:
            affine = np.asarray(image.affine, dtype=np.float64)
            nifti = isinstance(image, nib.Nifti1Pair)
            return SourceGrid(
                str(file),
                tuple(map(int, image.shape)),
                affine,
                affine if loaded is None else loaded,
                bool(meta.get("as_closest_canonical", False)),
                nib.Nifti1Header.from_header(image.header) if nifti else None,
            )
    shape = meta.get("spatial_shape")
    if shape is None:
        return None
    if loaded is None:  # of a picture, which is at the origin with pixels of 1
        loaded = np.eye(4)
    return SourceGrid(str(file), tuple(map(int, _numpy(shape).ravel())), loaded, loaded)


def check_affine(affine: Any, axes: int, file: str) -> None:
    """Refuse an affine that places nothing.

    Args:
        affine: (4, 4).
        axes: how many of the three axes there are.
        file: for the message.

    Raises:
        ValueError: NaN or infinity, or an affine that cannot be inverted.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    name = Path(file).name
    if not np.isfinite(matrix).all():
        raise ValueError(
            f"expected a finite affine, got NaN or infinity in that of {name}; repair its header"
        )
    columns = matrix[:3, : min(axes, 3)]
    sizes = np.linalg.norm(columns, axis=0)
    if (sizes == 0).any() or np.linalg.matrix_rank(columns / sizes, tol=1e-6) < columns.shape[1]:
        raise ValueError(
            f"expected an affine that can be inverted, got the singular {_short(matrix)} in "
            f"{name}, which gives its voxels no place; repair its header"
        )


def same_grid(one: Any, other: Any, size: tuple[int, ...]) -> bool:
    """Whether two affines put every voxel in the same place.

    Args:
        one: affine, (4, 4).
        other: affine, (4, 4).
        size: of the grid, one to three axes; the directions of further ones are not compared.

    Returns:
        Yes where no corner moves by a hundredth of the smallest voxel; no where one is not finite.
    """
    return _voxels_apart(one, other, size) <= _OF_A_VOXEL


def _voxels_apart(one: Any, other: Any, size: tuple[int, ...]) -> float:
    """By how many of the smallest voxels the corners of two grids differ at the most."""
    one, other = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    axes = len(size)
    used = [*range(axes), 3]
    corners = np.array(np.meshgrid(*[(0, max(n - 1, 1)) for n in size])).reshape(axes, -1)
    moved = (one - other)[:3, used] @ np.vstack([corners, np.ones(corners.shape[1])])
    voxel = np.linalg.norm(other[:3, :axes], axis=0)
    return float(np.abs(moved).max() / max(voxel.min(), np.finfo(np.float64).tiny))


def _turned(volume: Tensor, affine: np.ndarray, target: np.ndarray) -> Tensor | None:
    """The volume in the target's order of voxels, where it is on the same voxels."""
    try:
        steps = np.linalg.solve(target, affine)[:3, :3]
    except np.linalg.LinAlgError:
        return None
    whole = np.round(steps)
    permutation = (np.abs(whole).sum(0) == 1).all() and (np.abs(whole).sum(1) == 1).all()
    if not permutation or not np.allclose(steps, whole, atol=1e-3):
        return None
    to = np.abs(whole).argmax(axis=0)  # the target's axis of each of the volume's
    signs = whole[to, range(3)]
    size = tuple(volume.shape[1:])
    back = affine @ nib.orientations.inv_ornt_aff(np.column_stack([to, signs]), size)
    turned = volume.flip([axis + 1 for axis in range(3) if signs[axis] < 0])
    turned = turned.permute(0, *(1 + np.argsort(to)).tolist())
    return turned if same_grid(back, target, tuple(turned.shape[1:])) else None


def _not_single(size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in size if n != 1)


def _numpy(value: Any) -> np.ndarray:
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _short(affine: Any) -> list[list[float]]:
    rows: list[list[float]] = np.round(np.asarray(affine, dtype=np.float64)[:3], 3).tolist()
    return rows
