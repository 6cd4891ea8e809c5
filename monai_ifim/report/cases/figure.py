"""The picture of a case: one function for the sheet, the report, notebooks and TensorBoard."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter

from monai_ifim.messages import RESEARCH_ONLY
from monai_ifim.report.cases.bars import draw_eigenvalues, draw_probabilities, drawable
from monai_ifim.report.cases.case import Case
from monai_ifim.report.cases.panels import Panels, Style

_COLUMN = 2.5  # inches a panel is wide at the most
_HEIGHT = 6.0  # inches that the planes of a case are high together at the most
_AROUND = 1.35  # inches for titles and colour bars of a case
_FAILED = 0.7  # inches for a case without a result


class CaseFigure(Figure):
    """A figure that a notebook shows without a backend of matplotlib."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=90)
        return buffer.getvalue()


def case_figure(case: Case, style: Style | None = None) -> Figure:
    """Draw one case.

    Volumes are shown by three planes, a single slice by its own. All panels show the same channel
    (pictures in red, green and blue are in colour). Letters at the edges are the patient's sides.

    Args:
        case: volumes and numbers; a failed one is a line that says why.
        style: how it is drawn; slices by sensitivity by default.

    Returns:
        The figure, which belongs to no window; ``savefig`` writes it.
    """
    return cases_figure([case], style)


def cases_figure(cases: Sequence[Case], style: Style | None = None, title: str = "") -> Figure:
    """Draw several cases below each other.

    Args:
        cases: one or more.
        style: how they are drawn.
        title: above them, empty for none.

    Returns:
        The figure.

    Raises:
        ValueError: no case.
    """
    if not cases:
        raise ValueError("expected at least one case to draw, got none")
    style = style or Style()
    panels = [Panels(case, style) if _can_be_drawn(case) else None for case in cases]
    heights = [_FAILED if each is None else _AROUND + _inches(each)[1] for each in panels]
    with matplotlib.rc_context({"font.size": 8}):
        foot = 0.3
        figure = CaseFigure(
            figsize=(14.5, sum(heights) + foot),
            layout=ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.03),
        )
        parts = figure.subfigures(len(cases) + 1, 1, height_ratios=[*heights, foot], squeeze=False)
        for part, case, each in zip(parts[:-1, 0], cases, panels, strict=True):
            _draw_case(part, case, each)
        text = " ".join(filter(None, (title, RESEARCH_ONLY)))
        parts[-1, 0].text(0.5, 0.5, text, ha="center", va="center", fontsize=9)
    return figure


def _can_be_drawn(case: Case) -> bool:
    return not case.numbers.failed and bool(np.isfinite(case.image).all())


def _inches(panels: Panels) -> tuple[list[float], float]:
    """Height of each plane, and of all: one scale, so that sizes can be compared."""
    width = max(plane.size[0] for plane in panels.planes)
    heights = [plane.size[1] for plane in panels.planes]
    scale = min(_COLUMN / width, _HEIGHT / sum(heights), 3.2 / max(heights))
    inches = [max(scale * height, 0.3) for height in heights]
    return inches, max(sum(inches), 1.6)


def _draw_case(part: FigureBase, case: Case, panels: Panels | None) -> None:
    part.suptitle(_heading(case, panels), x=0.01, ha="left", fontsize=9, parse_math=False)
    if panels is None:
        return
    heights, _ = _inches(panels)
    rows = len(panels.planes)
    beside = 2 if rows == 1 else 1  # bars beside each other, or above each other
    widths = [1.0] * 4 + [0.75 if rows == 1 else 1.15] * beside
    grid = part.add_gridspec(rows, 4 + beside, height_ratios=heights, width_ratios=widths)
    for number, title in enumerate(panels.titles):
        column = [part.add_subplot(grid[row, number]) for row in range(rows)]
        for axis, plane in zip(column, panels.planes, strict=True):
            panels.draw(axis, number, plane)
            if number == 0:
                # Upright letters: the planes of thin series are lower than a turned line is long.
                label = panels.cut_at(plane)
                axis.set_ylabel(label, fontsize=7.5, rotation=0, ha="right", va="center")
        note = panels.note(number, case.numbers.energy_share).split("\n")
        lines = [title, *(drawable(line, 46) for line in note)]
        column[0].set_title("\n".join(filter(None, lines)), fontsize=8, parse_math=False)
        _colour_bar(part, column, panels, number)
    if beside == 2:
        axes = [part.add_subplot(grid[0, 4]), part.add_subplot(grid[0, 5])]
    else:
        inner = grid[:, 4].subgridspec(2, 1)
        axes = [part.add_subplot(inner[i, 0]) for i in range(2)]
    draw_probabilities(axes[0], case.numbers)
    draw_eigenvalues(axes[1], case.numbers)


def _colour_bar(part: FigureBase, column: list[Axes], panels: Panels, number: int) -> None:
    found = panels.bar(number)
    if found is None:
        return
    colours, label = found
    bar = part.colorbar(colours, ax=column, location="bottom", shrink=0.8, aspect=30, pad=0.02)
    bar.ax.tick_params(labelsize=7)
    bar.ax.locator_params(nbins=4)
    bar.formatter = FuncFormatter(lambda value, _: f"{value:.3g}")
    bar.set_label(label, fontsize=7)


def _heading(case: Case, panels: Panels | None) -> str:
    numbers = case.numbers
    said = [drawable(case.name, 90)]
    if numbers.failed:
        return "   ".join([*said, drawable(numbers.status, 130)])
    if panels is None:
        return "   ".join([*said, "not drawn: the components hold NaN or infinity"])
    said.append(f"predicted {drawable(numbers.predicted, 40)}")
    if math.isfinite(numbers.probability):
        said[-1] += f", p = {numbers.probability:.3f}"
    if numbers.label:
        said.append(f"label {drawable(numbers.label, 40)}")
    if numbers.status != "ok":
        said.append(drawable(numbers.status, 90))
    if case.model:
        said.append(drawable(case.model, 40))
    if panels.channel:
        said.append(drawable(panels.channel, 40))
    return "   ".join(said)
