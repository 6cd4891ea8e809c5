"""Which channel and which slices of a case are shown."""

from __future__ import annotations

from typing import Literal

import numpy as np

from monai_ifim.report.cases.case import Case

Slices = Literal["sensitivity", "middle"]


def weights(case: Case) -> np.ndarray:
    """How much a voxel matters for the choice.

    Args:
        case: with sensitivity, or without.

    Returns:
        (C, X, Y, Z): diag F, or the square of the high-sensitivity component without it.
    """
    if case.sensitivity is not None:
        return np.clip(case.sensitivity, 0, None)
    return np.square(case.high, dtype=np.float64)


def chosen_channel(case: Case, channel: int | None = None) -> int:
    """The channel that all panels show.

    Args:
        case: of C channels.
        channel: its number from 0; by default the one that holds most of the sensitivity.

    Returns:
        Its number.

    Raises:
        ValueError: no such channel.
    """
    count = len(case.high)
    if channel is None:
        return int(weights(case).sum(axis=(1, 2, 3)).argmax())
    if not 0 <= channel < count:
        raise ValueError(
            f"expected a channel from 0 to {count - 1}, got {channel}; leave it out for the most "
            "sensitive one"
        )
    return channel


def chosen_slices(volume: np.ndarray, slices: Slices) -> tuple[int, int, int]:
    """The slices to show.

    Args:
        volume: (X, Y, Z), weight of each voxel.
        slices: ``sensitivity`` for the slice of each axis with the largest sum, ``middle`` for the
            middle one.

    Returns:
        One index for each axis.

    Raises:
        ValueError: another name.
    """
    middle = [n // 2 for n in volume.shape]
    if slices == "middle":
        return middle[0], middle[1], middle[2]
    if slices != "sensitivity":
        raise ValueError(f"expected slices 'sensitivity' or 'middle', got {slices!r}")
    if not np.any(volume > 0):
        return middle[0], middle[1], middle[2]
    scaled = volume / volume.max()  # sums of 1e-320 keep their digits
    sums = [scaled.sum(axis=tuple(b for b in range(3) if b != axis)) for axis in range(3)]
    best = [int(each.argmax()) for each in sums]
    return best[0], best[1], best[2]
