"""How a volume is cut and turned so that it appears as a radiologist expects it.

Volumes are turned to the nearest axes of the patient by exchanging and flipping axes; nothing is
resampled. Axial and coronal planes have the patient's right on the left-hand side, the sagittal
plane has the front there, and the head or the front is up.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np

NAMES = ("sagittal", "coronal", "axial")  # by the axis that they are perpendicular to
UNPLACED = ("across axis 1", "across axis 2", "across axis 3")
_POSITIVE, _NEGATIVE = "RAS", "LPI"
# A direction is named by every axis with which its cosine is at least this: 0.3 is 17 degrees off.
_COSINE = 0.3
_PICTURE = np.diag([-1.0, -1.0, 1.0, 1.0])  # columns to the right, rows downwards


@dataclass(frozen=True)
class Plane:
    """One way of cutting a turned volume.

    Attributes:
        name: axial, coronal or sagittal; across which axis where the place in a patient is not
            known; empty for a picture or a single slice.
        normal: the axis that it is perpendicular to, of the turned volume.
        size: width and height in the unit of ``Turned``.
        letters: of the left, right, upper and lower edge; empty where they are not known.
        slices: how many there are.
    """

    name: str
    normal: int
    size: tuple[float, float]
    letters: tuple[str, str, str, str]
    slices: int

    def cut(self, volume: np.ndarray, index: int) -> np.ndarray:
        """One slice as it is shown.

        Args:
            volume: (..., X, Y, Z), turned.
            index: of the slice.

        Returns:
            (..., rows, columns), the first row at the top.
        """
        kept = volume.take(index, axis=self.normal - 3)
        return np.flip(np.swapaxes(kept, -1, -2), (-1, -2))


class Turned:
    """How the volumes of one grid are turned.

    Args:
        affine: (4, 4), indices to millimetres; None, or one that cannot be inverted, where it is
            not known: volumes are shown as if their axes were to the right, front and head then,
            but nothing says so.
        shape: (X, Y, Z).
        picture: whether the axes are columns and rows of a picture; ``affine`` is ignored then.

    Attributes:
        affine: of the turned volumes.
        unit: of the planes' sizes, mm, or px for a picture and without an affine.
        planes: the three planes, axial first, or the plane of a single slice.
    """

    def __init__(
        self, affine: np.ndarray | None, shape: tuple[int, ...], picture: bool = False
    ) -> None:
        known = not picture and is_usable(affine)
        self.unit = "mm" if known else "px"
        self._named = ("", "", "") if picture else NAMES if known else UNPLACED
        affine = grid_affine(affine, picture)
        self._ornt = nib.orientations.io_orientation(affine)
        self.affine = affine @ nib.orientations.inv_ornt_aff(self._ornt, shape)
        turned = [0, 0, 0]
        for axis, (to, _) in enumerate(self._ornt):
            turned[int(to)] = shape[axis]
        self.planes = [self._plane(normal, turned) for normal in _normals(turned)]

    def __call__(self, volume: np.ndarray) -> np.ndarray:
        """Turn a volume.

        Args:
            volume: (C, X, Y, Z).

        Returns:
            (C, X', Y', Z'), a view of it.
        """
        last = np.moveaxis(volume, 0, -1)
        return np.moveaxis(nib.orientations.apply_orientation(last, self._ornt), -1, 0)

    def _plane(self, normal: int, shape: list[int]) -> Plane:
        across, up = (axis for axis in range(3) if axis != normal)
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        size = (shape[across] * float(spacing[across]), shape[up] * float(spacing[up]))
        if self._named is not NAMES:
            name = self._named[normal] if shape[normal] > 1 else ""
            return Plane(name, normal, size, ("", "", "", ""), shape[normal])
        right, top = (self.affine[:3, axis] / spacing[axis] for axis in (across, up))
        edges = (letters(right), letters(-right), letters(top), letters(-top))
        return Plane(NAMES[normal], normal, size, edges, shape[normal])


def letters(direction: np.ndarray) -> str:
    """Name of a direction in the patient, the nearest axis first.

    Args:
        direction: (3,), a unit vector to the right, front and head.

    Returns:
        One to three of L, R, A, P, S and I.

    >>> letters(np.array([0.0, -1.0, 0.0])), letters(np.array([0.6, 0.0, -0.8]))
    ('P', 'IR')
    """
    order = sorted(range(3), key=lambda axis: -abs(direction[axis]))
    named = [axis for axis in order if abs(direction[axis]) >= _COSINE]
    return "".join((_POSITIVE if direction[axis] > 0 else _NEGATIVE)[axis] for axis in named)


def _normals(shape: list[int]) -> list[int]:
    """Normals of the planes to show: of a single slice its own, else all three, axial first."""
    return [shape.index(1)] if 1 in shape else [2, 1, 0]


def is_usable(affine: np.ndarray | None) -> bool:
    """Whether an affine says how a volume lies: it is there, finite and can be inverted."""
    if affine is None:
        return False
    affine = np.asarray(affine, dtype=np.float64)
    return bool(np.isfinite(affine).all() and np.linalg.matrix_rank(affine[:3, :3]) == 3)


def grid_affine(affine: np.ndarray | None, picture: bool) -> np.ndarray:
    """The affine by which a volume is shown.

    Args:
        affine: (4, 4), or None.
        picture: whether the axes are columns and rows of a picture.

    Returns:
        (4, 4), one that can be inverted: of a picture so that rows go downwards, and unit voxels
        along the axes in the place of none.
    """
    if picture:
        return _PICTURE
    return np.asarray(affine, dtype=np.float64) if is_usable(affine) else np.eye(4)
