"""A picture of pooled eigenvectors: raw beside low-pass filtered, with the mean Jacobian below."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from monai_ifim.core import PooledEigenspace, load_pooled
from monai_ifim.core.smoothing import along_axes, gaussian_matrices
from monai_ifim.data.run_pooled.grid import GRID
from monai_ifim.data.run_pooled.parts import IMAGES
from monai_ifim.report.notebook import check_matplotlib

if TYPE_CHECKING:  # matplotlib is loaded by the first picture
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

    from monai_ifim.report.cases.planes import Turned

PIXELS = (
    "Single pixels depend on the training: another training of the same network gives others. Only "
    "the filtered pictures can be compared between trainings, beside random weights. Research use "
    "only: what this classifier is sensitive to over these images, not anatomy, not a cause, not a "
    "diagnosis."
)
_WIDTH = 2.1  # inches of a panel
_PERCENTILE = 99.5


@dataclass(frozen=True)
class _Row:
    """One direction.

    Attributes:
        label: what it is, in lines.
        raw: (X, Y, Z).
        smooth: the same after the filter.
    """

    label: str
    raw: np.ndarray
    smooth: np.ndarray


def show_pooled(
    space: PooledEigenspace | str | os.PathLike[str],
    *,
    blur: float = 2.0,
    most: int = 3,
    channel: int | None = None,
    affine: np.ndarray | Tensor | None = None,
) -> Figure:
    """Draw the leading eigenvectors of a pooled eigenspace, raw and low-pass filtered.

    Each row has its own colour scale and sign: an eigenvector has no unit, and its negative is as
    good. The last row is the baseline, the strongest direction of the mean Jacobian. Needs
    ``pip install 'monai_ifim[report]'``.

    Args:
        space: pooled, or a file of it.
        blur: standard deviation of the filter in voxels.
        most: eigenvectors at the most.
        channel: to show, from 0; the one with most of the first eigenvector by default.
        affine: (4, 4) of the preprocessed images; by default the one that is stored. Slices of
            pictures (PNG, JPEG), and without an affine, are drawn with their rows downwards.

    Returns:
        A figure; a notebook shows it, ``savefig`` writes it.

    Raises:
        TypeError: no pooled eigenspace.
        ValueError: directions that are neither slices nor volumes, or no such channel.
        OSError: the file cannot be read.
        ModuleNotFoundError: matplotlib is not installed.

    >>> import torch
    >>> import monai_ifim as mi
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    >>> space = mi.pooled_eigenspace(network, torch.randn(8, 1, 8, 8))
    >>> mi.show_pooled(space).savefig("pooled.png")  # doctest: +SKIP
    """
    check_matplotlib()
    from monai_ifim.report.cases.planes import Turned

    loaded = load_pooled(space)
    if loaded is None:
        raise TypeError(
            "expected a pooled eigenspace or a file of one, got nothing; make one with "
            "pooled_eigenspace"
        )
    vectors = loaded.eigenvectors
    if vectors.ndim not in (4, 5):
        raise ValueError(
            f"expected directions (R, C, H, W) or (R, C, X, Y, Z), got {tuple(vectors.shape)}; "
            "only slices and volumes can be drawn"
        )
    if most < 1:
        raise ValueError(f"expected at least one eigenvector to draw, got {most}; give 1")
    number = _channel(vectors, channel)
    rows = _rows(loaded, number, blur, most)
    known = _affine(loaded, affine)
    flat = vectors.ndim == 4 and (known is None or _is_of_a_picture(known))
    turn = Turned(known, rows[0].raw.shape, picture=flat)
    title = _title(loaded, number, blur, turn.unit)
    return _figure(rows, turn, title)


def _channel(vectors: Tensor, channel: int | None) -> int:
    count = vectors.shape[1]
    if channel is None:
        return int(vectors[0].flatten(1).norm(dim=1).argmax())
    if not 0 <= channel < count:
        raise ValueError(f"expected a channel from 0 to {count - 1}, got {channel}; leave it out")
    return channel


def _affine(space: PooledEigenspace, given: np.ndarray | Tensor | None) -> np.ndarray | None:
    if given is not None:
        return np.asarray(given, dtype=np.float64)
    stored = space.about.get(GRID)
    affine = None if not stored else np.asarray(json.loads(stored), dtype=np.float64)
    return affine if affine is not None and affine.shape == (4, 4) else None


def _is_of_a_picture(affine: np.ndarray) -> bool:
    """Unit pixels at the origin, which MONAI's readers of PNG and JPEG give."""
    return bool(np.array_equal(np.abs(affine), np.eye(4)))


