"""Law: how exactly KL = ½ dᵀFd holds for small changes, and where it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monai_ifim.report.markdown import table
from monai_ifim.report.results.measured import (
    Result,
    block,
    cells,
    entry,
    known,
    network_name,
    networks_with,
    scaled,
)
from monai_ifim.report.results.numbers import count, each, interval, listed, number, percent, spread
from monai_ifim.report.results.panels import dots, label_rows, set_title, share_axis
from monai_ifim.report.results.sections.section import Section
from monai_ifim.report.results.style import STYLES


class _Panel(NamedTuple):
    """One panel: its label, the numbers of a network, and how they are drawn in its row."""

    label: str
    numbers: Callable[[Any], list[float]]
    draw: Callable[[Axes, int, Any], None]


def _draw(result: Result) -> Figure | None:
    """Error and reach of the law: all networks in each panel, as they have few numbers each."""
    laws = networks_with(result, "law")
    shown = [p for p in PANELS if any(_positive(p.numbers(law)) for law in laws.values())]
    if not shown:
        return None
    counts = sorted({law["images"] for law in laws.values() if known(law.get("images"))})
    images = f" (n = {' or '.join(map(str, counts))} images)" if counts else ""
    size = (2.65 * len(shown) + 0.8, 1.7 + 0.32 * len(laws))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    set_title(figure, f"{result['title']}: where KL = ½ dᵀFd ends{images}")
    for axis, panel in zip(axes, shown, strict=True):
        for place, law in enumerate(laws.values()):
            panel.draw(axis, place, law)
        share_axis(axis, panel.label)
    label_rows(axes[0], list(map(network_name, laws)))
    return figure


def _errors(law: Any) -> list[float]:
    return _known([block(law, "float64_error", key) for key in ("median", "worst")])


def _shares(law: Any) -> list[float]:
    return _known(block(law, "radius", "relative_to_image_norm"), 100)


def _lengths(law: Any) -> list[float]:
    return _known(block(law, "radius", "fisher_length"))


def _right_and_wrong(law: Any) -> list[float]:
    return _known([block(law, name, "value") for name in ("radius_correct", "radius_wrong")])


def _known(numbers: Sequence[Any] | None, scale: float = 1) -> list[float]:
    """The numbers that are known, NaN for others; nothing where none is."""
    found = [scale * x if known(x) else np.nan for x in numbers or []]
    return found if np.isfinite(found).any() else []


def _positive(numbers: Sequence[float]) -> list[float]:
    """Those that a logarithmic axis can show."""
    return [x for x in numbers if x > 0]


def _percentiles(numbers: Callable[[Any], list[float]]) -> Callable[[Axes, int, Any], None]:
    """Percentiles as a box: thin to the outer ones, thick between the inner ones, a dot inside.

    A logarithmic axis has no 0: lines begin at the smallest positive percentile then, and the panel
    says how many are 0.
    """

    def draw(axis: Axes, place: int, law: Any) -> None:
        colour, values = STYLES["leading"].colour, numbers(law)
        zeros = sum(x == 0 for x in values)
        shown = [x if x > 0 else np.nan for x in values]
        positive = _positive(values)
        if len(shown) == 5:
            inner = _positive(shown[1:4])
            axis.plot(
                [min(inner), max(inner)] if inner else [],
                [place] * (2 if inner else 0),
                color=colour,
                linewidth=5,
                alpha=0.4,
            )
        if len(shown) >= 2:
            if positive:
                axis.plot([min(positive), max(positive)], [place] * 2, color=colour)
            axis.plot([shown[2 if len(shown) == 5 else 0]], [place], color=colour, marker="o")
        if zeros:
            some = "smallest" if zeros == 1 else f"{zeros} smallest"
            words = "all 0" if zeros == len(values) else f"{some}: 0"
            where = axis.get_yaxis_transform()
            axis.text(0.02, place - 0.18, words, transform=where, fontsize=7, va="bottom")

    return draw


def _draw_right_and_wrong(axis: Axes, place: int, law: Any) -> None:
    right, wrong = block(law, "radius_correct"), block(law, "radius_wrong")
    dots(axis, [place - 0.12], [scaled(right, 100)], "leading", upright=False)
    dots(axis, [place + 0.12], [scaled(wrong, 100)], "leading_reversed", upright=False)


PANELS = (
    _Panel(
        "relative error, float64\n(dot: median, line to the worst)", _errors, _percentiles(_errors)
    ),
    _Panel(
        "radius, % of the images' norm\n(5, 25, 50, 75, 95 % of images)",
        _shares,
        _percentiles(_shares),
    ),
    _Panel("radius · √λ₁\n(5, 25, 50, 75, 95 % of images)", _lengths, _percentiles(_lengths)),
    _Panel(
        "median radius, % of the norm,\nprediction right (●), wrong (×)",
        _right_and_wrong,
        _draw_right_and_wrong,
    ),
)


def _sentences(result: Result) -> Iterator[str]:
    laws = networks_with(result, "law")
    worst = [w for law in laws.values() if known(w := block(law, "float64_error", "worst"))]
    if worst:
        yield f"In float64 the worst relative error of the law at small norms is {spread(worst)}."
    errors = {n: block(law, "float64_error") or {} for n, law in laws.items()}
    off = [
        f"{network_name(n)} {error['above_one_percent']} of {error['eigenpairs']}"
        for n, error in errors.items()
        if error.get("above_one_percent")
    ]
    if off:
        yield (
            f"Eigenpairs that are more than 1 % off: {listed(off)}. Such images lie on a kink of "
            "the network, where one gradient does not describe it (entries that tie in "
            "max-pooling, as in constant regions, or a ReLU at 0), or curvature counts even at "
            "this step."
        )
    shares = [block(law, "radius", "relative_to_image_norm") for law in laws.values()]
    middle = [share[2] for share in shares if share and known(share[2])]
    if middle:
        low, high = percent(min(middle)), percent(max(middle))
        reach = low if low == high else f"{low} to {high}"
        yield (
            f"The law holds to 10 % up to a change of {reach} of the image's norm (median over the "
            "images)."
        )
    sure = each((n, law.get("radius_confidence")) for n, law in laws.items())
    if sure:
        yield f"Spearman's correlation of this radius with the largest probability is {sure}."


def _overview(results: list[Result]) -> str:
    """How exact the quadratic law is, and how far it reaches."""
    rows = []
    for result, network, law in cells(results, "law"):
        error, radius = block(law, "float64_error"), block(law, "radius")
        shares = block(radius, "relative_to_image_norm")
        low, middle, high = (percent(entry(shares, index)) for index in (0, 2, 4))
        rows.append(
            [
                result["title"],
                network_name(network),
                count(law.get("images")),
                number(block(error, "median")),
                number(block(error, "worst")),
                number(entry(block(radius, "percentiles"), 2)),
                f"{middle} ({low} to {high})",
                number(entry(block(radius, "fisher_length"), 2)),
                interval(law.get("radius_confidence")),
                interval(scaled(law.get("radius_correct"), 100), " %"),
                interval(scaled(law.get("radius_wrong"), 100), " %"),
            ]
        )
    header = ["Task", "Network", "Images", "Median error", "Worst error", "Median radius"]
    header += ["Share of the image's norm, median (5 to 95 %)", "Median radius · √λ₁"]
    header += ["Spearman of radius and confidence"]
    return table([*header, "Radius, prediction right", "Radius, prediction wrong"], rows)


LAW = Section(
    name="law",
    alt="Error and reach of the quadratic law",
    draw=_draw,
    sentences=_sentences,
    overview=_overview,
)
