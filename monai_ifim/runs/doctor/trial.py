"""What one image costs: it is tried."""

from __future__ import annotations

import ctypes
import gc
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events

from monai_ifim.bundle.classifier import Inferred
from monai_ifim.core import eigenspace
from monai_ifim.inferers import IFIMInferer
from monai_ifim.messages import reason
from monai_ifim.runs.bundle import run_composition
from monai_ifim.runs.composition import compose, set_images, set_options
from monai_ifim.runs.doctor.machine import in_bytes
from monai_ifim.runs.images import FoundImages
from monai_ifim.runs.options import RunOptions

_TIMES = 3  # of the first one is not counted: it fills caches


@dataclass(frozen=True)
class Trial:
    """What one image costs.

    Attributes:
        what: was tried.
        seconds: for one image after the first.
        memory: bytes at the most, beyond what the process had before.
        problem: why there is no result; empty where there is one.
    """

    what: str
    seconds: float = 0.0
    memory: int = 0
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"tried: {self.what}: {self.problem}"
        many = 1000 * self.seconds
        told = f"{many:.0f} s" if many < 120 else f"{many / 60:.0f} min"
        return (
            f"tried: {self.what}: {self.seconds:.3g} s an image (1,000 images: about {told}), "
            f"{in_bytes(self.memory)} of memory on top"
        )


def try_image(folder: str | os.PathLike[str], images: FoundImages, options: RunOptions) -> Trial:
    """Run a bundle on one image, several times.

    Args:
        folder: of the bundle.
        images: of which the first is tried.
        options: of the run.

    Returns:
        What it costs, with reading and writing.
    """
    first = replace(images, images=images.images[:1] * _TIMES, left_out="")
    what = str(images.images[0] if isinstance(images.images[0], str) else images.images[0][0])
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        composition = compose(folder)
        set_images(composition, first, Path(place))
        set_options(composition, replace(options, batch_size=1))
        composition.workflow.initialize()
        evaluator = composition.workflow.parser.get_parsed_content("evaluator")
        evaluator.add_event_handler(
            Events.ITERATION_COMPLETED, lambda: ends.append(time.perf_counter())
        )
        with memory_of(evaluator.state.device) as peak:
            summary = run_composition(composition, evaluator, first)
    problem = summary.error or next(iter(summary.failed.values()), "")
    if problem or len(ends) < 2:
        return Trial(what, problem=problem or "the run ended before it was measured")
    return Trial(what, (ends[-1] - ends[0]) / (len(ends) - 1), peak[0])


def try_random(evaluator: Any, handler: Any, channels: int, shape: tuple[int, ...]) -> Trial:
    """Form the eigenspace of one random image, several times.

    Args:
        evaluator: of the bundle.
        handler: its ``IFIMHandler``.
        channels: of the image.
        shape: its spatial axes.

    Returns:
        What it costs, without reading and writing.
    """
    size = "x".join(map(str, (channels, *shape)))
    what = f"a random image of {size} without reading and writing"
    device = evaluator.state.device
    inferer = evaluator.inferer
    inferer = inferer.inferer if isinstance(inferer, IFIMInferer) else inferer
    network = Inferred(evaluator.network, inferer)
    image = torch.rand(1, channels, *shape, device=device)
    seconds = 0.0
    with memory_of(device) as peak:
        for _ in range(_TIMES):
            start = time.perf_counter()
            try:
                space = eigenspace(network, image, **_keywords(handler.options))
                space.split(image)
            except Exception as error:  # networks raise what they like
                return Trial(what, problem=reason(error))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - start
    return Trial(what, seconds, peak[0])


@contextmanager
def memory_of(device: torch.device) -> Iterator[list[int]]:
    """Measure how much more memory is used at the most than before.

    Args:
        device: whose memory; a CPU's is that of this process.

    Yields:
        A list with the bytes as its only item, once the block has ended.
    """
    peak = [0]
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak[0] = torch.cuda.max_memory_allocated(device) - before
        return
    _give_back()
    before, ended = _resident(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            peak[0] = max(peak[0], _resident() - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
        peak[0] = max(peak[0], _resident() - before)
    finally:
        ended.set()
        watcher.join()


def _give_back() -> None:
    """Let the system have what was freed, which would otherwise be taken again unnoticed."""
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):  # of glibc alone
        ctypes.CDLL(None).malloc_trim(0)


def _resident() -> int:
    """Bytes that this process has in memory."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # not Linux: the most so far
        import resource
        import sys

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _keywords(options: Any) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__dataclass_fields__}
