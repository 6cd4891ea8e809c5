"""Maps: the iFIM's sensitivity beside maps of attribution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monai_ifim.report.markdown import folded, table
from monai_ifim.report.results.measured import (
    Result,
    block,
    measured,
    network_name,
    networks_with,
)
from monai_ifim.report.results.numbers import interval, listed
from monai_ifim.report.results.panels import dots, grid, heading, label_rows, legend, same_range
from monai_ifim.report.results.sections.section import Section
from monai_ifim.report.results.style import METHODS, style

# Key of the number, label of its axis.
NUMBERS = (
    ("rank_correlation", "rank correlation\nwith the iFIM map"),
    ("angle", "angle to the\niFIM map, degrees"),
    ("inside", "share of energy\nin the eigenspace"),
    ("deletion", "deletion area\n(low: pixels matter)"),
    ("insertion", "insertion area\n(high: pixels matter)"),
)
CURVES = (
    ("deletion_curve", "probability,\npixels deleted"),
    ("insertion_curve", "probability,\npixels inserted"),
)


def _draw(result: Result) -> Figure | None:
    """Similarity to the iFIM's map, and what deleting and inserting the pixels does."""
    found = networks_with(result, "maps")
    parts = {name: part for name, part in found.items() if part.get("methods")}
    methods = [block(part, "methods") for part in parts.values()]
    numbers = [(key, label, there) for key, label in NUMBERS if (there := _having(methods, key))]
    curves = [(key, label, there) for key, label in CURVES if (there := _having(methods, key))]
    if not numbers and not curves:
        return None
    heights = [0.45 + 0.17 * len(there) for *_, there in numbers] + [1.6] * len(curves)
    columns = [heading(name, part.get("images")) for name, part in parts.items()]
    title = f"{result['title']}: numbers of maps of sensitivity and attribution"
    panels = grid(title, columns, heights)
    for axes, (key, label, there) in zip(panels.rows, numbers, strict=False):
        _draw_numbers(axes, methods, key, label, there)
    below = slice(len(numbers), None)
    for axes, empty, (key, label, there) in zip(
        panels.rows[below], panels.legends[below], curves, strict=True
    ):
        for axis, part in zip(axes, parts.values(), strict=True):
            _draw_curves(axis, part, key, there)
        axes[0].set_ylabel(label)
        legend(empty, there)
    return panels.figure


def _having(parts: Sequence[Any], key: str) -> list[str]:
    """The methods with such a number for any network."""
    return [method for method in METHODS if any(block(part, method, key) for part in parts)]


def _draw_numbers(
    axes: Sequence[Axes], parts: Sequence[Any], key: str, label: str, methods: Sequence[str]
) -> None:
    for axis, part in zip(axes, parts, strict=True):
        for place, method in enumerate(methods):
            dots(axis, [place], [block(part, method, key)], method, upright=False)
        axis.set_xlabel(label)
    same_range(axes)
    label_rows(axes[0], [style(method).label for method in methods])


def _draw_curves(axis: Axes, part: Any, key: str, methods: Sequence[str]) -> None:
    for method in methods:
        values = block(part, "methods", method, key)
        if not values:
            continue
        shares = part.get("shares")
        if not shares or len(shares) != len(values):
            shares = np.linspace(0, 1, len(values)).tolist()
        _, colour, marker = style(method)
        axis.plot([100 * s for s in shares], values, color=colour, marker=marker, markersize=2.5)
    axis.set_xlabel("% of the pixels")


def _measured_methods(result: Result) -> dict[str, dict[str, Any]]:
    """The numbers of every map, by network and method, where there are some."""
    return {
        name: {method: numbers for method, numbers in methods.items() if numbers}
        for name, methods in networks_with(result, "maps", "methods").items()
    }


def _sentences(result: Result) -> Iterator[str]:
    for network, methods in _measured_methods(result).items():
        texts = []
        same = _values(methods, "rank_correlation")
        if same:
            best = max(same, key=lambda method: same[method]["value"])
            texts.append(f"closest to the iFIM map is {style(best).label}, {interval(same[best])}")
        areas = _values(methods, "deletion")
        if areas:
            best = min(areas, key=lambda method: areas[method]["value"])
            other = "ifim" in areas and best != "ifim"
            own = f", that of the iFIM {interval(areas['ifim'])}" if other else ""
            texts.append(
                f"the smallest deletion area is that of {style(best).label}, "
                f"{interval(areas[best])}{own}"
            )
        if texts:
            yield f"{network_name(network)}: {'; '.join(texts)}."


def _values(methods: dict[str, Any], key: str) -> dict[str, Any]:
    return {m: numbers[key] for m, numbers in methods.items() if measured(numbers.get(key))}


def _table(result: Result) -> Iterator[str]:
    rows = [
        [network_name(network), style(method).label]
        + [interval(numbers.get(key)) for key in ("rank_correlation", "inside")]
        + [interval(numbers.get("angle"), "°")]
        + [interval(numbers.get(key)) for key in ("deletion", "insertion")]
        for network, methods in _measured_methods(result).items()
        for method, numbers in methods.items()
    ]
    header = ["Network", "Map", "Rank correlation with the iFIM map", "Energy in the eigenspace"]
    text = table([*header, "Angle", "Deletion area", "Insertion area"], rows)
    yield folded("The maps in numbers", text)


def _gaps(result: Result) -> Iterator[str]:
    """Methods that some networks have and others have not."""
    parts = _measured_methods(result)
    for method in METHODS:
        lacking = [network_name(name) for name, part in parts.items() if not part.get(method)]
        if 0 < len(lacking) < len(parts):
            yield f"the map of {style(method).label} ({listed(lacking)})"


MAPS = Section(
    name="maps",
    alt="Numbers of the sensitivity map beside those of attribution maps",
    title="Maps, in numbers",
    draw=_draw,
    sentences=_sentences,
    below=_table,
    gaps=_gaps,
)
