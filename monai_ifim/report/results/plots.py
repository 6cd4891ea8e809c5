"""The figures of one experiment: what its numbers look like, with their intervals."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monai_ifim.report.results.curves import draw_maps, draw_perturbation
from monai_ifim.report.results.measured import (
    Result,
    block,
    known,
    measured,
    network_name,
    networks_with,
    scaled,
)
from monai_ifim.report.results.style import (
    STYLES,
    curve,
    dots,
    ends,
    grid,
    heading,
    legend,
    level,
    same_range,
    save,
    settings,
    share_axis,
)

SCORES = ("trace", "largest_eigenvalue", "entropy", "uncertainty")
FIGURES = ("perturbation", "law", "detection", "agreement", "controls", "maps")
CHANCE = {"chance": ("#444444", ":")}
HALF = {"no information": ("#444444", ":")}


def write_plots(result: Result, folder: Path) -> list[Path]:
    """Draw what an experiment measured, each figure as PNG.

    Args:
        result: of one experiment, as in its ``results.json``.
        folder: of the files ``perturbation``, ``law``, ``detection``, ``agreement``, ``controls``
            and ``maps``; a figure without data is not written.

    Returns:
        The paths of the files.
    """
    draw: dict[str, Callable[[Result], Figure | None]] = {
        "perturbation": draw_perturbation,
        "law": _law,
        "detection": draw_detection,
        "agreement": _agreement,
        "controls": _controls,
        "maps": draw_maps,
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for name in FIGURES:
        with settings():
            figure = draw[name](result)
            if figure is not None:
                paths.append(save(figure, folder / f"{name}.png"))
    return paths


def _law(result: Result) -> Figure | None:
    """Where the quadratic law ends: all networks in each panel, as they have few numbers each."""
    laws = networks_with(result, "law")
    if not laws:
        return None
    counts = sorted({law["images"] for law in laws.values() if known(law.get("images"))})
    images = f" (n = {' or '.join(map(str, counts))} images)" if counts else ""
    shown = [panel for panel in LAW if any(map(panel[1], laws.values()))]
    if not shown:
        return None
    size = (2.65 * len(shown) + 0.8, 1.7 + 0.32 * len(laws))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    title = f"{result['title']}: where KL = ½ dᵀFd ends{images}"
    figure.suptitle("\n".join(textwrap.wrap(title, int(12 * size[0]))), fontsize=10)
    for axis, (label, numbers) in zip(axes, shown, strict=True):
        for place, law in enumerate(laws.values()):
            if numbers is not _split:
                _range(axis, place, numbers(law))
            else:
                right, wrong = block(law, "radius_correct"), block(law, "radius_wrong")
                dots(axis, [place - 0.12], [scaled(right, 100)], "leading", upright=False)
                dots(axis, [place + 0.12], [scaled(wrong, 100)], "leading_reversed", upright=False)
        share_axis(axis, label)
    axes[0].set_yticks(range(len(laws)), map(network_name, laws))
    axes[0].set_ylim(len(laws) - 0.5, -0.5)
    return figure


def _errors(law: Any) -> list[float]:
    return _positive([block(law, "float64_error", key) for key in ("median", "worst")])


def _shares(law: Any) -> list[float]:
    return _positive(block(law, "radius", "relative_to_image_norm"), 100)


def _lengths(law: Any) -> list[float]:
    return _positive(block(law, "radius", "fisher_length"))


def _split(law: Any) -> list[float]:
    values = [block(law, name, "value") for name in ("radius_correct", "radius_wrong")]
    return [value for value in values if known(value) and value > 0]


def _positive(numbers: Sequence[Any] | None, scale: float = 1) -> list[float]:
    """Numbers for a logarithmic axis: what it cannot show is NaN; nothing if that is all."""
    found = [scale * x if known(x) and x > 0 else np.nan for x in numbers or []]
    return found if np.isfinite(found).any() else []


LAW: tuple[tuple[str, Callable[[Any], list[float]]], ...] = (
    ("relative error, float64\n(dot: median, line to the worst)", _errors),
    ("radius, % of the images' norm\n(5, 25, 50, 75, 95 % of images)", _shares),
    ("radius · √λ₁\n(5, 25, 50, 75, 95 % of images)", _lengths),
    ("median radius, % of the norm,\nprediction right (●), wrong (×)", _split),
)


def _range(axis: Axes, place: float, values: Sequence[float]) -> None:
    """Percentiles as a box: thin to the outer ones, thick between the inner ones, a dot inside."""
    colour = STYLES["leading"].colour
    if len(values) == 5:
        axis.plot([values[1], values[3]], [place] * 2, color=colour, linewidth=5, alpha=0.4)
    if len(values) >= 2:
        axis.plot([values[0], values[-1]], [place] * 2, color=colour)
        axis.plot([values[2 if len(values) == 5 else 0]], [place], color=colour, marker="o")


def draw_detection(result: Result) -> Figure | None:
    """AUC of four scores for wrong predictions and for changed images."""
    parts = networks_with(result, "detection")
    events: dict[str, None] = {}
    for part in parts.values():
        events |= {"wrong prediction": None} if part.get("error_auc") else {}
        events |= dict.fromkeys(part.get("corruption_auc") or {})
    if not events:
        return None
    wrong = [
        f"images\n{p['errors']} of them wrong" if known(p.get("errors")) else "images"
        for p in parts.values()
    ]
    columns = [
        heading(n, p.get("images"), w) for (n, p), w in zip(parts.items(), wrong, strict=True)
    ]
    panels = grid(
        f"{result['title']}: telling wrong predictions and changed images by one number",
        columns,
        [0.9 + 0.42 * len(events)],
    )
    for axis, part in zip(panels.rows[0], parts.values(), strict=True):
        found = {"wrong prediction": part.get("error_auc"), **(part.get("corruption_auc") or {})}
        for place, event in enumerate(events):
            for offset, score in zip((-0.27, -0.09, 0.09, 0.27), SCORES, strict=True):
                dots(axis, [place + offset], [block(found.get(event), score)], score, upright=False)
        axis.axvline(0.5, color="#444444", linestyle=":", linewidth=1.1)
        axis.set_xlabel("AUC")
    same_range(panels.rows[0])
    panels.rows[0][0].set_yticks(range(len(events)), [event.replace("_", " ") for event in events])
    panels.rows[0][0].set_ylim(len(events) - 0.5, -0.5)
    legend(panels.legends[0], SCORES, HALF)
    return panels.figure


def _agreement(result: Result) -> Figure | None:
    parts = networks_with(result, "agreement")
    if not parts:
        return None
    sizes = any(part.get("by_training_size") for part in parts.values())
    columns = [heading(name, part.get("images")) for name, part in parts.items()]
    template = "ideal templates" if _exact(result) else "best linear templates"
    heights = [1.9, 1.8, 1.8] if sizes else [1.9]
    panels = grid(f"{result['title']}: agreement with the {template}", columns, heights)
    for i, (name, part) in enumerate(parts.items()):
        _trained_and_controls(panels.rows[0][i], part, result["networks"][name].get("controls"))
        if sizes:
            steps = part.get("by_training_size") or []
            number = [step["images"] for step in steps]
            above, below = panels.rows[1][i], panels.rows[2][i]
            curve(above, number, [step.get("cosine") for step in steps], "trained")
            level(above, part.get("chance"))
            curve(below, number, [step.get("auc") for step in steps], "trained")
            level(below, block(result, "task", "ideal", "auc"), line="--")
            for axis in (above, below):
                share_axis(axis, "training images")
    panels.rows[0][0].set_ylabel("smallest principal\ncosine, median")
    panels.rows[0][0].set_ylim(-0.05, 1.05)
    legend(panels.legends[0], ["trained", "random_weights", "shuffled_labels"], CHANCE | TENTHS)
    if sizes:
        panels.rows[1][0].set_ylabel("smallest principal\ncosine, median")
        panels.rows[1][0].set_ylim(-0.05, 1.05)
        panels.rows[2][0].set_ylabel("AUC, test set")
        legend(panels.legends[1], ["trained"], CHANCE)
        best = "ideal observer" if _exact(result) else "best linear\nobserver"
        line = {best: ("#444444", "--")} if block(result, "task", "ideal") else {}
        legend(panels.legends[2], ["trained"], line)
    return panels.figure


TENTHS = {"10 to 90 %\nof the images": ("#D55E00", "-")}


def _trained_and_controls(axis: Axes, part: Any, controls: Any) -> None:
    """Cosine of the trained network beside those of networks that cannot know the template."""
    percentiles = part.get("percentiles")
    if percentiles:
        axis.plot([-0.25] * 2, [percentiles[0], percentiles[-1]], color=STYLES["trained"].colour)
    dots(axis, [0], [part.get("cosine")], "trained")
    dots(axis, [1], [block(controls, "random_weights", "cosine")], "random_weights")
    dots(axis, [2], [block(controls, "shuffled_labels", "cosine")], "shuffled_labels")
    level(axis, part.get("chance"))
    axis.set_xlim(-0.6, 2.6)
    axis.set_xticks([0, 1, 2], ["trained", "random\nweights", "shuffled\nlabels"], fontsize=7)


def _exact(result: Result) -> bool:
    return bool(block(result, "task", "known_answer") == "exact")


def _controls(result: Result) -> Figure | None:
    parts = networks_with(result, "controls")
    drawn: list[tuple[float, Callable[..., None]]] = [
        (1.8, line)
        for keys, line in CONTROLS.items()
        if any(part.get(key) for part in parts.values() for key in keys)
    ]
    if not drawn:
        return None
    panels = grid(
        f"{result['title']}: controls", list(map(network_name, parts)), [h for h, _ in drawn]
    )
    for row, empty, (_, line) in zip(panels.rows, panels.legends, drawn, strict=True):
        line(row, empty, result, parts)
    return panels.figure


def _layers(row: Sequence[Axes], empty: Axes, result: Result, parts: dict[str, Any]) -> None:
    for axis, part in zip(row, parts.values(), strict=True):
        steps = part.get("layers") or []
        shares = [100 * step["share"] for step in steps]
        curve(axis, shares, [step.get("angle") for step in steps], "random_weights")
        value, low, high = ends([block(part, "two_seeds", "angle")])[:, 0]
        level(axis, value, STYLES["two_seeds"].colour, "--")
        if np.isfinite([low, high]).all():
            axis.axhspan(low, high, color=STYLES["two_seeds"].colour, alpha=0.15, linewidth=0)
        level(axis, block(part, "two_seeds", "chance_angle"))
        axis.set_xlabel("% of the parameters\nrandomised, from the top")
        axis.set_xlim(-4, 104)
    row[0].set_ylabel("largest principal\nangle, degrees")
    row[0].set_ylim(0, 95)
    seeds = {"another seed": (STYLES["two_seeds"].colour, "--")}
    legend(empty, ["random_weights"], seeds | {"chance": ("#444444", ":")})


def _recomputed(row: Sequence[Axes], empty: Axes, result: Result, parts: dict[str, Any]) -> None:
    names: dict[str, None] = {}
    for axis, part in zip(row, parts.values(), strict=True):
        steps = part.get("recomputed") or []
        names |= dict.fromkeys(step["direction"] for step in steps)
        for name in dict.fromkeys(step["direction"] for step in steps):
            mine = [step for step in steps if step["direction"] == name]
            shares = [100 * step["relative_norm"] for step in mine]
            curve(axis, shares, [step.get("angle") for step in mine], name)
        share_axis(axis, "change, % of\nthe image's norm")
    row[0].set_ylabel("angle to the eigen-\nspace before, degrees")
    row[0].set_ylim(0, 95)
    legend(empty, names)


def _labels(row: Sequence[Axes], empty: Axes, result: Result, parts: dict[str, Any]) -> None:
    names = ["trained", "random_weights", "shuffled_labels"]
    for axis, (network, part) in zip(row, parts.items(), strict=True):
        trained = block(result["networks"][network], "training", "auc")
        found = [trained, *(block(part, name, "auc") for name in names[1:])]
        for place, (name, auc) in enumerate(zip(names, found, strict=True)):
            if measured(auc):
                dots(axis, [place], [auc], name)
        level(axis, 0.5)
        axis.set_xlim(-0.6, 2.6)
        axis.set_xticks([0, 1, 2], ["trained", "random\nweights", "shuffled\nlabels"], fontsize=7)
    row[0].set_ylabel("AUC, test set")
    legend(empty, names, HALF)


CONTROLS: dict[tuple[str, ...], Callable[..., None]] = {
    ("layers", "two_seeds"): _layers,
    ("recomputed",): _recomputed,
    ("random_weights", "shuffled_labels"): _labels,
}
