"""Images with their eigenvectors in two trainings, and with their maps by several methods."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from monai_ifim.core.smoothing import along_axes, gaussian_matrices
from monai_ifim.report.evidence.blocks import Block, Single
from monai_ifim.report.results.measured import block, bounded
from monai_ifim.report.results.numbers import number
from monai_ifim.report.results.style import style

_WIDTH = 2.0  # of the low-pass filter, in pixels
_SIGNED = "RdBu_r"
_COLOURS = (
    "Red pixels made brighter move the prediction one way, blue ones the other way, white ones not."
    '\n"Shared": cos² between the trainings (single and smoothed: the mean over images), 1 for the '
    "same direction, 0 for perpendicular ones."
)

Picture = NDArray[np.float64]


class _Group(NamedTuple):
    """Columns that belong together: one picture for each training.

    Attributes:
        title: what they are.
        kind: in the results' pictures.
        filtered: whether they are low-pass filtered.
    """

    title: str
    kind: str
    filtered: bool

    @property
    def metric(self) -> str:
        """Where the agreement of the two is given."""
        return "low_pass" if self.filtered else "pixels"


_GROUPS = (
    _Group("direction of\nthis one image", "single", False),
    _Group("smoothed: of\nits noisy copies", "smoothed", False),
    _Group("pooled: of\nmany images", "pooled", False),
    _Group("pooled,\nlow-pass filtered", "pooled", True),
)
_KEYS = {"single": "single", "smoothed": "smoothed", "pooled": "unit_trace"}


def draw_pictures(blocks: Sequence[Block]) -> Figure | None:
    """Leading directions of two trainings of each network.

    Args:
        blocks: whose ``pictures`` are drawn, a row each.

    Returns:
        The figure, or None where there is no picture.
    """
    rows = [each for each in blocks if each.numbers.get("pictures")]
    if not rows:
        return None
    groups = [g for g in _GROUPS if any(each.numbers["pictures"].get(g.kind) for each in rows)]
    template = any(each.numbers["pictures"]["template"] is not None for each in rows)
    widths = [1, *[2] * len(groups), *([2] if template else [])]
    height = 1.4 * len(rows) + 1.2
    figure = Figure(figsize=(1.15 * sum(widths) + 0.8, height))
    # Gaps between the groups are columns without a picture.
    columns = [width for each in widths for width in (*[1.0] * each, 0.18)][:-1]
    cells = figure.add_gridspec(
        *(len(rows), len(columns)),
        width_ratios=columns,
        wspace=0.06,
        hspace=0.22,
        left=0.065,
        right=0.995,
        bottom=0.6 / height,
        top=1 - 0.65 / height,
    )
    starts = [sum(widths[:i]) + i for i in range(len(widths))]
    axes = [
        [
            [figure.add_subplot(cells[row, start + i]) for i in range(width)]
            for row in range(len(rows))
        ]
        for start, width in zip(starts, widths, strict=True)
    ]
    for axis in figure.axes:
        _bare(axis)
    _draw_images(axes[0], rows)
    for lines, group in zip(axes[1:], groups, strict=False):
        _draw_group(lines, rows, group)
    if template:
        _draw_templates(axes[-1], rows)
    figure.text(0.5, 0.02, _COLOURS, ha="center", fontsize=8)
    return figure


def draw_maps(singles: Sequence[Single]) -> Figure | None:
    """Example images with the sensitivity map and the maps of attribution methods.

    Args:
        singles: networks whose maps were kept as pictures, two rows each.

    Returns:
        The figure, or None where there is no picture.
    """
    kept = [(each, found) for each in singles if (found := _kept(each))]
    if not kept:
        return None
    names = list(dict.fromkeys(name for _, found in kept for name in found["maps"]))
    names = [name for name in names if name != "random_numbers"]
    rows = [(each, found, i) for each, found in kept for i in range(len(found["images"]))]
    size = (1.05 * (len(names) + 1) + 0.7, 1.1 * len(rows) + 0.7)
    figure = Figure(figsize=size)
    axes = figure.subplots(
        *(len(rows), len(names) + 1),
        squeeze=False,
        gridspec_kw={"wspace": 0.05, "hspace": 0.05},
    )
    figure.subplots_adjust(left=0.6 / size[0], right=0.995, bottom=0.02, top=1 - 0.55 / size[1])
    for axis, title in zip(axes[0], ["an image", *(style(n).label for n in names)], strict=True):
        axis.set_title(fill(title, 14), fontsize=8)
    for line, (each, found, index) in zip(axes, rows, strict=True):
        line[0].imshow(found["images"][index], cmap="gray")
        predicted = found.get("predicted")  # not in results of earlier versions
        if predicted is not None:
            _note(line[0], f"class {predicted[index]}")
        if index == 0:
            line[0].set_ylabel(f"{each.task}\n{each.name}", fontsize=7)
        for axis, name in zip(line[1:], names, strict=True):
            maps = found["maps"].get(name)
            if maps is None:
                axis.text(0.5, 0.5, "none", ha="center", va="center", fontsize=8)
            else:
                _draw(axis, np.array(maps[index]), False)
    for axis in figure.axes:
        _bare(axis)
    return figure


def _note(axis: Axes, words: str) -> None:
    """A word in the corner of a grey image, legible on black and on white."""
    box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1}
    axis.text(0.04, 0.05, words, fontsize=6, transform=axis.transAxes, bbox=box)


def _kept(each: Single) -> dict[str, Any] | None:
    found: dict[str, Any] | None = block(each.numbers, "maps", "pictures")
    return found or None


def _draw_images(lines: Sequence[Sequence[Axes]], rows: Sequence[Block]) -> None:
    lines[0][0].set_title("an image", fontsize=9)
    for (axis,), each in zip(lines, rows, strict=True):
        picture = each.numbers["pictures"].get("image")
        if picture is not None:
            axis.imshow(picture, cmap="gray")
        axis.set_ylabel(f"{each.task}\n{each.name}", fontsize=8)
        axis.set_xlabel(f"AUC {number(each.mean('auc'))}", fontsize=7, labelpad=2)


def _draw_group(lines: Sequence[Sequence[Axes]], rows: Sequence[Block], group: _Group) -> None:
    """A column for each training; below each pair how much the trainings share."""
    _head(lines[0], group.title, ("training 1", "training 2"))
    for line, each in zip(lines, rows, strict=True):
        shown = each.numbers["pictures"].get(group.kind) or ()
        for axis, picture in zip(line, shown, strict=False):
            _draw(axis, np.array(picture) * _sign(each), group.filtered)
        found = block(each.numbers, "agreement", group.metric, "leading", _KEYS[group.kind])
        if bounded(found):
            _between(line, -0.1, f"shared: {number(found['value'])}", 7)


def _draw_templates(lines: Sequence[Sequence[Axes]], rows: Sequence[Block]) -> None:
    _head(lines[0], "known answer:\nthe ideal template", ("as it is", "filtered"))
    for line, each in zip(lines, rows, strict=True):
        template = each.numbers["pictures"]["template"]
        if template is None:
            _between(line, 0.55, "not known", 8)
            for axis in line:
                axis.set_axis_off()
        else:
            for axis, filtered in zip(line, (False, True), strict=True):
                _draw(axis, np.array(template), filtered)


def _head(line: Sequence[Axes], title: str, columns: Sequence[str]) -> None:
    _between(line, 1.22, title, 9, "bottom")
    for axis, words in zip(line, columns, strict=True):
        axis.set_title(words, fontsize=7, pad=3)


def _between(
    line: Sequence[Axes], height: float, words: str, size: int, to: str = "center"
) -> None:
    """A text in the middle of two panels."""
    place = line[0].transAxes
    line[0].text(1.03, height, words, fontsize=size, ha="center", va=to, transform=place)


def _sign(each: Block) -> int:
    """Of an eigenvector: it says nothing, so it is that of the template or mostly bright."""
    found = each.numbers["pictures"]
    if found["template"] is not None:
        return 1
    picture = low_pass(np.array(found["pooled"][0]))
    return 1 if picture[np.unravel_index(np.abs(picture).argmax(), picture.shape)] > 0 else -1


def _bare(axis: Axes) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    for side in axis.spines.values():
        side.set(visible=True, color="#cccccc", linewidth=0.6)


def _draw(axis: Axes, picture: Picture, filtered: bool) -> None:
    shown = low_pass(picture) if filtered else picture
    most = float(np.abs(shown).max()) or 1.0
    axis.imshow(shown, cmap=_SIGNED, vmin=-most, vmax=most)


def low_pass(picture: Picture) -> Picture:
    """A picture after a Gaussian filter of 2 pixels."""
    matrices = gaussian_matrices(picture.shape, [_WIDTH] * picture.ndim)
    return along_axes(torch.from_numpy(picture), matrices).numpy()