def _rows(space: PooledEigenspace, channel: int, blur: float, most: int) -> list[_Row]:
    shares = (space.eigenvalues / space.trace).tolist()
    stable = space.stable_rank
    rows = []
    for i, vector in enumerate(space.eigenvectors[:most]):
        told = "halves agree" if i < stable else "halves disagree"
        label = f"eigenvector {i + 1}\n{100 * shares[i]:.1f} % of the trace\n{told}"
        rows.append(_row(label, vector, channel, blur))
    if space.mean_jacobian is not None:
        label = "baseline:\nmean Jacobian,\nstrongest direction"
        rows.append(_row(label, space.jacobian_directions[0], channel, blur))
    return rows


def _row(label: str, vector: Tensor, channel: int, blur: float) -> _Row:
    plain = vector.detach().cpu().double()[channel]
    matrices = gaussian_matrices(plain.shape, [blur] * plain.ndim)
    volumes = [
        values.reshape(*values.shape, *[1] * (3 - values.ndim)).numpy()
        for values in (plain, along_axes(plain, matrices))
    ]
    return _Row(label, *volumes)


def _title(space: PooledEigenspace, channel: int, blur: float, unit: str) -> str:
    images = space.about.get(IMAGES, str(space.count))
    parts = [
        f"Pooled over {space.count} of {images} images, weights {space.weights}",
        f"{space.stable_rank} of {len(space.eigenvalues)} directions stable between halves",
        f"filter: {blur:g} voxels",
    ]
    if space.eigenvectors.shape[1] > 1:
        parts.append(f"channel {channel + 1} of {space.eigenvectors.shape[1]}")
    if "network" in space.about:
        name, digest = space.about["network"].rsplit(" ", 1)
        parts.append(f"{name} {digest[:8]}")
    return "; ".join(parts)


def _figure(rows: list[_Row], turn: Turned, title: str) -> Figure:
    import matplotlib
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    from monai_ifim.report.cases.figure import CaseFigure

    planes = turn.planes
    columns = 2 * len(planes)
    tallest = max(plane.size[1] / plane.size[0] for plane in planes)
    height = _WIDTH * min(tallest, 1.5) + 0.15
    width = columns * _WIDTH + 1.4
    head, foot = (0.5, 0.4) if columns > 2 else (0.7, 0.7)
    with matplotlib.rc_context({"font.size": 8}):
        figure = CaseFigure(
            figsize=(width, len(rows) * height + head + foot),
            layout=ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.03),
        )
        heights = [head, len(rows) * height, foot]
        parts = figure.subfigures(3, 1, height_ratios=heights, squeeze=False)
        upper, middle, lower = parts[:, 0]
        _text(upper, title, width, 8.5)
        axes = middle.subplots(len(rows), columns, squeeze=False)
        for row, line in zip(rows, axes, strict=True):
            _draw(row, line, turn)
        for start, told in ((0, "raw"), (len(planes), "low-pass filtered")):
            for axis, plane in zip(axes[0, start:], planes, strict=False):
                axis.set_title(" ".join(filter(None, (told, plane.name))), fontsize=8)
        _text(lower, PIXELS, width, 7.5)
    return figure


def _text(part: FigureBase, text: str, inches: float, size: float) -> None:
    from textwrap import fill

    letters = int(inches * 72 / (0.53 * size))
    part.text(0.5, 0.5, fill(text, letters), ha="center", va="center", fontsize=size)


def _draw(row: _Row, axes: np.ndarray, turn: Turned) -> None:
    from matplotlib.colors import Normalize

    from monai_ifim.report.cases.choice import chosen_slices
    from monai_ifim.report.cases.panels import SIGNED, edge_letters, scale_bar

    raw, smooth = (turn(volume[None])[0] for volume in (row.raw, row.smooth))
    at = chosen_slices(np.square(smooth), "sensitivity")
    count = len(turn.planes)
    for number, volume in enumerate((raw, smooth)):
        limit = float(np.percentile(np.abs(volume), _PERCENTILE)) or 1.0
        part: list[Axes] = list(axes[number * count : (number + 1) * count])
        for axis, plane in zip(part, turn.planes, strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            axis.imshow(
                plane.cut(volume, at[plane.normal]),
                cmap=SIGNED,
                norm=Normalize(-limit, limit),
                extent=(0, plane.size[0], plane.size[1], 0),
                interpolation="nearest",
            )
            edge_letters(axis, plane)
            if number == 0 and axis is part[0]:
                scale_bar(axis, plane, turn.unit)
    axes[0].set_ylabel(row.label, fontsize=8, rotation=0, ha="right", va="center")
