"""``eigenspace`` beside other tools, on the same networks and images.

    python -m benchmarks.peers --output docs/performance/peers.json
    python -m benchmarks.peers --quick        # tiny sizes, as a smoke test

Peers that are not installed are reported as that; ``make bench-peers`` installs them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from benchmarks.cases import (
    Case,
    densenet,
    lower_bound,
    reference,
    relative_error,
    resnet_2d,
    resnet_3d,
    tiny,
    vit,
)
from benchmarks.harness import Cell, interleave, read_options, report
from benchmarks.memory import peak_memory
from benchmarks.page import cell
from benchmarks.peer_methods import METHODS

LOWER_BOUND = "lower bound"
COSTLY = "not run"
ABSENT = "not installed"


def cases(quick: bool) -> list[tuple[Case, bool]]:
    """What is measured, and whether the costly methods are as well."""
    if quick:
        return [(tiny(32, 3, 1, confidence=1 - 1e-5), True)]
    return [
        (densenet(224, 2, 1), False),
        (densenet(224, 10, 1), False),
        (densenet(224, 2, 4), False),
        (densenet(224, 10, 2), False),
        (resnet_3d(40, 3, 2), False),
        (vit(224, 10, 2, hidden=384), False),
        (resnet_2d(64, 3, 1, confidence=1 - 1e-5), True),
    ]


@dataclass
class Measured:
    """Cells of one case by method."""

    ratio: dict[str, Cell] = field(default_factory=dict)
    memory: dict[str, Cell] = field(default_factory=dict)
    leading: dict[str, Cell] = field(default_factory=dict)
    smallest: dict[str, Cell] = field(default_factory=dict)
    seconds: Cell = None


def measure(case: Case, costly: bool, options: argparse.Namespace) -> Measured:
    """Time, memory and error of every method on one case."""
    found = Measured()
    exact = reference(*case.build(options.device)).cpu()
    found.memory[LOWER_BOUND] = peak_memory(case.build, lower_bound, options.device).cell
    runnable = []
    for name, method, package, hundreds in METHODS:
        if not _installed(package):
            found.ratio[name] = ABSENT
        elif hundreds and not costly:
            found.ratio[name] = COSTLY
        else:
            peak = peak_memory(case.build, method, options.device)
            found.memory[name] = peak.cell
            if peak.failure:
                found.ratio[name] = peak.failure
                continue
            found.leading[name] = relative_error(peak.value, exact)
            found.smallest[name] = relative_error(peak.value, exact, -1)
            runnable.append((name, method))
    network, images = case.build(options.device)
    functions = {LOWER_BOUND: partial(lower_bound, network, images)}
    functions |= {name: partial(method, network, images) for name, method in runnable}
    times = interleave(functions, options)
    found.seconds = times.spread(LOWER_BOUND)
    found.ratio |= {name: times.ratio(name, LOWER_BOUND) for name, _ in runnable}
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write, and draw the bars beside the file."""
    options = read_options(__doc__, argv, repeats=3, seconds=20)
    chosen = cases(options.quick)
    columns = {case.name: measure(case, costly, options) for case, costly in chosen}
    names = [name for name, *_ in METHODS]

    def rows(cells: str, first: Sequence[str] = ()) -> list[list[Cell]]:
        parts = [getattr(measured, cells) for measured in columns.values()]
        return [[name, *(part.get(name) for part in parts)] for name in (*first, *names)]

    figure = None if options.output is None else options.output.with_suffix(".png")
    seconds = [f"{LOWER_BOUND}, s", *(measured.seconds for measured in columns.values())]
    record = report(
        options,
        "peers",
        title="Beside other tools",
        claim=_claim(columns.values()),
        columns=["method", *columns],
        rows=[seconds, *rows("ratio")],
        tables=[
            {"heading": heading, "columns": ["method", *columns], "rows": cells}
            for heading, cells in (
                ("Peak MB beyond network and images:", rows("memory", [LOWER_BOUND])),
                ("Relative error of λ₁, median over the images:", rows("leading")),
                ("Relative error of the smallest eigenvalue λ_{K−1}:", rows("smallest")),
            )
        ],
        notes=[
            "Methods get the network as training leaves it: in eval mode, with parameters that "
            "require gradients. The algebra after the gradients is in float64 for all.",
            "“Not run”: these methods cost so many passes that only the small case has them.",
            "Peak memory is that of one call in a process of its own; errors are those of float32 "
            "against float64.",
            "1 − p: the predicted class has the probability p; elsewhere predictions are nearly "
            "uniform.",
            "plenoptic works on 2√p, whose JᵀJ is F. curvlinops and nngeometry know parameters "
            "only: the image was made the one parameter, or the weight of a linear layer.",
            "VanillaGrad takes one image at a time and leaves gradients in the parameters.",
        ],
        packages=[package for _, _, package, _ in METHODS if package],
        **({} if figure is None else {"figure": figure.name}),
    )
    if figure is not None:
        draw(record["columns"], record["rows"], figure)


