"""Batches of a loader whose worker processes may die."""

from __future__ import annotations

import logging
import multiprocessing
import re
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils import data as torch_data

from monai_ifim.data.loading.remaining import Batch, Remaining

logger = logging.getLogger(__name__)

# What torch says of it, in the main process.
_DIED = re.compile(r"DataLoader worker.*(exited unexpectedly|killed by signal)")


def surviving_batches(
    loader: torch_data.DataLoader,
    iterate: Callable[[], Iterator[Any]],
    remaining: Remaining | None,
    lost: Callable[[list[int]], Any],
) -> Iterator[Any]:
    """The batches of a loader; those that were lost with a worker process are made again.

    The batches in work when a worker dies (its memory ran out, a reader crashed, somebody killed
    it) are made once more, one at a time in a process of their own. An image whose process dies
    then, too, is given up; the others of its batch come without it.

    Args:
        loader: with or without workers.
        iterate: begins a pass through it.
        remaining: its batch sampler; None where it has another one, and nothing is made again.
        lost: makes a batch of items that are given up.

    Yields:
        The batches, in order.

    Raises:
        RuntimeError: an error that is no dead worker's.
        EOFError: likewise.
        OSError: likewise.
    """
    if loader.num_workers == 0 or remaining is None:
        yield from iterate()
        return
    arrived = 0
    while True:
        try:
            for batch in _watched(iterate):
                arrived += 1
                yield batch
            return
        except (RuntimeError, EOFError, OSError) as error:
            if not _is_of_a_dead_worker(error):
                raise
            logger.warning(
                "a process that loads images died (%s); its images are loaded again", error
            )
        loader.__dict__["_iterator"] = None  # of persistent workers
        for indices in remaining.given[arrived:]:
            yield from _made_alone(loader, indices, lost)
        arrived = len(remaining.given)
        remaining.go_on()


def _watched(iterate: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """Iterate a loader that says where it waits for a batch that a worker died.

    torch raises the error wherever the main process happens to be, in the middle of a network or
    of a file, and again at the end of any other process.

    Args:
        iterate: begins a pass through the loader.

    Yields:
        The batches.
    """
    main = threading.current_thread() is threading.main_thread()
    former = signal.getsignal(signal.SIGCHLD) if main and hasattr(signal, "SIGCHLD") else None
    batches = iterate()
    if former is not None:
        ours = getattr(former, "__module__", "").startswith("torch.")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if ours else former)
    yield from batches


def _made_alone(
    loader: torch_data.DataLoader, indices: Batch, lost: Callable[[list[int]], Any]
) -> Iterator[Any]:
    """One batch, made in a process of its own; without the images whose process dies."""
    batch = _attempt(loader, indices)
    if batch is not None:
        yield batch
        return
    bad = [i for i in indices if len(indices) == 1 or _attempt(loader, [i]) is None]
    yield lost(bad)
    good = [i for i in indices if i not in bad]
    if good:
        batch = _attempt(loader, good)
        yield lost(good) if batch is None else batch


def _attempt(loader: torch_data.DataLoader, indices: Batch) -> Any:
    """The batch; None when the process died."""
    alone = torch_data.DataLoader(
        loader.dataset,
        batch_sampler=[indices],
        num_workers=1,
        collate_fn=loader.collate_fn,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context or multiprocessing.get_context(),
    )
    try:
        return next(_watched(alone.__iter__))
    except (RuntimeError, EOFError, OSError) as error:
        if not _is_of_a_dead_worker(error):
            raise
        return None


def _is_of_a_dead_worker(error: Exception) -> bool:
    """Also where it died before its tensors had been taken over, which is a closed connection."""
    closed = isinstance(error, EOFError | ConnectionError | FileNotFoundError)
    return closed or bool(_DIED.search(str(error)))
