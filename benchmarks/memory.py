"""Peak memory of one call, in a process of its own.

On a CPU it is the growth of the process's largest resident size, so nothing else may have run in
that process. The processes are forked from a server that has the imports done and has computed
nothing: a fork costs a fraction of a second, an import of MONAI several.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.harness import reason, synchronize

# What a method would otherwise import while its memory is measured.
_PRELOAD = (
    "torch._dynamo",
    "monai.engines",
    "monai.networks.nets",
    "monai.visualize",
    "monai_ifim",
    "captum.attr",
    "scipy.sparse.linalg",
    "plenoptic",
    "curvlinops",
    "nngeometry.metrics",
)

Build = Callable[[torch.device], tuple[Any, ...]]


@dataclass(frozen=True)
class Peak:
    """What one call needed and gave.

    Attributes:
        megabytes: growth of the peak over what network and images need (MB of 10⁶ bytes); None
            when it failed.
        value: what the call returned: a tensor comes as nested lists.
        failure: the reason when it failed.
    """

    megabytes: float | None
    value: Any = None
    failure: str | None = None

    @property
    def cell(self) -> float | str | None:
        """For a table."""
        return self.megabytes if self.failure is None else self.failure


def peak_memory(build: Build, run: Callable[..., Any], device: torch.device) -> Peak:
    """Run ``run(*build(device))`` in a process of its own.

    Args:
        build: makes what the call needs, usually ``case.build``; can be pickled.
        run: the call; can be pickled (a function of a module, or a ``partial`` of one).
        device: where.

    Returns:
        The memory that the call needed beyond what ``build`` left, and what it returned.
    """
    context = multiprocessing.get_context("forkserver")
    names = [name for name in _PRELOAD if find_spec(name.split(".")[0]) is not None]
    context.set_forkserver_preload(names)
    ours, theirs = context.Pipe(duplex=False)
    threads = torch.get_num_threads()
    process = context.Process(target=_measure, args=(theirs, build, run, device, threads))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:  # most likely the system's out-of-memory killer
        process.join()
        return Peak(None, failure=f"failed: the process ended with status {process.exitcode}")
    finally:
        ours.close()
        process.join()


def _measure(
    connection: Connection,
    build: Build,
    run: Callable[..., Any],
    device: torch.device,
    threads: int,
) -> None:
    torch.set_num_threads(threads)
    try:
        state = build(device)
        if device.type == "cuda":
            synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        before = _peak(device)
        value = run(*state)
        synchronize(device)
        growth = (_peak(device) - before) / 1e6
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().tolist()
        connection.send(Peak(growth, value))
    except Exception as error:
        connection.send(Peak(None, failure=reason(error)))


def _peak(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
