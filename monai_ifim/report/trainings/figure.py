"""Pooled eigenvectors as pictures, raw beside low-pass filtered, and the template."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from monai_ifim.core.smoothing import along_axes, gaussian_matrices
from monai_ifim.report.trainings.blocks import Block

_WIDTH = 2.0  # of the low-pass filter, in pixels

Picture = NDArray[np.float64]


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
    titles = [title for title, _ in _cells(rows[0], rows[0])]
    figure = Figure(
        figsize=(1.25 * len(titles) + 1.2, 1.45 * len(rows) + 0.5), layout="constrained"
    )
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, each in zip(axes, rows, strict=True):
        for axis, (title, picture) in zip(line, _cells(each, rows[0]), strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            axis.grid(visible=False)
            for side in axis.spines.values():
                side.set_visible(False)
            if picture is not None:
                most = float(np.abs(picture).max()) or 1.0
                axis.imshow(picture, cmap="RdBu_r", vmin=-most, vmax=most)
            if each is rows[0]:
                axis.set_title(title, fontsize=7)
        line[0].set_ylabel(f"{_short(each)}\n{each.seen:,} images", fontsize=7)
    return figure


def _cells(each: Block, first: Block) -> list[tuple[str, Picture | None]]:
    """Titles and pictures; the sign of an eigenvector says nothing, so it is that of the first."""
    found = each.numbers["pictures"]
    template = found["template"]
    mine, others = (low_pass(np.array(b.numbers["pictures"]["pooled"][0])) for b in (each, first))
    sign = -1 if float((mine * others).sum()) < 0 else 1
    cells: list[tuple[str, Picture | None]] = []
    for kind, words in (("single", "one image"), ("pooled", "pooled")):
        for number, picture in enumerate(found[kind], start=1):
            cells.append((f"{words},\ntraining {number}", sign * np.array(picture)))
    for number, picture in enumerate(found["pooled"], start=1):
        cells.append((f"pooled, low-pass,\ntraining {number}", sign * low_pass(np.array(picture))))
    if template is not None:
        cells.append(("template\n", np.array(template)))
        cells.append(("template,\nlow-pass", low_pass(np.array(template))))
    return cells


def low_pass(picture: Picture) -> Picture:
    """A picture after a Gaussian filter of 2 pixels."""
    matrices = gaussian_matrices(picture.shape, [_WIDTH] * picture.ndim)
    return along_axes(torch.from_numpy(picture), matrices).numpy()


def _short(each: Block) -> str:
    return each.name
