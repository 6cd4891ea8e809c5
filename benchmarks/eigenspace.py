"""Time of ``eigenspace`` against its floor.

The floor for K classes is one forward pass that keeps its graph plus K - 1 backward passes to the
input. Both are timed in turn in one process; the ratio of the medians is printed:

    python benchmarks/eigenspace.py
    python benchmarks/eigenspace.py --quick        # tiny sizes, as a smoke test
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from monai.networks.nets import DenseNet121, resnet18
from torch import Tensor, nn

from monai_ifim import eigenspace


def floor(network: nn.Module, images: Tensor, classes: int) -> None:
    """One forward and K - 1 input-only backward passes, nothing else."""
    x = images.detach().requires_grad_()
    logits = network(x)
    for c in range(1, classes):
        torch.autograd.grad((logits[:, c] - logits[:, 0]).sum(), x, retain_graph=True)


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of one call."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def cases(quick: bool) -> list[tuple[str, nn.Module, tuple[int, ...], int]]:
    """Name, network, shape of the batch, classes."""
    flat, cube = (64, 24) if quick else (224, 64)
    result: list[tuple[str, nn.Module, tuple[int, ...], int]] = []
    for classes, batch in [(2, 1), (2, 8), (10, 1), (10, 8)][: 1 if quick else 4]:
        network = DenseNet121(2, 1, classes)
        name = f"DenseNet121 {flat}x{flat}, K={classes}, batch {batch}"
        result.append((name, network, (batch, 1, flat, flat), classes))
    network3d = resnet18(spatial_dims=3, n_input_channels=1, num_classes=3)
    name = f"ResNet-18 {cube}x{cube}x{cube}, K=3, batch 2"
    return [*result, (name, network3d, (2, 1, cube, cube, cube), 3)]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    print(f"{where}, {os.cpu_count()} cores, torch {torch.__version__}")
    for name, network, shape, classes in cases(options.quick):
        network.eval().requires_grad_(False).to(device)
        images = torch.randn(shape, device=device)
        ours: list[float] = []
        least: list[float] = []
        for repeat in range((1 if options.quick else options.repeats) + 1):
            a = seconds(lambda n=network, x=images, k=classes: floor(n, x, k), device)
            b = seconds(lambda n=network, x=images: eigenspace(n, x), device)
            if repeat:  # the first one warms up
                least.append(a)
                ours.append(b)
        median, base = statistics.median(ours), statistics.median(least)
        print(f"{name:42s} floor {base:7.3f} s  eigenspace {median:7.3f} s  {median / base:5.2f}")


if __name__ == "__main__":
    main()
