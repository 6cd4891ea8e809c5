"""``eigenspace`` against its lower bound.

The lower bound for K classes is one forward pass that keeps its graph plus K - 1 backward passes
to the input, with frozen parameters, in a plain loop.

    python -m benchmarks.lower_bound --output docs/performance/lower_bound.json
    python -m benchmarks.lower_bound --quick        # tiny sizes, as a smoke test
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from benchmarks.cases import (
    Case,
    densenet,
    lower_bound,
    reference,
    relative_error,
    resnet_3d,
    tiny,
    vit,
)
from benchmarks.harness import Cell, interleave, read_options, report
from benchmarks.memory import peak_memory
from monai_ifim import eigenspace

# Keyword arguments of ``eigenspace`` by name; a case may be measured with several.
DEFAULT: Mapping[str, Mapping[str, Any]] = {"": {}}
Variants = Mapping[str, Mapping[str, Any]]

# Images of a case that are compared with float64: it takes several times as long.
COMPARED = 2


def cases(quick: bool) -> list[tuple[Case, Variants]]:
    """What is measured, each with its variants."""
    if quick:
        return [(tiny(32, 3, 2), DEFAULT), (vit(32, 3, 2, hidden=64, layers=1), DEFAULT)]
    return [
        (densenet(224, 2, 1), DEFAULT),
        (densenet(224, 2, 8), DEFAULT),
        (densenet(224, 10, 1), DEFAULT),
        (densenet(224, 10, 8), DEFAULT),
        (resnet_3d(64, 3, 2), DEFAULT),
        (vit(224, 10, 4), DEFAULT),
    ]


def ours(network: nn.Module, images: Tensor, **kwargs: Any) -> Tensor:
    """Eigenvalues (B, R)."""
    return eigenspace(network, images, **kwargs).eigenvalues


def measure(case: Case, variants: Variants, options: argparse.Namespace) -> list[list[Cell]]:
    """One row a variant."""
    network, images = case.build(options.device)
    methods = {name: partial(ours, **kwargs) for name, kwargs in variants.items()}
    times = interleave(
        {
            "lower bound": partial(lower_bound, network, images),
            **{name: partial(method, network, images) for name, method in methods.items()},
        },
        options,
    )
    least = peak_memory(case.build, lower_bound, options.device)
    exact = reference(network, images[:COMPARED]).cpu()
    rows: list[list[Cell]] = []
    for name, method in methods.items():
        peak = peak_memory(case.build, method, options.device)
        rows.append(
            [
                f"{case.name}, {name}" if name else case.name,
                times.spread("lower bound"),
                times.spread(name),
                times.ratio(name, "lower bound"),
                None if peak.failure else relative_error(peak.value, exact),
                least.cell,
                peak.cell,
            ]
        )
    return rows


def _range(rows: Sequence[Sequence[Cell]]) -> str:
    medians = [row[3][0] for row in rows if isinstance(row[3], list)]
    return f"{min(medians):.2f} to {max(medians):.2f}" if medians else "(no case ran)"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options = read_options(__doc__, argv, seconds=20)
    rows = [
        row for case, variants in cases(options.quick) for row in measure(case, variants, options)
    ]
    report(
        options,
        "lower_bound",
        title="Against the lower bound",
        claim=f"`eigenspace` takes {_range(rows)} times as long as the passes that it cannot do "
        "without: one forward pass that keeps its graph and K − 1 backward passes to the input.",
        columns=[
            "network and images",
            "lower bound, s",
            "`eigenspace`, s",
            "ratio",
            "error of λ₁",
            "lower bound, peak MB",
            "`eigenspace`, peak MB",
        ],
        rows=rows,
        notes=[
            "Error of λ₁: relative, against float64, median over the first "
            f"{COMPARED} images of the batch at most.",
            "Peak: beyond network and images, of one call in a process of its own.",
        ],
    )


if __name__ == "__main__":
    main()
