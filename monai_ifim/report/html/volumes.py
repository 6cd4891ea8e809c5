"""Volumes of a case as a browser shows them: NIfTI files, small enough to lie in a page."""

from __future__ import annotations

import base64
import gzip
import math
from typing import Any

import nibabel as nib
import numpy as np

from monai_ifim.report.cases.case import Case
from monai_ifim.report.cases.choice import chosen_channel, chosen_slices, weights
from monai_ifim.report.cases.planes import Turned, grid_affine

NAMES = ("image", "high", "orth", "sensitivity")
# Values of one volume, all channels, beyond which it is averaged over blocks of voxels.
BUDGET = 2**19
_RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
_PERCENTILE = 99.5
_GREYS = 256  # steps of a channel that a screen shows


class BrowserVolumes:
    """The volumes of a case for the viewer.

    Sensitivity is its square root, divided by its largest value; so is the high-sensitivity
    component, so that no value is too small for the viewer's float32. Pictures in red, green and
    blue stay in colour, and their other volumes are summed over the colours.

    Args:
        case: with finite volumes.
        budget: the largest number of values of a volume; 0 for the scan's own grid.

    Attributes:
        factors: how many voxels along each axis were averaged into one.
    """

    def __init__(self, case: Case, budget: int = BUDGET) -> None:
        self.case, self._affine = case, grid_affine(case.affine, case.picture)
        self.factors = block_factors(case.high.shape, self._affine, budget)
        self._scale = {"high": float(np.abs(self._values("high")).max()) or 1.0}
        self._scale["sensitivity"] = float(self._values("sensitivity").max(initial=0.0)) or 1.0

    def names(self) -> list[str]:
        """Names of the volumes that there are."""
        return [n for n in NAMES if n != "sensitivity" or self.case.sensitivity is not None]

    def file(self, name: str) -> bytes:
        """A volume as the bytes of a .nii.gz file.

        Args:
            name: one of ``names``.

        Returns:
            16-bit integers with slope and offset, or 24-bit colours; float32 where the range of
            one channel is so small beside another's that integers would flatten it.
        """
        values = _averaged(self._values(name), self.factors)
        affine = self._affine @ _block_affine(self.factors)
        if self.case.coloured and name in ("image", "orth"):
            low, high = self._window()
            bytes_ = np.clip(np.round(255 * (values - low) / (high - low)), 0, 255).astype("u1")
            data = np.ascontiguousarray(np.moveaxis(bytes_, 0, -1)).view(_RGB)[..., 0]
            return _packed(nib.Nifti1Image(data, affine))
        values = values / self._scale.get(name, 1.0)
        slope = float(max(np.ptp(values), 1e-30)) / 65000
        offset = 0.0 if name in ("high", "sensitivity") else float(values.min() + 32500 * slope)
        if offset == 0.0:
            slope = float(max(np.abs(values).max(), 1e-30)) / 32500
        steps = np.ptp(values, axis=(1, 2, 3)) / slope
        if (steps[steps > 0] < _GREYS).any():
            return _packed(nib.Nifti1Image(np.moveaxis(values, 0, -1).astype(np.float32), affine))
        whole = np.round((values - offset) / slope).astype(np.int16)
        image = nib.Nifti1Image(np.moveaxis(whole, 0, -1) if len(whole) > 1 else whole[0], affine)
        image.header.set_slope_inter(slope, offset)
        image.header.set_xyzt_units("mm")
        return _packed(image, (slope, offset))

    def settings(self, channel: int | None = None) -> dict[str, Any]:
        """What the viewer must know: limits of the colours, where to look, names.

        Args:
            channel: to show first, from 0; the most sensitive one by default. A picture in colour
                shows all.

        Returns:
            Values for JSON.

        Raises:
            ValueError: no such channel.
        """
        case = self.case
        turned = Turned(case.affine, case.high.shape[1:], case.picture)
        channel = chosen_channel(case, channel)
        channel = 0 if case.coloured else channel
        volume = turned(weights(case))[self._kept(channel)].sum(axis=0)
        best = chosen_slices(volume, "sensitivity")
        return {
            # Of each channel: their ranges may be orders of magnitude apart.
            "limits": [self._limits(i) for i in range(1 if case.coloured else len(case.high))],
            "scale": self._scale,
            # As a fraction of the grid along the patient's axes, which is where the viewer looks.
            "peak": [(b + 0.5) / n for b, n in zip(best, volume.shape, strict=True)],
            "channel": channel,
            "channels": [
                "red, green and blue" if case.coloured else case.channel_name(i)
                for i in range(1 if case.coloured else len(case.high))
            ],
            "plane": turned.planes[0].normal if len(turned.planes) == 1 else None,
            "picture": case.picture,
            "oriented": turned.unit == "mm",
            "coloured": case.coloured,
            "volumes": self.names(),
            "factors": list(self.factors),
            "shape": list(case.high.shape[1:]),
        }

    def embedded(self) -> dict[str, str]:
        """All volumes as base64, by name."""
        return {name: base64.b64encode(self.file(name)).decode("ascii") for name in self.names()}

    def _values(self, name: str) -> np.ndarray:
        case = self.case
        if name == "sensitivity":
            given = np.zeros((1, 1, 1, 1)) if case.sensitivity is None else case.sensitivity
            clipped = np.clip(given, 0, None)
            return np.sqrt(clipped.sum(axis=0, keepdims=True) if case.coloured else clipped)
        values: np.ndarray = getattr(case, name)
        if name == "high" and case.coloured:
            return values.sum(axis=0, keepdims=True)
        return values

    def _kept(self, channel: int) -> slice:
        return slice(None) if self.case.coloured else slice(channel, channel + 1)

    def _limits(self, channel: int) -> dict[str, Any]:
        """Where the colours of a channel begin and end: of the image, and of what lies on it."""
        kept = self._kept(channel)
        return {
            "window": list(self._window(kept)),
            "top": {name: self._top(name, kept) for name in self._scale},
        }

    def _window(self, kept: slice = slice(None)) -> tuple[float, float]:
        low, high = (float(v) for v in np.percentile(self.case.image[kept], (0.5, 99.5)))
        return (low, high) if high > low else (low - 0.5, low + 0.5)

    def _top(self, name: str, kept: slice) -> float:
        values = np.abs(self._values(name))
        values = values[kept] if len(values) > 1 else values
        top = float(np.percentile(values, _PERCENTILE)) or float(values.max())
        return (top / self._scale[name]) or 1.0


