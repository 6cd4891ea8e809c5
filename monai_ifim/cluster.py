"""A run on many machines with Ray Data, which keeps them busy and outlives those that are lost.

The journals in the output folder say what is done; Ray hands out the batches. On one machine the
shards of ``monai-ifim run --shard`` need nothing of this.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from monai_ifim.bundle import scripts_of
from monai_ifim.data.run_folder.folder import RunFolder
from monai_ifim.data.run_folder.lock import PATIENCE, FolderLock, refuse_parts
from monai_ifim.data.run_folder.part_folder import ENGINE, close_run
from monai_ifim.data.signals import StopSignals
from monai_ifim.messages import reason
from monai_ifim.runs.bundle import setting_up
from monai_ifim.runs.composition import batch_size_of, compose_run, process_restored
from monai_ifim.runs.images import Inputs, images_of_run
from monai_ifim.runs.options import RunOptions
from monai_ifim.runs.progress import Progress
from monai_ifim.runs.summary import RunSummary, summary_of_rows
from monai_ifim.runs.worker import BlockResult, Work, Worker

logger = logging.getLogger(__name__)

_BLOCKS = 10_000  # that Ray handles well
_BATCHES = 32  # in one block at the most, by itself
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_NO_CLUSTER = "start it with ray start --head, or leave out --address"
# Of Ray Data, during a run. Seconds for the workers' processes to be there; no block may be lost.
_SETTINGS = {
    "enable_progress_bars": False,
    "wait_for_min_actors_s": 120,
    "max_errored_blocks": 0,
}


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
        ValueError: no image was found, a choice that cannot be, results of another run, or no
            cluster at the address.
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
    images = images_of_run(inputs, place, divided=True)
    work = Work(Path(os.path.abspath(bundle)), images, place, options, dict(ids or {}))
    batches = math.ceil(len(images) / _batch_size(work))
    start, so_far, error = time.monotonic(), _SoFar(), ""
    shown = Progress(len(images)) if progress else None
    with (
        _imported(address) as ray,
        _at_work(place, bool(options.resume)) as signals,
        ExitStack() as connection,
    ):
        connection.enter_context(_connected(ray, address))
        count, resources = _processes(ray, processes, fixed=address is None)
        try:
            for so_far in _results(ray, work, _blocks(batches, count, block), count, resources):
                if shown is not None:
                    shown.show(so_far.done + so_far.failed, so_far.failed, so_far.earlier)
                signals.check()
                if so_far.error:
                    break
            error = so_far.error
        except BaseException as raised:  # Ray's, or a signal
            problem = signals.reason_for(raised)
            error = reason(problem)
            if not isinstance(problem, Exception):
                raise problem from problem.__cause__
            logger.debug("the run ended early", exc_info=True)
        finally:
            if shown is not None:
                shown.clear()
            with signals.writing():
                connection.close()  # the workers end before their journals are read
                merged = close_run(place, "ifim.csv", error)
    rows, table = () if merged is None else merged.rows, place / "ifim.csv"
    seconds = time.monotonic() - start
    summary = summary_of_rows(rows, images, table, notes=so_far.notes, seconds=seconds, error=error)
    return replace(summary, earlier=so_far.earlier)


@dataclass(frozen=True)
class _SoFar:
    """What the workers came to so far.

    Attributes:
        done: images with a result.
        failed: images without.
        notes: on what is done, a line each.
        error: of a worker, which ends the run; empty where there is none.
        earlier: of the images, those that earlier runs did.
    """

    done: int = 0
    failed: int = 0
    notes: tuple[str, ...] = ()
    error: str = ""
    earlier: int = 0


def _batch_size(work: Work) -> int:
    """How many images a batch has; the bundle is composed here, so that errors are told early."""
    with scripts_of(work.bundle), process_restored(), setting_up(work.bundle):
        return batch_size_of(
            compose_run(work.bundle, work.images, work.output, work.options, work.ids)
        )


@contextmanager
def _at_work(place: Path, resume: bool) -> Iterator[StopSignals]:
    """The folder is this run's; a signal ends it, as Ctrl-C does."""
    RunFolder(place, "ifim.csv", resume=resume).check()
    whole, lock, signals = FolderLock(place), FolderLock(place, ENGINE), StopSignals(patience=0)
    whole.acquire()  # a run as a whole would hold it
    try:
        refuse_parts(place, PATIENCE)  # workers outlive a killed driver by some seconds
        lock.acquire()
    finally:
        whole.release()
    signals.catch()
    with ExitStack() as after:
        after.callback(lock.release)
        after.callback(signals.release)
        yield signals


@contextmanager
def _imported(address: str | None) -> Iterator[Any]:
    """Ray, with an environment that keeps it to itself while it is used."""
    chosen = {"RAY_USAGE_STATS_ENABLED": "0"}  # no reports to its makers
    if address is None:
        chosen[_CLUSTERS] = "0"  # all ports on loopback
    if not logger.isEnabledFor(logging.DEBUG):
        chosen["RAY_BACKEND_LOG_LEVEL"] = "fatal"  # what its core writes past Python's logging
    # Ray sets a debugger of its own for the whole process.
    before = {name: os.environ.get(name) for name in (*chosen, "PYTHONBREAKPOINT")}
    os.environ.update({name: value for name, value in chosen.items() if before[name] is None})
    try:
        try:
            import ray

            import_module("ray.data")  # has requirements of its own
        except ImportError as error:
            raise ModuleNotFoundError(
                f"expected Ray, got none ({error}); pip install 'monai_ifim[cluster]', or run "
                "shards with --shard, which need nothing",
                name="ray",
            ) from error
        yield ray
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    """A cluster; what this process had set about Ray is as before afterwards."""
    context = ray.data.DataContext.get_current()
    logs = [logging.getLogger(name) for name in ("ray", "ray.data")]
    settings: list[tuple[Any, str, Any]] = [(context, *each) for each in _SETTINGS.items()]
    settings += [(log, "level", logging.ERROR) for log in logs]
    # It prints on standard output that a process has ended, which is no news to who wants a table.
    settings += [(import_module("ray._private.worker"), "print_to_stdstream", _to_log)]
    with ExitStack() as before:
        for owner, name, value in settings:
            if not hasattr(owner, name):  # other versions
                continue
            before.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        if not ray.is_initialized():
            before.callback(ray.shutdown)
            _initialize(ray, address)
        yield


