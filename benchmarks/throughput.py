"""Images per second of prediction, lower bound and ``eigenspace``, and where the time goes.

Meant for a CUDA device, where it also marks NVTX ranges for Nsight; runs on a CPU as well:

    python -m benchmarks.throughput --device cuda --output docs/performance/throughput_cuda.json
    python -m benchmarks.throughput --quick
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.cases import Case, densenet, lower_bound, plain_forward, resnet_3d, tiny, vit
from benchmarks.harness import Cell, Times, interleave, read_options, report, spread, synchronize
from benchmarks.memory import peak_memory
from monai_ifim import eigenspace

# Operations in the table of the profiler.
_SHOWN = 15


@contextmanager
def named(name: str, device: torch.device) -> Iterator[None]:
    """A range of this name in the profiler, and on CUDA in NVTX."""
    with record_function(name):
        if device.type != "cuda":
            yield
            return
        with torch.cuda.nvtx.range(name):
            yield


def ours(network: nn.Module, images: Tensor) -> Tensor:
    """Eigenvalues (B, R)."""
    with named("eigenspace", images.device):
        return eigenspace(network, images).eigenvalues


def least(network: nn.Module, images: Tensor) -> None:
    """The lower_bound."""
    with named("lower bound", images.device):
        lower_bound(network, images)


def predict(network: nn.Module, images: Tensor) -> None:
    """The prediction alone."""
    with named("prediction", images.device):
        plain_forward(network, images)


def cases(quick: bool) -> list[Case]:
    """What is measured; sizes that fill a GPU."""
    if quick:
        return [tiny(32, 3, 2)]
    return [densenet(224, 2, 32), densenet(224, 10, 32), resnet_3d(64, 3, 16), vit(224, 10, 32)]


def measure(case: Case, options: argparse.Namespace) -> list[Cell]:
    """One row."""
    network, images = case.build(options.device)
    methods = {"prediction": predict, "lower bound": least, "eigenspace": ours}
    times = interleave({k: partial(f, network, images) for k, f in methods.items()}, options)
    return [
        case.name,
        *(_rate(times, name, len(images)) for name in methods),
        times.ratio("prediction", "eigenspace"),
        times.ratio("eigenspace", "lower bound"),
        peak_memory(case.build, least, options.device).cell,
        peak_memory(case.build, ours, options.device).cell,
    ]


def _rate(times: Times, name: str, batch: int) -> Cell:
    if name not in times.rounds:
        return times.failures[name]
    return spread([batch / seconds for seconds in times.rounds[name]])


def operations(case: Case, device: torch.device) -> list[list[Cell]]:
    """The operations of one ``eigenspace`` that take most of the device's time."""
    network, images = case.build(device)
    ours(network, images)
    cuda = device.type == "cuda"
    with profile(
        activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])],
        acc_events=True,
    ) as profiler:
        ours(network, images)
        synchronize(device)
    # The kernels and our own ranges are listed as well: they would count the same time again.
    events = [
        (
            event.key,
            event.count,
            event.self_device_time_total if cuda else event.self_cpu_time_total,
        )
        for event in profiler.key_averages()
        if event.device_type == DeviceType.CPU and not event.is_user_annotation
    ]
    total = sum(time for *_, time in events) or 1.0
    leading = sorted(events, key=lambda event: event[2], reverse=True)[:_SHOWN]
    return [[name, count, time / 1e3, 100 * time / total] for name, count, time in leading]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options = read_options(__doc__, argv)
    chosen = cases(options.quick)
    profiled = chosen[min(1, len(chosen) - 1)]
    report(
        options,
        "throughput",
        title="Throughput",
        claim="Images a second of the prediction alone, of the lower bound and of `eigenspace`, "
        "and the share of the prediction's throughput that is left.",
        columns=[
            "network and images",
            "prediction, images/s",
            "lower bound, images/s",
            "`eigenspace`, images/s",
            "share of the prediction's",
            "time to the lower bound's",
            "lower bound, peak MB",
            "`eigenspace`, peak MB",
        ],
        rows=[measure(case, options) for case in chosen],
        tables=[
            {
                "heading": f"Where the time of `eigenspace` goes ({profiled.name}), by "
                "`torch.profiler`:",
                "columns": ["operation", "calls", "self time, ms", "share, %"],
                "rows": operations(profiled, options.device),
            }
        ],
        notes=["`nsys profile python -m benchmarks.throughput --device cuda` shows NVTX ranges."],
    )


if __name__ == "__main__":
    main()