def block_factors(shape: tuple[int, ...], affine: np.ndarray, budget: int) -> tuple[int, int, int]:
    """How many voxels become one along each axis; the finest axis is made coarser first.

    Args:
        shape: (C, X, Y, Z).
        affine: (4, 4), for the voxels' sizes.
        budget: values that may be left; 0 for any number.

    Returns:
        Three whole numbers of at least 1.

    >>> block_factors((1, 240, 240, 20), np.diag([1.0, 1, 5, 1]), 100_000)
    (4, 3, 1)
    """
    factors, sizes = [1, 1, 1], np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    counts = list(shape[1:])
    while budget and shape[0] * math.prod(counts) > budget and max(counts) > 1:
        coarse = [sizes[a] * factors[a] if counts[a] > 1 else math.inf for a in range(3)]
        axis = int(np.argmin(coarse))
        factors[axis] += 1
        counts[axis] = math.ceil(shape[1 + axis] / factors[axis])
    return factors[0], factors[1], factors[2]


def _averaged(values: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    """Means of blocks; blocks at the end repeat the last voxel."""
    for axis, factor in enumerate(factors, start=1):
        if factor > 1:
            rest = -values.shape[axis] % factor
            padding = [(0, rest if a == axis else 0) for a in range(4)]
            whole = np.pad(values, padding, mode="edge")
            shape = list(whole.shape)
            shape[axis : axis + 1] = [shape[axis] // factor, factor]
            values = whole.reshape(shape).mean(axis=axis + 1)
    return values


def _block_affine(factors: tuple[int, int, int]) -> np.ndarray:
    affine = np.diag([*map(float, factors), 1.0])
    affine[:3, 3] = [(factor - 1) / 2 for factor in factors]
    return affine


def _packed(image: nib.Nifti1Image, scaling: tuple[float, float] | None = None) -> bytes:
    plain = bytearray(image.to_bytes())
    if scaling is not None:  # nibabel would scale the integers, which are scaled already
        header = nib.Nifti1Header(bytes(plain[:348]))
        header["scl_slope"], header["scl_inter"] = scaling
        plain[:348] = header.binaryblock
    return gzip.compress(bytes(plain), compresslevel=6, mtime=0)