def _claim(columns: Iterable[Measured]) -> str:
    """What the ratios say: where ours is the fastest, and how near the best of the others is."""
    own, nearest = METHODS[0][0], []
    for measured in columns:
        medians = {n: c[0] for n, c in measured.ratio.items() if isinstance(c, list)}
        mine = medians.pop(own, None)
        if mine is not None and medians:
            nearest.append(min(medians.values()) / mine)
    text = (
        "Time of other ways to the same eigenvalues, as ratio to the lower bound (one forward pass "
    )
    text += "that keeps its graph and K − 1 backward passes to the input)."
    if nearest:
        text += f" `eigenspace` is the fastest in {sum(n > 1 for n in nearest)} of {len(nearest)} "
        text += f"cases; the best other takes {min(nearest):.2f} to {max(nearest):.2f} times as "
        text += "long."
    return text


def _installed(package: str | None) -> bool:
    try:
        return package is None or distribution(package) is not None
    except PackageNotFoundError:
        return False


def draw(columns: Sequence[str], rows: Sequence[Sequence[Cell]], path: Path) -> None:
    """Bars of the ratios, one panel a case, on a logarithmic axis."""
    from matplotlib.figure import Figure

    cases = list(columns[1:])
    methods = list(rows[1:])
    width = 2 + 1.7 * len(cases)
    figure = Figure(figsize=(width, 0.8 + 0.27 * len(methods)), layout="constrained")
    panels = figure.subplots(1, len(cases), sharey=True, sharex=True, squeeze=False)[0]
    medians = [c[0] for row in methods for c in row if isinstance(c, list)] or [1.0]
    left = 0.7 * min(medians)  # so that the shortest bar shows
    for number, (panel, case) in enumerate(zip(panels, cases, strict=True), start=1):
        panel.set_title(case.replace(", ", ",\n", 1), fontsize=7)
        panel.set_xscale("log")
        panel.axvline(1, color="0.4", linewidth=0.8)
        for place, row in enumerate(methods):
            value = row[number]
            if isinstance(value, list):
                color = "tab:orange" if place == 0 else "tab:blue"
                panel.barh(place, value[0] - left, left=left, color=color)
                panel.text(value[0] * 1.06, place, cell(value[0]), va="center", fontsize=6)
            elif value is not None:
                reason = str(value).partition(":")[0]
                panel.text(left * 1.1, place, reason, va="center", fontsize=6, color="0.5")
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(methods)), [str(row[0]).replace("`", "") for row in methods])
    panels[0].invert_yaxis()
    panels[0].set_xlim(left, 3 * max(*medians, 3))  # room for the numbers beside the bars
    panels[0].xaxis.set_major_formatter("{x:g}")
    figure.supxlabel("time, ratio to the lower bound", fontsize=8)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
