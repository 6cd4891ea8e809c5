"""Segmentation networks: what the leading eigenpairs cost, and how far off they are.

python -m benchmarks.segmentation --output docs/performance/segmentation.json
python -m benchmarks.segmentation --quick        # tiny sizes, as a smoke test
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from monai.networks.nets import SegResNet, UNet
from torch import Tensor, nn

from benchmarks.cases import frozen
from benchmarks.harness import Cell, read_options, report, timed
from monai_ifim import eigenspace

CLASSES, RANK = 3, 5
SIZES = {2: (96, 96), 3: (32, 32, 32)}
TINY = {2: (8, 12), 3: (4, 8, 6)}


def unet(dims: int, quick: bool) -> nn.Module:
    """MONAI's UNet."""
    if quick:
        return UNet(dims, 1, CLASSES, channels=(4, 8), strides=(2,), num_res_units=1)
    return UNet(dims, 1, CLASSES, channels=(16, 32, 64, 128), strides=(2, 2, 2), num_res_units=2)


def segresnet(dims: int, quick: bool) -> nn.Module:
    """MONAI's SegResNet."""
    if quick:
        return SegResNet(
            dims, 8, in_channels=1, out_channels=CLASSES, blocks_down=(1, 1), blocks_up=(1,)
        )
    return SegResNet(dims, 8, in_channels=1, out_channels=CLASSES)


def lower_bound(network: nn.Module, images: Tensor) -> None:
    """One forward pass with its graph and one backward pass to the input."""
    with frozen(network):
        x = images.detach().requires_grad_()
        logits = network(x)
        torch.autograd.grad(logits, x, torch.ones_like(logits))


def dense_error(network: nn.Module, shape: tuple[int, ...], rank: int) -> float:
    """Largest relative error of the leading eigenvalues against a dense J in float64."""
    network = network.double().requires_grad_(False)
    image = torch.randn(1, 1, *shape, dtype=torch.float64, generator=torch.Generator())
    logits = network(image)[0].flatten(1)
    jacobian = torch.autograd.functional.jacobian(lambda x: network(x)[0], image)
    jacobian = jacobian.reshape(*logits.shape, -1)
    p = logits.softmax(dim=0)
    scores = jacobian - (p[:, :, None] * jacobian).sum(dim=0)
    weighted = (p.sqrt()[:, :, None] * scores).flatten(0, 1)
    exact = torch.linalg.svdvals(weighted).square()[:rank]
    ours = eigenspace(network, image, rank=rank).eigenvalues[0]
    return float(((ours - exact) / exact).abs().max())


def row(kind: str, dims: int, options: object, quick: bool) -> list[Cell]:
    """One network."""
    device = options.device  # type: ignore[attr-defined]
    size = TINY[dims] if quick else SIZES[dims]
    make = {"UNet": unet, "SegResNet": segresnet}[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, tiny = make(dims, quick).eval(), make(dims, True).eval()
        images = torch.randn(1, 1, *size)
    network, images = network.to(device), images.to(device)
    timed(lambda: lower_bound(network, images), device)
    least = min(timed(lambda: lower_bound(network, images), device) for _ in range(3))
    start = time.perf_counter()
    space = eigenspace(network, images, rank=RANK)
    taken = time.perf_counter() - start
    made = space.approximation
    assert made is not None
    longer = eigenspace(network, images, rank=RANK, tolerance=1e-4).eigenvalues
    return [
        f"{kind} {'×'.join(map(str, size))}",
        least,
        taken,
        taken / least,
        made.vector_jacobian_products,
        made.jacobian_vector_products,
        float(made.residual.max()),
        float(((space.eigenvalues - longer) / longer).abs().max()),
        float(made.trace_error[0] / space.trace[0]),
        dense_error(tiny, TINY[dims], RANK),
    ]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options = read_options(__doc__, argv)
    kinds = ["UNet"] if options.quick else ["UNet", "SegResNet"]
    rows = [row(kind, dims, options, options.quick) for kind in kinds for dims in (2, 3)]
    worst = max(max(r[7], r[9]) for r in rows)
    report(
        options,
        "segmentation",
        title="Segmentation networks",
        claim=f"The {RANK} leading eigenpairs of a segmentation (a softmax at every voxel, "
        f"{CLASSES} classes) come with eigenvalues within {worst:.0e}.",
        columns=[
            "network and image",
            "one forward and backward, s",
            f"`rank={RANK}`, s",
            "ratio",
            "backward passes",
            "Jacobian-vector products",
            "stated residual",
            "error against tolerance 1e-4",
            "standard error of the trace",
            "error against dense J",
        ],
        rows=rows,
        notes=[
            "Random weights, one image of noise. The dense J, in float64, is of a smaller network "
            "of the same kind and a tiny image "
            f"({', '.join('×'.join(map(str, s)) for s in TINY.values())}).",
            "Eight of the backward passes are probes of the trace; its standard error is relative.",
        ],
    )


if __name__ == "__main__":
    main()
