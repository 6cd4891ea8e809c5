"""Agreement: the angle between the eigenspace and a template that is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monai_ifim.report.markdown import table
from monai_ifim.report.results.measured import (
    CONTROL_NETWORKS,
    Result,
    block,
    cells,
    entry,
    known,
    measured,
    network_name,
    networks_with,
)
from monai_ifim.report.results.numbers import ABSENT, count, each, interval, number, spread
from monai_ifim.report.results.panels import (
    curve,
    dots,
    grid,
    heading,
    label_columns,
    legend,
    level,
    share_axis,
)
from monai_ifim.report.results.sections.section import Section
from monai_ifim.report.results.style import CHANCE, COMPARED, NEUTRAL, STYLES
from monai_ifim.report.results.verdicts import FAILS, HOLDS, compare, verdict

TENTHS = {"10 to 90 %\nof the images": (STYLES["trained"].colour, "-")}
COSINE = "smallest principal\ncosine, median"


def _exact(result: Result) -> bool:
    """Whether the template is the ideal observer's."""
    return bool(block(result, "task", "known_answer") == "exact")


def _has_template(result: Result) -> bool:
    return bool(block(result, "task", "known_answer"))


def _draw(result: Result) -> Figure | None:
    """Cosines beside those of control networks, and by the number of training images."""
    parts = networks_with(result, "agreement")
    if not parts:
        return None
    sizes = any(part.get("by_training_size") for part in parts.values())
    columns = [heading(name, part.get("images")) for name, part in parts.items()]
    template = "ideal templates" if _exact(result) else "best linear templates"
    heights = [1.9, 1.8, 1.8] if sizes else [1.9]
    panels = grid(f"{result['title']}: agreement with the {template}", columns, heights)
    for axis, (name, part) in zip(panels.rows[0], parts.items(), strict=True):
        _draw_cosines(axis, part, result["networks"][name].get("controls"))
    panels.rows[0][0].set_ylabel(COSINE)
    panels.rows[0][0].set_ylim(-0.05, 1.05)
    legend(panels.legends[0], COMPARED, CHANCE | TENTHS)
    if sizes:
        _draw_sizes(panels.rows[1:], panels.legends[1:], result, list(parts.values()))
    return panels.figure


def _draw_cosines(axis: Axes, part: Any, controls: Any) -> None:
    """Cosine of the trained network beside those of networks that cannot know the template."""
    percentiles = part.get("percentiles")
    if percentiles:
        axis.plot([-0.25] * 2, [percentiles[0], percentiles[-1]], color=STYLES["trained"].colour)
    found = [part.get("cosine"), *(block(controls, name, "cosine") for name in CONTROL_NETWORKS)]
    for place, (name, cosine) in enumerate(zip(COMPARED, found, strict=True)):
        dots(axis, [place], [cosine], name)
    level(axis, part.get("chance"))
    label_columns(axis, ["trained", "random\nweights", "shuffled\nlabels"])


def _draw_sizes(
    rows: Sequence[Sequence[Axes]], legends: Sequence[Axes], result: Result, parts: Sequence[Any]
) -> None:
    """Cosine and AUC by the number of training images."""
    for above, below, part in zip(*rows, parts, strict=True):
        steps = part.get("by_training_size") or []
        sizes = [step["images"] for step in steps]
        curve(above, sizes, [step.get("cosine") for step in steps], "trained")
        level(above, part.get("chance"))
        curve(below, sizes, [step.get("auc") for step in steps], "trained")
        level(below, block(result, "task", "ideal", "auc"), line="--")
        for axis in (above, below):
            share_axis(axis, "training images")
    rows[0][0].set_ylabel(COSINE)
    rows[0][0].set_ylim(-0.05, 1.05)
    rows[1][0].set_ylabel("AUC, test set")
    legend(legends[0], ["trained"], CHANCE)
    best = "ideal observer" if _exact(result) else "best linear\nobserver"
    legend(
        legends[1], ["trained"], {best: (NEUTRAL, "--")} if block(result, "task", "ideal") else {}
    )


def _sentences(result: Result) -> Iterator[str]:
    parts = networks_with(result, "agreement")
    ideal = "ideal observer's templates"
    template = ideal if _exact(result) else "best linear template (not the ideal one)"
    cosines = each((n, part.get("cosine")) for n, part in parts.items())
    chance = [part["chance"] for part in parts.values() if known(part.get("chance"))]
    if cosines:
        at_random = f"; chance is {spread(chance)}" if chance else ""
        yield f"The median smallest principal cosine with the {template} is {cosines}{at_random}."
    for network, part in parts.items():
        steps = [s for s in part.get("by_training_size") or [] if measured(s.get("cosine"))]
        if len(steps) > 1:
            first, last = steps[0], steps[-1]
            yield (
                f"{network_name(network)}: {interval(first['cosine'])} with {first['images']} "
                f"training images, {interval(last['cosine'])} with {last['images']}."
            )


def _overview(results: list[Result]) -> str:
    """Cosines with the known template, beside those of networks that cannot know it."""
    rows = []
    for result, network, part in cells(results, "agreement"):
        controls = block(result["networks"][network], "controls")
        others = [block(controls, name, "cosine") for name in CONTROL_NETWORKS]
        low, high = entry(part.get("percentiles"), 0), entry(part.get("percentiles"), 2)
        row = [result["title"], network_name(network)]
        row += ["ideal" if _exact(result) else "best linear"]
        row += [count(part.get("images")), interval(part.get("cosine"))]
        row += [f"{number(low)} to {number(high)}", number(part.get("chance"))]
        rows.append([*row, *map(interval, others)])
        rows[-1].append(_above_controls(part.get("cosine"), others, part.get("chance")))
    header = ["Task", "Network", "Template", "Images", "Median cosine", "10 to 90 % of the images"]
    header += ["Chance", "Random weights", "Shuffled labels", "Above chance and both controls"]
    return table(header, rows)


def _above_controls(trained: Any, controls: Sequence[Any], chance: Any) -> str:
    """Whether the trained network's interval lies above chance and all controls that were run.

    Args:
        trained: its interval.
        controls: intervals of the control networks, None for one that was not run.
        chance: the cosine of directions drawn at random.

    Returns:
        The words of the table.
    """
    if known(chance) and verdict(trained, chance) != HOLDS:
        return "**no**, not above chance"
    words = [compare(trained, other) for other in controls]
    words = [word for word in words if word != ABSENT]
    if not words:
        return "no control"
    if all(word == HOLDS for word in words):
        return "yes" if len(words) == len(controls) else "yes (one control)"
    return "**no**" if FAILS in words else "**undecided**"


AGREEMENT = Section(
    name="agreement",
    alt="Cosines with the known template",
    draw=_draw,
    sentences=_sentences,
    overview=_overview,
    applies=_has_template,
)