def _to_log(data: Mapping[str, Any], **_: Any) -> None:
    logger.debug("Ray: %s", "; ".join(map(str, data.get("lines", ()))))


def _initialize(ray: Any, address: str | None) -> None:
    if address is not None:
        _check_address(address)
    here: dict[str, Any] = {}
    constants: Any = import_module("ray._private.ray_constants")
    clusters = getattr(constants, "ENABLE_RAY_CLUSTER", None)
    if address is None:
        here = {"_node_ip_address": "127.0.0.1", "include_dashboard": False}
        # It has read the environment when it was imported, which may have been long ago.
        constants.ENABLE_RAY_CLUSTER = False
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        with _silent():
            ray.init(
                address="local" if address is None else address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **here,
            )
    except ConnectionError as error:
        raise ValueError(
            f"expected a Ray cluster at {address}, got {reason(error)}; {_NO_CLUSTER}"
        ) from error
    finally:
        constants.ENABLE_RAY_CLUSTER = clusters
        # Ray puts a handler of its own in its place.
        if threading.current_thread() is threading.main_thread() and terminate is not None:
            signal.signal(signal.SIGTERM, terminate)


def _check_address(address: str) -> None:
    """Ray would wait many minutes where nobody listens."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in address:  # auto, or that of a client
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ValueError(
            f"expected a Ray cluster at {address}, got {reason(error)}; {_NO_CLUSTER}"
        ) from error


@contextmanager
def _silent() -> Iterator[None]:
    """Nothing on standard error, where Ray's core says which level its messages have."""
    if logger.isEnabledFor(logging.DEBUG):
        yield
        return
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _processes(ray: Any, processes: int | None, fixed: bool) -> tuple[int, dict[str, int]]:
    """How many there are, and what each of them takes."""
    there = ray.cluster_resources()
    kind = "GPU" if there.get("GPU", 0) >= 1 else "CPU"
    available = max(int(there.get(kind, 1)), 1)
    if fixed and processes is not None and processes > available:
        raise ValueError(
            f"expected at most {available} processes, one for each {kind} of this machine, got "
            f"{processes}; leave it out"
        )
    return processes or available, {f"num_{kind.lower()}s": 1}


def _blocks(batches: int, processes: int, size: int | None) -> list[dict[str, int]]:
    by_itself = max(1, min(_BATCHES, batches // (4 * processes)))
    size = max(size or by_itself, math.ceil(batches / _BLOCKS))
    starts = range(0, batches, size)
    # The last block is open: a batch sampler of the bundle's own may make more of them.
    return [{"start": s, "stop": s + size if s != starts[-1] else 2**62} for s in starts]


def _results(
    ray: Any, work: Work, blocks: list[dict[str, int]], processes: int, resources: dict[str, int]
) -> Iterator[_SoFar]:
    # Inside a dictionary: as an argument itself it would be lost with the first actor.
    shared = {"work": ray.put(work)}
    data = ray.data.from_items(blocks, override_num_blocks=len(blocks)).map_batches(
        _Actor,
        fn_constructor_args=(shared,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(processes, len(blocks))),
        **resources,
    )
    so_far = _SoFar()
    try:
        for batch in data.iter_batches(batch_size=None, prefetch_batches=0):
            so_far = _SoFar(
                so_far.done + int(batch["done"].sum()),
                so_far.failed + int(batch["failed"].sum()),
                tuple(str(batch["notes"][0]).splitlines()) or so_far.notes,
                str(batch["error"][0]),
                so_far.earlier + int(batch["earlier"].sum()),
            )
            yield so_far
    except ray.exceptions.GetTimeoutError as error:
        raise RuntimeError(
            f"expected {processes} processes within {_SETTINGS['wait_for_min_actors_s']} s, got "
            f"fewer from a cluster with {_in_words(ray.cluster_resources())}; ask for fewer with "
            "--processes"
        ) from error


def _in_words(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{resources.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))


class _Actor:
    """A worker in a process of Ray's.

    What goes wrong in it is a text of its results: of an exception Ray would make a page of them,
    and some cannot be sent.
    """

    def __init__(self, shared: dict[str, Any]) -> None:
        import warnings

        import ray
        import torch

        warnings.simplefilter("ignore")
        logging.getLogger("monai_ifim").setLevel(logging.ERROR)
        if not ray.get_gpu_ids():
            torch.set_num_threads(1)  # one CPU each
        self._worker, self._error = None, ""
        try:
            self._worker = Worker(ray.get(shared["work"]))
        except Exception as error:  # of a bundle's author
            self._error = _told(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        result = BlockResult(0, 0, ())
        if self._worker is not None and not self._error:
            try:
                result = self._worker.do(int(batch["start"][0]), int(batch["stop"][0]))
            except Exception as error:  # networks and handlers raise what they like
                self._error = _told(error)
        return {
            "done": [result.done],
            "failed": [result.failed],
            "notes": ["\n".join(result.notes)],
            "error": [self._error],
            "earlier": [result.earlier],
        }


def _told(error: Exception) -> str:
    logger.error("the worker ended early", exc_info=error)  # in the log of its process
    return reason(error)
