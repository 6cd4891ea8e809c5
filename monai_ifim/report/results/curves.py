"""The figures with curves over changes of an image: perturbation, deletion and insertion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from monai_ifim.report.results.measured import (
    Result,
    block,
    known,
    measured,
    networks_with,
    scaled,
)
from monai_ifim.report.results.style import (
    curve,
    dots,
    grid,
    heading,
    legend,
    level,
    logarithmic,
    same_range,
    share_axis,
    style,
)

MASKS = tuple(
    f"{name}_mask"
    for name in ("gradient", "integrated_gradients", "smoothgrad", "grad_cam", "occlusion")
)
SPACES = (
    "leading",
    "leading_reversed",
    "random_in_eigenspace",
    "random",
    "band_limited",
    "random_in_complement",
)
TAKEN = ("attenuate_high", "attenuate_orth", *MASKS)
PAIRS = ("random_in_eigenspace", "random_in_complement", "attenuate_high", "attenuate_orth")
LAW = ("leading", "random_in_eigenspace")  # whose predicted curve is drawn beside the measured one
# Quantity, label of the axis, directions, factor.
ROWS = (
    ("divergence", "mean KL, nats", SPACES, 1),
    ("divergence", "mean KL, nats", TAKEN, 1),
    ("ratio", "ratio of the\nmean KL", (), 1),
    (
        "probability_change",
        "change of the\nprobability",
        ("leading", "leading_reversed", *PAIRS),
        1,
    ),
    ("flip_rate", "predictions\nflipped, %", ("leading", *PAIRS), 100),
    ("auc", "AUC of\nthese images", ("leading", *PAIRS), 1),
)
METHODS = ("ifim", "gradient", "integrated_gradients", "smoothgrad", "grad_cam", "occlusion")


def draw_perturbation(result: Result) -> Figure | None:
    """What changes of equal norm do to the predictions.

    Args:
        result: of one experiment.

    Returns:
        One column a network, or None where nothing was measured.
    """
    parts = networks_with(result, "perturbation")
    parts = {name: part for name, part in parts.items() if _shares(part)}
    rows = [row for row in ROWS if any(_has(part, *row[::2]) for part in parts.values())]
    if not rows:
        return None
    columns = [heading(name, part.get("images")) for name, part in parts.items()]
    title = f"{result['title']}: changes of equal norm inside and outside the eigenspace"
    panels = grid(title, columns, [1.75 if row[0] == "divergence" else 1.25 for row in rows])
    for axes, empty, (quantity, label, names, factor) in zip(
        panels.rows, panels.legends, rows, strict=True
    ):
        last = axes is panels.rows[-1]
        for axis, part in zip(axes, parts.values(), strict=True):
            if quantity == "ratio":
                _ratios(axis, part)
            else:
                _directions(axis, part, quantity, names, factor)
            share_axis(axis, "change, % of\nthe image's norm" if last else None)
            axis.set_xlim(*_limits(list(parts.values())))
            axis.tick_params(labelbottom=last)
        axes[0].set_ylabel(label)
        _finish(axes, empty, parts, quantity, names)
    return panels.figure


def _has(part: Any, quantity: str, names: Sequence[str]) -> bool:
    if quantity == "ratio":
        return bool(part.get("ratios"))
    return any(block(part, "directions", name, quantity) for name in names)


def _shares(part: Any) -> list[float]:
    """Norms of the changes in per cent of the images' norm."""
    norm = part.get("image_norm")
    return [100 * e / norm for e in part.get("norms") or []] if known(norm) and norm > 0 else []


def _limits(parts: list[Any]) -> tuple[float, float]:
    shares = [share for part in parts for share in _shares(part)]
    return min(shares) / 1.3, max(shares) * 1.3


def _directions(axis: Axes, part: Any, quantity: str, names: Sequence[str], factor: float) -> None:
    shares = _shares(part)
    for name in names:
        values = block(part, "directions", name, quantity)
        if values:
            curve(axis, shares, [scaled(value, factor) for value in values], name)
        law = block(part, "directions", name, "quadratic")
        if quantity == "divergence" and name in LAW and law:
            axis.plot(shares, law, color=style(name).colour, linestyle="--", linewidth=0.9)


