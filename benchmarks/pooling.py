"""``pooled_eigenspace`` against the passes that it cannot do without.

The lower bound for K classes is one forward pass that keeps its graph plus K - 1 backward passes
to the input, for each batch, in a plain loop.

    python -m benchmarks.pooling --output docs/performance/pooling.json
    python -m benchmarks.pooling --quick        # tiny sizes, as a smoke test
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.cases import Case, densenet, lower_bound, resnet_3d, tiny
from benchmarks.harness import Cell, interleave, read_options, report
from monai_ifim import pooled_eigenspace

BATCHES = 4


def cases(quick: bool) -> list[Case]:
    """What is measured."""
    if quick:
        return [tiny(32, 3, 2)]
    return [densenet(64, 2, 16), densenet(224, 2, 8), densenet(64, 10, 16), resnet_3d(64, 3, 2)]


def passes(network: nn.Module, batches: Sequence[Tensor]) -> None:
    """Forward and backward passes of every batch, and nothing else."""
    for batch in batches:
        lower_bound(network, batch)


def measure(case: Case, options: argparse.Namespace) -> list[Cell]:
    """One row."""
    network, images = case.build(options.device)
    generator = torch.Generator(images.device).manual_seed(0)
    noise = [
        torch.randn(images.shape, generator=generator, device=images.device) for _ in range(BATCHES)
    ]
    batches = [images + 0.1 * each for each in noise]
    times = interleave(
        {
            "passes": lambda: passes(network, batches),
            "unit traces": lambda: pooled_eigenspace(network, batches),
            "equal weights": lambda: pooled_eigenspace(network, batches, weights="equal"),
        },
        options,
    )
    return [
        case.name,
        times.spread("passes"),
        times.spread("unit traces"),
        times.ratio("unit traces", "passes"),
        times.ratio("equal weights", "passes"),
    ]


def _range(rows: Sequence[Sequence[Cell]]) -> str:
    medians = [row[3][0] for row in rows if isinstance(row[3], list)]
    return f"{min(medians):.2f} to {max(medians):.2f}" if medians else "(no case ran)"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options = read_options(__doc__, argv, seconds=60)
    rows = [measure(case, options) for case in cases(options.quick)]
    report(
        options,
        "pooling",
        title="Pooling",
        claim=f"`pooled_eigenspace` takes {_range(rows)} times as long as the passes that it "
        "cannot do without, one forward and K − 1 backward passes a batch.",
        columns=[
            "network and images of a batch",
            "passes, s",
            "`pooled_eigenspace`, s",
            "ratio",
            "ratio, equal weights",
        ],
        rows=rows,
        notes=[
            f"{BATCHES} batches, with the split halves, the mean Jacobian and a sketch of the "
            "default size.",
            "The passes are torch's; ours take the faster input gradient of convolutions where it "
            "is faster, as `eigenspace` does, which shows for volumes.",
        ],
    )


if __name__ == "__main__":
    main()
