"""Where the frames of a series lie, and the frames of a volume that lies on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
_OF_A_VOXEL = 0.01  # by which two grids may differ
_ADVICE = (
    "it is on another grid than the series (resampled, cropped, or of another series): write the "
    "components on the scan's own grid, as monai-ifim run does, and name their own series"
)


@dataclass(frozen=True, eq=False)
class Planes:
    """Parallel frames of one size, in the order of their numbers.

    Attributes:
        positions: (N, 3), the first pixel's centre of each frame, in millimetres, LPS.
        orientation: (6,), directions of a row and of a column.
        spacing: between rows, and between columns.
        rows: of a frame.
        columns: of a frame.
        thickness: of a slice, in millimetres.
    """

    positions: np.ndarray
    orientation: np.ndarray
    spacing: tuple[float, float]
    rows: int
    columns: int
    thickness: float

    def __len__(self) -> int:
        """How many frames."""
        return len(self.positions)

    @property
    def normal(self) -> np.ndarray:
        """(3,), direction of a row × direction of a column."""
        return np.cross(self.orientation[:3], self.orientation[3:])

    @property
    def distances(self) -> np.ndarray:
        """(N,), places along the normal."""
        return np.asarray(self.positions @ self.normal)

    @property
    def steps(self) -> np.ndarray:
        """(2, 3), from a pixel to the next one in its row, and in its column."""
        return np.stack(
            [self.orientation[:3] * self.spacing[1], self.orientation[3:] * self.spacing[0]]
        )


def frames_on(volume: np.ndarray, affine: np.ndarray, planes: Planes) -> np.ndarray:
    """The frames of a volume, placed by world coordinates.

    Args:
        volume: (X, Y, Z).
        affine: (4, 4), voxels to millimetres, RAS.
        planes: of the series, N frames.

    Returns:
        (N, rows, columns), each voxel of the volume once.

    Raises:
        ValueError: the volume is not on the series' own grid.
    """
    size = (planes.columns, planes.rows, len(planes))
    if sorted(volume.shape) != sorted(size):
        raise ValueError(
            f"expected {size} columns, rows and slices, as the series has, got a volume of "
            f"{volume.shape}; {_ADVICE}"
        )
    steps, origins = _in_voxels(affine, planes)
    ends = steps * [[planes.columns - 1], [planes.rows - 1]]
    corners = origins[:, None] + np.stack([np.zeros(3), ends[0], ends[1], ends.sum(0)])
    off = float(np.abs(corners - np.rint(corners)).max())
    row, column = np.rint(steps).astype(int)
    apart = np.abs(row).sum() == np.abs(column).sum() == 1 and np.abs(row @ column) == 0
    if not np.isfinite(off) or off > _OF_A_VOXEL or not apart:
        raise ValueError(
            "expected a volume whose voxels lie on those of the series, got one with voxels "
            f"{_beside(off)}; {_ADVICE}"
        )
    return _cut(volume, np.rint(corners).astype(int), row, column)


def _in_voxels(affine: np.ndarray, planes: Planes) -> tuple[np.ndarray, np.ndarray]:
    """Steps (2, 3) and first pixels (N, 3) as indices of the volume."""
    try:
        inverse = np.linalg.inv(np.asarray(affine, dtype=np.float64))
    except np.linalg.LinAlgError:
        raise ValueError(
            "expected an affine that can be inverted, got a singular one; write the volume again"
        ) from None
    origins = (planes.positions * _LPS_TO_RAS) @ inverse[:3, :3].T + inverse[:3, 3]
    return (planes.steps * _LPS_TO_RAS) @ inverse[:3, :3].T, origins


def _beside(off: float) -> str:
    return f"{off:.2g} voxels beside them" if off > _OF_A_VOXEL else "of another size or direction"


def _cut(
    volume: np.ndarray, corners: np.ndarray, row: np.ndarray, column: np.ndarray
) -> np.ndarray:
    """Frames (N, rows, columns) at corners (N, 4, 3), by exchanging and flipping axes."""
    inside = (corners >= 0).all() and (corners < np.array(volume.shape)).all()
    along_row, along_column = int(np.abs(row).argmax()), int(np.abs(column).argmax())
    normal = 3 - along_row - along_column
    indices = corners[:, 0, normal]
    if not inside or sorted(indices) != list(range(volume.shape[normal])):
        raise ValueError(
            "expected a volume that covers every slice of the series once, got one with slices "
            f"elsewhere; {_ADVICE}"
        )
    turned = volume.transpose(normal, along_column, along_row)
    if column.sum() < 0:
        turned = turned[:, ::-1]
    if row.sum() < 0:
        turned = turned[:, :, ::-1]
    return np.ascontiguousarray(turned[indices])
