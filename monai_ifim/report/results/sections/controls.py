"""Controls: networks with random weights or shuffled labels, another seed, changed images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monai_ifim.report.results.measured import (
    CONTROL_NETWORKS,
    Result,
    block,
    known,
    measured,
    network_name,
    networks_with,
)
from monai_ifim.report.results.numbers import each, listed, spread
from monai_ifim.report.results.panels import (
    curve,
    dots,
    ends,
    grid,
    label_columns,
    legend,
    level,
    share_axis,
)
from monai_ifim.report.results.sections.section import Section
from monai_ifim.report.results.style import CHANCE, COMPARED, NO_INFORMATION, STYLES
from monai_ifim.report.results.verdicts import UNDECIDED, verdict


class _Row(NamedTuple):
    """A row of panels: the blocks that it shows, and what draws them."""

    blocks: tuple[str, ...]
    draw: Callable[[Sequence[Axes], Axes, Result, dict[str, Any]], None]


def _draw(result: Result) -> Figure | None:
    """Angles between eigenspaces, and AUC of the control networks."""
    parts = networks_with(result, "controls")
    rows = [r for r in ROWS if any(p.get(key) for p in parts.values() for key in r.blocks)]
    if not rows:
        return None
    panels = grid(f"{result['title']}: controls", list(map(network_name, parts)), [1.8] * len(rows))
    for axes, empty, row in zip(panels.rows, panels.legends, rows, strict=True):
        row.draw(axes, empty, result, parts)
    return panels.figure


def _draw_layers(axes: Sequence[Axes], empty: Axes, _: Result, parts: dict[str, Any]) -> None:
    """Angle by which randomised layers turn the eigenspace, and that of another seed."""
    seeds = STYLES["two_seeds"]
    for axis, part in zip(axes, parts.values(), strict=True):
        steps = part.get("layers") or []
        shares = [100 * step["share"] for step in steps]
        curve(axis, shares, [step.get("angle") for step in steps], "random_weights")
        value, low, high = ends([block(part, "two_seeds", "angle")])[:, 0]
        level(axis, value, seeds.colour, "--")
        if np.isfinite([low, high]).all():
            axis.axhspan(low, high, color=seeds.colour, alpha=0.15, linewidth=0)
        level(axis, block(part, "two_seeds", "chance_angle"))
        axis.set_xlabel("% of the parameters\nrandomised, from the top")
        axis.set_xlim(-4, 104)
    axes[0].set_ylabel("largest principal\nangle, degrees")
    axes[0].set_ylim(0, 95)
    legend(empty, ["random_weights"], {seeds.label: (seeds.colour, "--")} | CHANCE)


def _draw_recomputed(axes: Sequence[Axes], empty: Axes, _: Result, parts: dict[str, Any]) -> None:
    """Angle between the eigenspaces of an image and of the changed image."""
    names: dict[str, None] = {}
    for axis, part in zip(axes, parts.values(), strict=True):
        steps = part.get("recomputed") or []
        for name in dict.fromkeys(step["direction"] for step in steps):
            names[name] = None
            mine = [step for step in steps if step["direction"] == name]
            shares = [100 * step["relative_norm"] for step in mine]
            curve(axis, shares, [step.get("angle") for step in mine], name)
        share_axis(axis, "change, % of\nthe image's norm")
    axes[0].set_ylabel("angle to the eigen-\nspace before, degrees")
    axes[0].set_ylim(0, 95)
    legend(empty, names)


def _draw_auc(axes: Sequence[Axes], empty: Axes, result: Result, parts: dict[str, Any]) -> None:
    """AUC of the control networks beside that of the trained one."""
    for axis, (network, part) in zip(axes, parts.items(), strict=True):
        trained = block(result["networks"][network], "training", "auc")
        found = [trained, *(block(part, name, "auc") for name in CONTROL_NETWORKS)]
        for place, (name, auc) in enumerate(zip(COMPARED, found, strict=True)):
            if measured(auc):
                dots(axis, [place], [auc], name)
        level(axis, 0.5)
        label_columns(axis, ["trained", "random\nweights", "shuffled\nlabels"])
    axes[0].set_ylabel("AUC, test set")
    legend(empty, COMPARED, NO_INFORMATION)


ROWS = (
    _Row(("layers", "two_seeds"), _draw_layers),
    _Row(("recomputed",), _draw_recomputed),
    _Row(tuple(CONTROL_NETWORKS), _draw_auc),
)


def _sentences(result: Result) -> Iterator[str]:
    parts = networks_with(result, "controls")
    angles = each(((n, block(p, "two_seeds", "angle")) for n, p in parts.items()), "°")
    if angles:
        yield f"Two trainings that differ in the seed have eigenspaces {angles} apart."
    tops = {n: part["layers"][-1] for n, part in parts.items() if part.get("layers")}
    turned = each(((n, top.get("angle")) for n, top in tops.items()), "°")
    if turned:
        shares = spread([100 * top["share"] for top in tops.values()])
        yield f"With {shares} % of the parameters randomised the eigenspace has turned by {turned}."
    for name, words in CONTROL_NETWORKS.items():
        aucs = [(n, p[name]["auc"]) for n, p in parts.items() if measured(block(p, name, "auc"))]
        if aucs:
            odd = [network_name(n) for n, auc in aucs if verdict(auc, 0.5) != UNDECIDED]
            says = (
                f"**does not contain 0.5 for {listed(odd)}**" if odd else "contains 0.5 everywhere"
            )
            over = "networks" if name == "random_weights" else "test images"
            yield f"The AUC with {words} is {each(aucs)} (over {over}); its interval {says}."
    exact = [a for p in parts.values() if known(a := block(p, "float64", "angle"))]
    if exact:
        yield f"Between float32 and float64 the eigenspace turns by {spread(exact)}° (median)."


CONTROLS = Section(
    name="controls",
    alt="Angles between eigenspaces and AUC of the controls",
    draw=_draw,
    sentences=_sentences,
)