def _ratios(axis: Axes, part: Any) -> None:
    steps = part.get("ratios") or []
    for rows, kind in ((steps, "random"), (part.get("attenuation") or [], "attenuation")):
        mine = [step for step in rows if measured(step.get(kind))]
        places = [100 * step["relative_norm"] for step in mine]
        if mine:
            dots(axis, places, [step[kind] for step in mine], f"ratio_{kind}")
    level(axis, 1)


def _finish(
    axes: Sequence[Axes], empty: Axes, parts: dict[str, Any], quantity: str, names: Sequence[str]
) -> None:
    """Vertical axis and legend of a row."""
    shown = [n for n in names if any(_has(part, quantity, [n]) for part in parts.values())]
    lines: dict[str, tuple[str, str]] = {}
    if quantity == "divergence":
        logarithmic(axes, 9)
        lines = {"½ dᵀFd (predicted)": ("#444444", "--")} if set(LAW) & set(shown) else {}
    elif quantity == "ratio":
        axes[0].set_yscale("log")
        axes[0].yaxis.set_major_locator(LogLocator(numticks=5))
        if axes[0].get_ylim()[1] < 1e4:
            axes[0].yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        shown, lines = ["ratio_random", "ratio_attenuation"], {"no difference": ("#444444", ":")}
    elif quantity == "probability_change":
        for axis in axes:
            level(axis, 0)
    legend(empty, shown, lines)


def draw_maps(result: Result) -> Figure | None:
    """The iFIM's sensitivity map beside maps of attribution.

    Args:
        result: of one experiment.

    Returns:
        One column a network, or None where nothing was measured.
    """
    parts = networks_with(result, "maps", "methods")
    if not parts:
        return None
    dotted = [row for row in DOTS if _methods(parts, row[0])]
    curves = [row for row in CURVES if _methods(parts, row[0])]
    if not dotted and not curves:
        return None
    heights = [0.45 + 0.17 * len(_methods(parts, key)) for key, _ in dotted] + [1.6] * len(curves)
    columns = [heading(name, block(result["networks"], name, "maps", "images")) for name in parts]
    panels = grid(f"{result['title']}: maps of sensitivity and attribution", columns, heights)
    for axes, (key, label) in zip(panels.rows, dotted, strict=False):
        _map_dots(axes, list(parts.values()), key, label, _methods(parts, key))
    rest = slice(len(dotted), None)
    for axes, empty, (key, label) in zip(
        panels.rows[rest], panels.legends[rest], curves, strict=True
    ):
        for axis, name in zip(axes, parts, strict=True):
            _map_curves(axis, result["networks"][name]["maps"], key, _methods(parts, key))
        axes[0].set_ylabel(label)
        legend(empty, _methods(parts, key))
    return panels.figure


DOTS = (
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


def _methods(parts: dict[str, Any], key: str) -> list[str]:
    """The methods with such a number for any network."""
    return [m for m in METHODS if any(block(part, m, key) for part in parts.values())]


def _map_dots(
    axes: Sequence[Axes], parts: Sequence[Any], key: str, label: str, methods: Sequence[str]
) -> None:
    for axis, part in zip(axes, parts, strict=True):
        for place, method in enumerate(methods):
            dots(axis, [place], [block(part, method, key)], method, upright=False)
        axis.set_xlabel(label)
    same_range(axes)
    axes[0].set_yticks(range(len(methods)), [style(method).label for method in methods])
    axes[0].set_ylim(len(methods) - 0.5, -0.5)


def _map_curves(axis: Axes, maps: Any, key: str, methods: Sequence[str]) -> None:
    for method in methods:
        values = block(maps, "methods", method, key)
        if not values:
            continue
        shares = maps.get("shares")
        if not shares or len(shares) != len(values):
            shares = np.linspace(0, 1, len(values)).tolist()
        _, colour, marker = style(method)
        axis.plot([100 * s for s in shares], values, color=colour, marker=marker, markersize=2.5)
    axis.set_xlabel("% of the pixels")
