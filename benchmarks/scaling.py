"""Images a second of one, two and four processes on one machine.

Strong scaling shares a fixed number of images among the processes, weak scaling gives each of them
as many. Both run under torchrun over loopback, with one thread a process, as docs/scaling.md says:

    python -m benchmarks.scaling --output scaling.json

Efficiency is the rate divided by that of one process times the cores that the processes have: more
processes than cores cannot raise the rate, and this says what they lose.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from monai.data import DataLoader, Dataset, DistributedSampler
from monai.engines import SupervisedEvaluator
from monai.networks.nets import DenseNet121

import monai_ifim as mi
from benchmarks.harness import Cell, finish_options, option_parser, report, spread

CLASSES = 3


def work(options: argparse.Namespace) -> None:
    """What every process does: measure both tasks, in step with the others."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    network = DenseNet121(spatial_dims=2, in_channels=1, out_channels=CLASSES)
    tasks = {"strong": options.images, "weak": options.images * processes}
    rates: dict[str, list[float]] = {name: [] for name in tasks}
    evaluate(network, 2 * processes, options.size)  # nothing is warm before
    for _ in range(options.repeats):
        for name, images in tasks.items():
            dist.barrier()
            start = time.perf_counter()
            evaluate(network, images, options.size)
            dist.barrier()  # rank 0 has the rows of all and has written the table
            rates[name].append(images / (time.perf_counter() - start))
    if rank == 0:
        options.result.write_text(json.dumps({n: [tasks[n], rates[n]] for n in tasks}))
    dist.destroy_process_group()


def evaluate(network: torch.nn.Module, images: int, size: int) -> None:
    """A MONAI evaluator with the handler, on images from memory, and its table."""
    data = Dataset([{"image": torch.randn(1, size, size), "label": 0} for _ in range(images)])
    sampler = DistributedSampler(data, even_divisible=False, shuffle=False)
    with tempfile.TemporaryDirectory() as folder:
        SupervisedEvaluator(
            device=torch.device("cpu"),
            val_data_loader=DataLoader(data, batch_size=1, sampler=sampler),
            network=network,
            inferer=mi.IFIMInferer(),
            val_handlers=[mi.IFIMHandler(output_dir=folder)],
        ).run()


def measure(processes: int, options: argparse.Namespace) -> dict[str, tuple[int, list[float]]]:
    """Images, and images a second of each round, of both tasks with so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(processes), "-m", "benchmarks.scaling"]
        command += ["--result", str(result), "--repeats", str(options.repeats)]
        command += ["--images", str(options.images), "--size", str(options.size)]
        done = subprocess.run(
            command,
            cwd=Path(__file__).parents[1],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        if not result.is_file():
            raise RuntimeError(f"no result with {processes} processes: {done.stderr[-3000:]}")
        return json.loads(result.read_text())


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, or be one of the processes that are measured."""
    parser = option_parser(__doc__, repeats=3)
    parser.add_argument("--images", type=int, default=60, help="of strong scaling, in all")
    parser.add_argument("--size", type=int, default=96, help="edge of an image")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    options = finish_options(parser, argv)
    if options.quick:
        options.images, options.size, options.repeats, options.processes = 4, 32, 1, [1, 2]
    if options.result is not None:
        work(options)
        return

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    base: dict[str, float] = {}  # rate of one process
    rows: list[list[Cell]] = []
    for processes in options.processes:
        for name, (images, rates) in measure(processes, options).items():
            base.setdefault(name, spread(rates)[0] / processes)
            used = min(processes, cores or 1)
            efficiency = [rate / used / base[name] for rate in rates]
            rows.append([name, processes, images, spread(rates), spread(efficiency)])
    notes = [
        f"DenseNet121, {options.size}×{options.size}, {CLASSES} classes, batch 1, images from "
        f"memory, gloo over loopback, one thread a process, {options.repeats} rounds.",
        "The time ends when rank 0 has written the table; starting the processes is left out.",
        f"Efficiency: images a second of one process, times the cores in use (the machine has "
        f"{cores}), are 1.",
    ]
    strong = {row[1]: row[3][0] for row in rows if row[0] == "strong"}
    gains = [f"{strong[n] / base['strong']:.2f} times with {n}" for n in options.processes[1:]]
    report(
        options,
        "scaling",
        title="Processes",
        claim=f"Processes on one machine with {cores} cores: images a second rise "
        f"{' and '.join(gains)}.",
        columns=["scaling", "processes", "images", "images/s", "efficiency"],
        rows=rows,
        notes=notes,
    )


if __name__ == "__main__":
    main()
