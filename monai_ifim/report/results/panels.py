"""Panels of a figure: a grid with one column a network, curves, dots, axes and legends."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from monai_ifim.report.results.measured import Interval, block, known, network_name
from monai_ifim.report.results.numbers import number
from monai_ifim.report.results.style import NEUTRAL, style


class Grid(NamedTuple):
    """A figure with rows of panels, one column a network, and a legend to the right of each row."""

    figure: Figure
    rows: list[list[Axes]]
    legends: list[Axes]


def grid(title: str, columns: Sequence[str], heights: Sequence[float]) -> Grid:
    """Empty panels that share the vertical axis in every row.

    Args:
        title: of the figure.
        columns: title of each column.
        heights: of the rows, in inches.

    Returns:
        The grid.
    """
    panel = min(3.2, max(1.75, 9 / len(columns)))
    size = (panel * len(columns) + 2.5, sum(heights) + 0.7)
    engine = ConstrainedLayoutEngine(hspace=0.06, h_pad=0.06, w_pad=0.03)
    figure = Figure(figsize=size, layout=engine)
    cells = figure.add_gridspec(
        len(heights),
        len(columns) + 1,
        height_ratios=heights,
        width_ratios=[panel] * len(columns) + [0.05],
    )
    rows: list[list[Axes]] = []
    legends = []
    for line in range(len(heights)):
        first = figure.add_subplot(cells[line, 0])
        rest = [figure.add_subplot(cells[line, i], sharey=first) for i in range(1, len(columns))]
        for axis in rest:
            axis.tick_params(labelleft=False)
        rows.append([first, *rest])
        legends.append(figure.add_subplot(cells[line, len(columns)]))
        legends[-1].axis("off")
    for axis, name in zip(rows[0], columns, strict=True):
        axis.set_title(name)
    set_title(figure, title)
    return Grid(figure, rows, legends)


def set_title(figure: Figure, title: str) -> None:
    """A title above all panels, in as many lines as the figure's width asks for."""
    lines = textwrap.wrap(title, int(12 * figure.get_figwidth()))
    figure.suptitle("\n".join(lines), fontsize=10)


def heading(name: str, images: Any, noun: str = "images") -> str:
    r"""Title of a column: the network and the number of images.

    >>> heading("vit", 64)
    'ViT\nn = 64 images'
    """
    return f"{network_name(name)}\nn = {images} {noun}" if known(images) else network_name(name)


def ends(intervals: Iterable[Any]) -> np.ndarray:
    """Values, lower and upper ends as (3, N), NaN where not known (which is drawn as a gap)."""
    table = [
        [part if known(part := block(given, key)) else np.nan for key in ("value", "low", "high")]
        for given in intervals
    ]
    return np.array(table, dtype=float).reshape(-1, 3).T


def curve(axis: Axes, x: Sequence[float], intervals: Sequence[Any], name: str) -> None:
    """A line with its band of intervals."""
    _, colour, marker = style(name)
    value, low, high = ends(intervals)
    axis.plot(x, value, color=colour, marker=marker)
    if len(x) > 1 and np.isfinite(low).any():
        axis.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def dots(
    axis: Axes,
    places: Sequence[float],
    intervals: Sequence[Interval | None],
    name: str,
    *,
    upright: bool = True,
) -> None:
    """Values with error bars, at places along the other axis."""
    _, colour, marker = style(name)
    value, low, high = ends(intervals)
    # A bootstrap interval may miss its value by a rounding error, and error bars refuse that.
    bars = np.clip(np.nan_to_num(np.stack([value - low, high - value])), 0, None)
    drawn: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "", "capsize": 2}
    if upright:
        axis.errorbar(places, value, yerr=bars, **drawn)
    else:
        axis.errorbar(value, places, xerr=bars, **drawn)


def level(axis: Axes, height: Any, colour: str = NEUTRAL, line: str = ":") -> None:
    """A horizontal line, where the height is known."""
    if known(height):
        axis.axhline(height, color=colour, linestyle=line, linewidth=1.1)


def legend(
    axis: Axes, names: Iterable[str], lines: dict[str, tuple[str, str]] | None = None
) -> None:
    """The legend of a row, beside its panels.

    Args:
        axis: the empty one to the right of the row.
        names: of directions, methods or scores.
        lines: further lines: label to colour and line style.
    """
    handles = [
        Line2D([], [], color=colour, marker=marker, label=label)
        for label, colour, marker in map(style, names)
    ]
    handles += [
        Line2D([], [], color=colour, linestyle=line, label=label)
        for label, (colour, line) in (lines or {}).items()
    ]
    if handles:
        axis.legend(
            handles=handles, loc="upper left", frameon=False, borderaxespad=0, labelspacing=0.35
        )


def share_axis(axis: Axes, label: str | None) -> None:
    """A logarithmic horizontal axis with plain numbers, for a panel that is drawn already."""
    axis.set_xlabel(label or "")
    if not np.isfinite(axis.dataLim.minposx):  # nothing drawn, and no logarithm of that
        axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes)
        axis.set_xticks([])
        return
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    low, high = axis.get_xlim()
    if high / low < 100:  # else there may be one tick with a number, or none
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3) if high / low > 10 else (1, 2, 5)))


def logarithmic(row: Sequence[Axes], decades: float = 12) -> None:
    """A logarithmic vertical axis for a row, cut where numbers are noise beside the largest."""
    row[0].set_yscale("log")
    heights = [
        y for axis in row for line in axis.lines for y in np.asarray(line.get_ydata(), dtype=float)
    ]
    positive = [y for y in heights if np.isfinite(y) and y > 0]
    if positive:
        top = max(positive)
        row[0].set_ylim(max(min(positive), top * 10**-decades) / 2, top * 3)
    row[0].yaxis.set_major_locator(LogLocator(numticks=6))
    row[0].yaxis.set_minor_locator(NullLocator())


def same_range(row: Sequence[Axes]) -> None:
    """One range of the horizontal axis in all panels of a row, so that they can be compared.

    Beyond the median size it is logarithmic where a number is above a thousand times that: it
    would leave all others in one place.
    """
    ends = [end for axis in row for end in axis.get_xlim() if axis.has_data()]
    lines = [np.asarray(line.get_xdata(), dtype=float) for axis in row for line in axis.lines]
    values = np.concatenate([[0.0], *(line[np.isfinite(line)] for line in lines)])
    low, high = float(values.min()), float(values.max())
    sizes = np.abs(values[values != 0])
    middle = float(np.median(sizes)) if len(sizes) else 0.0
    ticks = sorted({tick for tick in (low, -middle, 0.0, middle, high) if low <= tick <= high})
    for axis in row:
        if max(-low, high) > 1000 * middle > 0:
            axis.set_xscale("symlog", linthresh=middle, linscale=2)
            axis.set_xlim(3 * low - middle / 4, 3 * high + middle / 4)
            axis.set_xticks(ticks, [number(each) for each in ticks])
            axis.xaxis.set_minor_locator(NullLocator())
        else:
            axis.set_xlim(min(ends), max(ends))
            axis.xaxis.set_major_locator(MaxNLocator(4))  # narrow panels have no room for more


def label_rows(axis: Axes, labels: Sequence[str]) -> None:
    """A vertical axis with one row for each label, the first at the top."""
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)


def label_columns(axis: Axes, labels: Sequence[str]) -> None:
    """A horizontal axis with one column for each label."""
    axis.set_xlim(-0.6, len(labels) - 0.4)
    axis.set_xticks(range(len(labels)), labels, fontsize=7)
