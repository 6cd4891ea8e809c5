"""The kinds of plot of the page: curves, networks in rows, and scores in rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from monai_ifim.report.evidence.blocks import Block
from monai_ifim.report.evidence.comparisons import network_mean
from monai_ifim.report.results.measured import Interval, block, bounded
from monai_ifim.report.results.panels import curve, dots, label_rows, level
from monai_ifim.report.results.style import NEUTRAL, style

_EVERY = "#BBBBBB"  # one network among those whose mean is drawn


class Panel(NamedTuple):
    """One panel of a figure with rows.

    Attributes:
        label: of its axis.
        rows: what each row holds; of ``by_network`` by series, of ``by_row`` by network.
        border: where a line is drawn.
        log: whether its axis is logarithmic.
        limits: of the values, which the interval of a mean does not leave.
    """

    label: str
    rows: Mapping[str, Mapping[str, Interval | None]]
    border: float | None = None
    log: bool = False
    limits: tuple[float, float] = (-math.inf, math.inf)


def by_network(panels: Sequence[Panel]) -> Figure:
    """A row for each network, and in it a marker for each series.

    Args:
        panels: with the same rows.

    Returns:
        The figure, the legend below.
    """
    rows = list(dict.fromkeys(row for panel in panels for row in panel.rows))
    series = list(
        dict.fromkeys(name for p in panels for found in p.rows.values() for name in found)
    )
    figure, axes = _rows_figure(panels, rows, 0.34, 0.55)
    offsets = np.linspace(-0.3, 0.3, len(series)) if len(series) > 1 else [0.0]
    for axis, panel in zip(axes, panels, strict=True):
        for place, row in enumerate(rows):
            for offset, name in zip(offsets, series, strict=True):
                found = block(panel.rows, row, name)
                if bounded(found):
                    dots(axis, [place + offset], [found], name, upright=False)
        _finish(axis, panel)
    handles = [
        Line2D([], [], color=each.colour, marker=each.marker, linestyle="", label=each.label)
        for each in map(style, series)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def by_row(panels: Sequence[Panel]) -> Figure:
    """A row for each score or kind: grey each network, in colour their mean with its interval.

    Args:
        panels: with the same rows, named as in ``STYLES``.

    Returns:
        The figure.
    """
    rows = list(dict.fromkeys(row for panel in panels for row in panel.rows))
    figure, axes = _rows_figure(panels, [style(row).label for row in rows], 0.24, 0.3)
    for axis, panel in zip(axes, panels, strict=True):
        for place, row in enumerate(rows):
            every = (panel.rows.get(row) or {}).values()
            found = [each for each in every if each is not None and bounded(each)]
            if found:
                values = [each["value"] for each in found]
                axis.plot(values, [place] * len(values), "|", color=_EVERY, markersize=7)
                dots(axis, [place], [network_mean(found, panel.limits)], row, upright=False)
        _finish(axis, panel)
    return figure


def learning_figure(blocks: Sequence[Block]) -> Figure | None:
    """AUC by the number of images seen, a panel for each task with its bar.

    Args:
        blocks: of all networks, below the bar as well.

    Returns:
        The figure, of tasks with a network that was trained at several lengths, or that is below a
        bar of the AUC; None where there is no such task.
    """
    lengths = Counter((each.task, each.network) for each in blocks)
    tasks = list(
        dict.fromkeys(
            each.task for each in blocks if lengths[each.task, each.network] > 1 or _below_auc(each)
        )
    )
    if not tasks:
        return None
    columns = min(len(tasks), 3)
    lines = -(-len(tasks) // columns)
    size = (max(3.1 * columns, 4.5), 2.5 * lines + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(lines, columns, sharey=True, squeeze=False).flat)
    for axis, task in zip(axes, tasks, strict=False):
        own = [each for each in blocks if each.task == task]
        for network in dict.fromkeys(each.network for each in own):
            _learning_curve(axis, [each for each in own if each.network == network])
        bar = own[0].bar
        level(axis, bar.least if bar and bar.score == "auc" else None)
        axis.set_title(task)
        axis.set_xlabel("images seen, thousands")
        axis.set_xlim(left=0)
    for axis in axes[len(tasks) :]:
        axis.set_axis_off()
    figure.supylabel("AUC of each training, bar dotted", fontsize=9)
    shown = [each.network for each in blocks if each.task in tasks]
    _network_legend(figure, list(dict.fromkeys(shown)), [])
    return figure


def _below_auc(each: Block) -> bool:
    return each.standing == "below" and each.bar is not None and each.bar.score == "auc"


def _learning_curve(axis: Axes, blocks: Sequence[Block]) -> None:
    _, colour, marker = style(blocks[0].network)
    seen = [each.seen / 1000 for each in blocks]
    axis.plot(seen, [each.mean("auc") for each in blocks], color=colour)
    for each in blocks:
        aucs = [training["auc"] for training in each.trainings]
        axis.plot([each.seen / 1000] * len(aucs), aucs, linestyle="", color=colour, marker=marker)


def _network_legend(figure: Figure, names: Sequence[str], others: Sequence[Line2D]) -> None:
    handles = [
        Line2D([], [], color=each.colour, marker=each.marker, label=each.label)
        for each in map(style, names)
    ]
    handles += others
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)


def counts_figure(blocks: Sequence[Block]) -> Figure | None:
    """Cosine with the known template by the number of pooled images, a panel for each task.

    Args:
        blocks: of networks; those without a template are left out.

    Returns:
        The figure, or None where no task has a template.
    """
    known = [each for each in blocks if block(each.numbers, "template", "by_count")]
    tasks = list(dict.fromkeys(each.task for each in known))
    if not tasks:
        return None
    figure = Figure(figsize=(max(3.1 * len(tasks), 4.5), 3.3), layout="constrained")
    axes = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(each.network for each in known))
    for axis, task in zip(axes, tasks, strict=True):
        for each in known:
            if each.task == task:
                _count_curve(axis, each)
        axis.set_xscale("log")
        axis.set_title(task)
        axis.set_xlabel("pooled images")
    axes[0].set_ylabel("cosine with the known template")
    axes[0].set_ylim(-0.03, 1.03)
    words = "random weights, all images"
    untrained = Line2D([], [], color=NEUTRAL, marker="x", linestyle="", label=words)
    _network_legend(figure, names, [untrained])
    return figure


def _count_curve(axis: Axes, each: Block) -> None:
    rows = each.numbers["template"]["by_count"]
    counts = [row["images"] for row in rows]
    curve(axis, counts, [row["unit_trace"] for row in rows], each.network)
    found = block(each.numbers, "untrained_template", "pixels", "unit_trace")
    if bounded(found):
        dots(axis, [counts[-1]], [found], "untrained")


def _rows_figure(
    panels: Sequence[Panel], rows: Sequence[str], height: float, below: float
) -> tuple[Figure, Sequence[Axes]]:
    size = (max(2.7 * len(panels) + 1.9, 8), height * len(rows) + 0.6 + below)
    figure = Figure(figsize=size, layout="constrained")
    axes: Sequence[Axes] = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    label_rows(axes[0], rows)
    return figure, axes


def _finish(axis: Axes, panel: Panel) -> None:
    axis.set_xlabel(panel.label)
    if panel.border is not None:
        axis.axvline(panel.border, color=NEUTRAL, linestyle=":", linewidth=1.1)
    if panel.log:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(numticks=6))
        axis.xaxis.set_minor_locator(NullLocator())
    else:
        axis.xaxis.set_major_locator(MaxNLocator(5))


def stacked(parts: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Rows of a panel from (row, network, interval), in that order.

    >>> stacked([("a", "n", 1), ("b", "n", 2), ("a", "m", 3)])
    {'a': {'n': 1, 'm': 3}, 'b': {'n': 2}}
    """
    rows: dict[str, dict[str, Any]] = {}
    for row, network, found in parts:
        rows.setdefault(row, {})[network] = found
    return rows
