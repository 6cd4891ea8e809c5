"""The signal tasks by name: Gaussian blobs in a lumpy or Gaussian background of one spectrum."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from monai_ifim.experiments.tasks.signal import SignalTask

# shape, centres of the signals, their standard deviation in voxels, detectability
_TASKS: dict[str, tuple[tuple[int, ...], list[tuple[int, ...]], float, float]] = {
    "2d": ((64, 64), [(27, 38)], 2.5, 2.0),
    "2d_small": ((32, 32), [(13, 19)], 2.0, 3.0),
    "2d_four": ((32, 32), [(9, 11), (13, 23), (23, 15)], 2.0, 3.0),
    "3d": ((32, 32, 32), [(10, 13, 19), (21, 17, 12)], 2.0, 2.5),
}

_LUMP_WIDTH = 3.0  # standard deviation of the background's lumps, in voxels
WHITE_SHARE = 0.2  # share of white noise in the background's variance


def signal_task(name: str) -> SignalTask:
    """A task of the signal bundles (``"2d"``, ``"3d"``) or of the experiments.

    ``"2d"``: 64 x 64, one signal, two classes, detectability d' = 2. ``"2d_small"``: the same on
    32 x 32, d' = 3. ``"2d_four"``: 32 x 32, three signals at different places, four classes,
    d' = 3. ``"3d"``: 32 x 32 x 32, two signals, three classes, d' = 2.5. Gaussian blobs in a
    correlated Gaussian background of unit variance.

    Args:
        name: one of these.

    Returns:
        The task, the same at every call.

    Raises:
        ValueError: unknown name.

    >>> task = signal_task("3d")
    >>> task.shape, task.classes, [round(float(d), 6) for d in task.detectability]
    ((32, 32, 32), 3, [2.5, 2.5])
    """
    if name not in _TASKS:
        raise ValueError(f"expected a task in {sorted(_TASKS)}, got {name!r}; choose one of them")
    shape, centres, width, detectability = _TASKS[name]
    return _blob_task(shape, centres, width, detectability)


def lump_spectrum(shape: Sequence[int]) -> Tensor:
    """Power spectrum of the backgrounds: lumps and white noise, of unit variance.

    Args:
        shape: of the images, *S.

    Returns:
        (*S) in float64, in the order of ``torch.fft.fftn``.
    """
    frequencies = [torch.fft.fftfreq(size, dtype=torch.float64) for size in shape]
    # lumps exp(-r²/2a²) scattered at random have the spectrum exp(-(2 pi f a)²)
    lumps = torch.exp(-((2 * math.pi * _LUMP_WIDTH) ** 2) * _squared_radius(frequencies))
    return (1 - WHITE_SHARE) * lumps / lumps.mean() + WHITE_SHARE


def _blob_task(
    shape: tuple[int, ...], centres: list[tuple[int, ...]], width: float, detectability: float
) -> SignalTask:
    """Gaussian blobs (one per centre) of equal detectability in a correlated background."""
    power = lump_spectrum(shape)
    blobs = []
    for centre in centres:
        offsets = [torch.arange(n) - place for n, place in zip(shape, centre, strict=True)]
        blobs.append(torch.exp(-_squared_radius(offsets) / (2 * width**2)))
    unscaled = SignalTask(torch.stack(blobs), power)
    scale = detectability / unscaled.detectability
    return SignalTask(unscaled.signals * scale.view(-1, *[1] * len(shape)), power)


def _squared_radius(axes: list[Tensor]) -> Tensor:
    """Squared distance (*S) in float64 from the origin, from the coordinates on each axis."""
    return torch.stack(torch.meshgrid(axes, indexing="ij")).double().square().sum(dim=0)
