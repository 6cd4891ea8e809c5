"""The figures of one experiment as files."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from monai_ifim.data.atomic import complete_file
from monai_ifim.report.results.measured import Result
from monai_ifim.report.results.sections import SECTIONS
from monai_ifim.report.results.style import settings


def write_figures(result: Result, folder: Path) -> list[Path]:
    """Draw what an experiment measured, each figure as PNG.

    Args:
        result: of one experiment, as in its ``results.json``.
        folder: of the files, which have the names of ``SECTIONS``; a figure without data is not
            written.

    Returns:
        The paths of the files.
    """
    paths: list[Path] = []
    for section in SECTIONS:
        with settings():
            figure = section.draw(result)
            if figure is not None:
                paths.append(save_figure(figure, folder / f"{section.name}.png"))
    return paths


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, under its name only when it is complete.

    Args:
        figure: to be written.
        path: of the file.

    Returns:
        The same path.
    """
    picture = io.BytesIO()
    _fix_layout(figure)
    figure.savefig(picture, format="png", dpi=figure.dpi)
    with complete_file(path) as partial:
        partial.write_bytes(_with_palette(picture.getvalue()))
    return path


def _fix_layout(figure: Figure) -> None:
    """Solve the layout once and round it: the solver's last digits differ from call to call."""
    figure.set_dpi(110)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis in figure.axes:
        axis.set_position(Bbox(axis.get_position().get_points().round(6)))


def _with_palette(png: bytes) -> bytes:
    """The same picture with a palette: a quarter of the size for lines and letters."""
    small = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        few = image.convert("RGB").quantize(
            256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
        )
        few.save(small, format="png", optimize=True)
    return small.getvalue()
