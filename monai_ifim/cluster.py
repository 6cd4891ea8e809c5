"""A run on many machines with Ray Data, which keeps them busy and outlives those that are lost.

The journals in the output folder say what is done; Ray hands out the batches. On one machine the
shards of ``monai-ifim run --shard`` need nothing of this.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from monai_ifim.data.run_folder.folder import RunFolder
from monai_ifim.data.run_folder.lock import FolderLock
from monai_ifim.data.run_folder.part_folder import ENGINE, close_run
from monai_ifim.data.run_folder.signals import TerminationSignal
from monai_ifim.messages import reason
from monai_ifim.runs.composition import batch_size_of, compose
from monai_ifim.runs.images import Inputs, find_inputs, images_of_run
from monai_ifim.runs.options import RunOptions
from monai_ifim.runs.progress import Progress
from monai_ifim.runs.summary import RunSummary, summary_of_rows
from monai_ifim.runs.worker import Work, Worker

logger = logging.getLogger(__name__)

_BLOCKS = 10_000  # that Ray handles well
_BATCHES = 32  # in one block at the most, by itself
_WAIT = 120  # seconds for the workers' processes to be there


def run_on_ray(  # noqa: PLR0913 - as run_bundle, and what the cluster is
    bundle: str | os.PathLike[str],
    inputs: Inputs,
    output: str | os.PathLike[str],
    options: RunOptions | None = None,
    ids: Mapping[str, Any] | None = None,
    *,
    address: str | None = None,
    processes: int | None = None,
    block: int | None = None,
    progress: bool = True,
) -> RunSummary:
    """Run a bundle's inference with the components on files, in many processes of a Ray cluster.

    The results are those of ``run_bundle``, byte for byte. A machine or a process that is lost
    costs the images that were in its work, which others do; an image that takes its process with
    it three times gets a row. All machines need the package and the disks of this one. What ends
    this process ends the run: ``resume`` goes on with it.

    Args:
        bundle: its folder.
        inputs: images, or folders that are searched for them.
        output: folder of the results.
        options: choices; None leaves the bundle's own.
        ids: of the configuration or the overlay, with what they are set to.
        address: of a Ray cluster, ``"auto"`` for the one that this machine belongs to; None for
            this machine alone, reached by no other. A cluster that this process is connected to is
            taken, and stays.
        processes: each on a GPU of its own, or on one CPU where the cluster has no GPU; as many as
            there are by default.
        block: batches that a process gets at once; 10 to 60 seconds of work are good.
        progress: show on standard error how far it is.

    Returns:
        What it came to.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        FileNotFoundError: no bundle there, or no such input.
        ValueError: no image was found, a choice that cannot be, or results of another run.
        RuntimeError: another run is writing to the folder.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the table of what is done is written before.
    """
    options = replace(options or RunOptions(), shard=None)
    if options.existing == "move":
        raise ValueError(
            "expected existing='refuse' with Ray, got 'move'; choose another output folder"
        )
    for name, number in (("processes", processes), ("block", block)):
        if number is not None and number < 1:
            raise ValueError(f"expected 1 or more as {name}, got {number}; leave it out")
    place = Path(os.path.abspath(output))
    found = find_inputs(inputs)
    images = images_of_run(found, place, divided=True)
    folder = Path(os.path.abspath(bundle))
    batches = math.ceil(len(images) / (options.batch_size or batch_size_of(compose(folder))))
    work = Work(folder, images, place, options, dict(ids or {}))
    start, error = time.monotonic(), ""
    notes: tuple[str, ...] = ()
    with _at_work(place, bool(options.resume)), _connected(address) as ray:
        shown = Progress(len(images))
        try:
            for done, failed, told in _results(ray, work, batches, processes, block):
                notes = told
                if progress:
                    shown.show(done + failed, failed)
        except Exception as problem:  # of a worker, or of Ray
            error = reason(_cause(problem))
            logger.debug("the run ended early", exc_info=True)
        finally:
            if progress:
                shown.clear()
            merged = close_run(place, "ifim.csv", error)
    seconds = time.monotonic() - start
    return summary_of_rows(
        () if merged is None else merged.rows,
        images,
        place / "ifim.csv",
        notes=notes,
        seconds=seconds,
        error=error,
    )


@contextmanager
def _at_work(place: Path, resume: bool) -> Iterator[None]:
    """The folder is this run's; a signal ends it as Ctrl-C does."""
    RunFolder(place, "ifim.csv", resume=resume).check()
    lock, signal = FolderLock(place, ENGINE), TerminationSignal()
    lock.acquire()
    signal.catch()
    try:
        yield
    finally:
        signal.release()
        lock.release()


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Ray; without an address on loopback alone, and without its reports to its makers."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray

        import_module("ray.data")  # has requirements of its own
    except ImportError as error:
        raise ModuleNotFoundError(
            f"expected Ray, got none ({error}); pip install 'monai_ifim[cluster]', or run shards "
            "with --shard, which need nothing",
            name="ray",
        ) from error
    ours = not ray.is_initialized()
    if ours:
        here: dict[str, Any] = {"_node_ip_address": "127.0.0.1"} if address is None else {}
        ray.init(
            address="local" if address is None else address,
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **here,
        )
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _results(
    ray: Any, work: Work, batches: int, processes: int | None, block: int | None
) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """Images done and failed so far, and what was done."""
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    count = processes or gpus or max(int(resources.get("CPU", 1)), 1)
    by_itself = max(1, min(_BATCHES, batches // (4 * count)))
    size = max(block or by_itself, math.ceil(batches / _BLOCKS))
    starts = range(0, batches, size)
    # The last block is open: a batch sampler of the bundle's own may make more of them.
    items = [{"start": s, "stop": s + size if s != starts[-1] else 2**62} for s in starts]
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.wait_for_min_actors_s = _WAIT
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # Inside a dictionary: as an argument itself it would be lost with the first actor.
    shared = {"work": ray.put(work)}
    data = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Actor,
        fn_constructor_args=(shared,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(count, len(items))),
        **({"num_gpus": 1} if gpus else {"num_cpus": 1}),
    )
    done = failed = 0
    notes: tuple[str, ...] = ()
    for batch in data.iter_batches(batch_size=None, prefetch_batches=0):
        done += int(batch["done"].sum())
        failed += int(batch["failed"].sum())
        notes = tuple(str(batch["notes"][0]).splitlines())
        yield done, failed, notes


class _Actor:
    """A worker in a process of Ray's."""

    def __init__(self, shared: dict[str, Any]) -> None:
        import warnings

        import ray
        import torch

        warnings.simplefilter("ignore")
        logging.getLogger("monai_ifim").setLevel(logging.ERROR)
        if not ray.get_gpu_ids():
            torch.set_num_threads(1)  # one CPU each
        self._worker = Worker(ray.get(shared["work"]))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        result = self._worker.do(int(batch["start"][0]), int(batch["stop"][0]))
        notes = "\n".join(result.notes)
        return {"done": [result.done], "failed": [result.failed], "notes": [notes]}


def _cause(error: BaseException) -> BaseException:
    """What a worker raised, out of what Ray wraps around it."""
    while True:
        inner = getattr(error, "cause", None) or error.__cause__
        if not isinstance(inner, BaseException):
            return error
        error = inner
