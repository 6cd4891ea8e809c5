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
            known; empty for a picture.
        normal: the axis that it is perpendicular to, of the turned volume.
        size: width and height in millimetres, or pixels where they are not known.
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
        affine: (4, 4), indices to millimetres; None where it is not known.
        shape: (X, Y, Z).
        picture: whether the axes are columns and rows of a picture; ``affine`` is ignored then.

    Attributes:
        affine: of the turned volumes.
        planes: the three planes, axial first, or the plane of a single slice.
    """

    def __init__(
        self, affine: np.ndarray | None, shape: tuple[int, ...], picture: bool = False
    ) -> None:
        self._named = ("", "", "") if picture else UNPLACED if affine is None else NAMES
        affine = _PICTURE if picture else np.eye(4) if affine is None else _checked(affine)
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


def _checked(affine: np.ndarray) -> np.ndarray:
    """An affine that can be inverted; millimetre voxels along the axes in the place of others."""
    affine = np.asarray(affine, dtype=np.float64)
    usable = np.isfinite(affine).all() and np.linalg.matrix_rank(affine[:3, :3]) == 3
    return affine if usable else np.eye(4)
