"""How the figures of the results look: one colour a direction or method, one column a network."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox
from PIL import Image

from monai_ifim.data.atomic import complete_file
from monai_ifim.report.results.measured import Interval, block, known, network_name


class Style(NamedTuple):
    """Name in the legend, colour, and the marker that tells it without colour."""

    label: str
    colour: str
    marker: str


# Hues of the palettes of Okabe and Ito, and of Paul Tol, which colour-blind people can tell apart;
# the markers do it where there are more lines than such hues.
STYLES = {
    "leading": Style("leading eigenvector", "#D55E00", "o"),
    "leading_reversed": Style("leading, reversed", "#7A3300", "x"),
    "random_in_eigenspace": Style("random inside eigenspace", "#E69F00", "^"),
    "random": Style("random anywhere", "#888888", "."),
    "band_limited": Style("random, band-limited", "#56B4E9", "s"),
    "random_in_complement": Style("random outside eigenspace", "#0072B2", "v"),
    "attenuate_high": Style("along −x_h", "#AA3377", "D"),
    "attenuate_orth": Style("along −x_o", "#009E73", "P"),
    "ifim": Style("iFIM sensitivity", "#AA3377", "D"),
    "gradient": Style("gradient", "#000000", "o"),
    "integrated_gradients": Style("integrated gradients", "#4455AA", "^"),
    "smoothgrad": Style("SmoothGrad", "#999933", "s"),
    "grad_cam": Style("Grad-CAM", "#33BBEE", "v"),
    "occlusion": Style("occlusion", "#CC9900", "X"),
    "trace": Style("trace of F", "#D55E00", "o"),
    "largest_eigenvalue": Style("largest eigenvalue", "#E69F00", "^"),
    "entropy": Style("entropy", "#0072B2", "s"),
    "uncertainty": Style("1 − largest probability", "#56B4E9", "v"),
    "trained": Style("trained network", "#D55E00", "o"),
    "random_weights": Style("random weights", "#888888", "s"),
    "shuffled_labels": Style("shuffled labels", "#0072B2", "v"),
    "two_seeds": Style("another seed", "#0072B2", "s"),
    "ratio_random": Style("random: inside / outside", "#E69F00", "^"),
    "ratio_attenuation": Style("x − αx_h / x − βx_o", "#AA3377", "D"),
}
# A mask takes away the pixels that a method ranks highest, so it has the method's colour.
STYLES |= {
    f"{name}_mask": STYLES[name]._replace(label=f"pixels by {STYLES[name].label}")
    for name in ("gradient", "integrated_gradients", "smoothgrad", "grad_cam", "occlusion")
}
SETTINGS = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
}


def settings() -> AbstractContextManager[None]:
    """The settings of the figures, for the drawing and for the writing."""
    return matplotlib.rc_context(SETTINGS)


def style(name: str) -> Style:
    """Style of a direction, method or score; a grey one for names that are not known."""
    return STYLES.get(name, Style(name.replace("_", " "), "#444444", "*"))


class Grid(NamedTuple):
    """A figure with rows of panels, one column a network, and a legend right of each row."""

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
    figure.suptitle("\n".join(textwrap.wrap(title, int(12 * size[0]))), fontsize=10)
    return Grid(figure, rows, legends)


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


def level(axis: Axes, height: Any, colour: str = "#444444", line: str = ":") -> None:
    """A horizontal line, where the height is known."""
    if known(height):
        axis.axhline(height, color=colour, linestyle=line, linewidth=1.1)


def legend(
    axis: Axes, names: Iterable[str], lines: dict[str, tuple[str, str]] | None = None
) -> None:
    """The legend of a row, beside its panels.

    Args:
        axis: the empty one right of the row.
        names: of directions, methods or scores.
        lines: further lines as label: (colour, line style).
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
    """One range of the horizontal axis in all panels of a row, so that they can be compared."""
    ends = [end for axis in row for end in axis.get_xlim() if axis.has_data()]
    for axis in row:
        axis.set_xlim(min(ends), max(ends))
        few_ticks(axis)


def few_ticks(axis: Axes, count: int = 4) -> None:
    """So many ticks at the most on the horizontal axis, which narrow panels have room for."""
    axis.xaxis.set_major_locator(MaxNLocator(count))


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, under its name only when it is whole.

    Args:
        figure: the figure.
        path: of the file.

    Returns:
        The path.
    """
    picture = io.BytesIO()
    _fix_layout(figure)
    figure.savefig(picture, format="png", dpi=figure.dpi)
    with complete_file(path) as partial:
        partial.write_bytes(_palette(picture.getvalue()))
    return path


def _fix_layout(figure: Figure) -> None:
    """Solve the layout once and round it: the solver's last digits differ from call to call."""
    figure.set_dpi(110)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis in figure.axes:
        axis.set_position(Bbox(axis.get_position().get_points().round(6)))


def _palette(png: bytes) -> bytes:
    """The same picture with a palette: a quarter of the size for lines and letters."""
    small = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        few = image.convert("RGB").quantize(
            256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE
        )
        few.save(small, format="png", optimize=True)
    return small.getvalue()
