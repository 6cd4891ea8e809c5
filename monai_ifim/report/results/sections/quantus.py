"""Quantus' metrics of the maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure

from monai_ifim.report.markdown import folded, table
from monai_ifim.report.results.measured import (
    Result,
    block,
    measured,
    network_name,
    networks_with,
)
from monai_ifim.report.results.numbers import interval
from monai_ifim.report.results.panels import dots, grid, heading, label_rows, same_range
from monai_ifim.report.results.sections.section import Section
from monai_ifim.report.results.style import style

_HINTS = {"higher": "\n(high is better)", "lower": "\n(low is better)", "": ""}


def _parts(result: Result) -> dict[str, Any]:
    found = networks_with(result, "quantus")
    return {name: part for name, part in found.items() if block(part, "methods")}


def _names(result: Result, key: str) -> list[str]:
    """Metrics or methods, in the order of the numbers."""
    parts = _parts(result).values()
    return list(dict.fromkeys(name for part in parts for name in block(part, key) or ()))


def _draw(result: Result) -> Figure | None:
    """One row of panels for each metric, one line for each map."""
    parts, methods, metrics = _parts(result), _names(result, "methods"), _names(result, "metrics")
    shown = [m for m in metrics if any(_number(p, x, m) for p in parts.values() for x in methods)]
    if not shown:
        return None
    heights = [0.45 + 0.15 * len(methods)] * len(shown)
    columns = [heading(name, part.get("images")) for name, part in parts.items()]
    panels = grid(f"{result['title']}: maps by the metrics of Quantus", columns, heights)
    for axes, metric in zip(panels.rows, shown, strict=True):
        for axis, part in zip(axes, parts.values(), strict=True):
            for place, method in enumerate(methods):
                dots(axis, [place], [_number(part, method, metric)], method, upright=False)
            axis.set_xlabel(metric.replace("_", " ") + _HINTS[_better(parts, metric)])
        same_range(axes)
        label_rows(axes[0], [style(method).label for method in methods])
    return panels.figure


def _number(part: Any, method: str, metric: str) -> Any:
    number = block(part, "methods", method, metric)
    return number if measured(number) else None


def _better(parts: dict[str, Any], metric: str) -> str:
    return next((block(p, "metrics", metric, "better") or "" for p in parts.values()), "")


def _sentences(result: Result) -> Iterator[str]:
    parts = _parts(result)
    for network, part in parts.items():
        texts = []
        for metric in block(part, "metrics") or ():
            better = _better(parts, metric)
            found = {m: n for m in part["methods"] if (n := _number(part, m, metric))}
            if not better or "ifim" not in found:
                continue
            values = {m: number["value"] for m, number in found.items()}
            own = values["ifim"]
            above = sum(v > own if better == "higher" else v < own for v in values.values())
            texts.append(f"{metric.replace('_', ' ')} {above + 1} of {len(values)}")
        if texts:
            yield f"{network_name(network)}, rank of the iFIM map: {', '.join(texts)}."


def _table(result: Result) -> Iterator[str]:
    metrics = _names(result, "metrics")
    rows = [
        [network_name(network), style(method).label]
        + [interval(_number(part, method, metric)) for metric in metrics]
        for network, part in _parts(result).items()
        for method in part["methods"]
    ]
    header = ["Network", "Map", *[metric.replace("_", " ") for metric in metrics]]
    if rows:
        yield folded("The metrics in numbers", table(header, rows))


def _gaps(result: Result) -> Iterator[str]:
    for network, part in networks_with(result, "quantus").items():
        if part.get("missing"):
            yield f"{network_name(network)}: {part['missing']}"


QUANTUS = Section(
    name="quantus",
    alt="Metrics of Quantus for every map",
    draw=_draw,
    sentences=_sentences,
    below=_table,
    gaps=_gaps,
)
