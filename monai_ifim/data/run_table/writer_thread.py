"""A thread that writes results while the next images are computed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import BoundedSemaphore

import torch

WAITING = 2  # images whose volumes are in memory for it, with the one that it writes

Written = Future[list[Path]]
Job = Callable[[], list[Path]]


class WriterThread:
    """Does jobs one after the other, in their order; who brings one more than it holds waits.

    One thread: the files get their names in the order of the images, and a second one would take
    the processor from the network. It begins with the first job.

    Args:
        most: how many jobs may be unfinished.
    """

    def __init__(self, most: int = WAITING) -> None:
        self._most = most
        self._room = BoundedSemaphore(most)
        self._pool: ThreadPoolExecutor | None = None

    def submit(self, job: Job) -> Written:
        """Hand over a job, as soon as there is room for it.

        Args:
            job: gives the paths that it wrote.

        Returns:
            What becomes of it.
        """
        if self._pool is None:
            self._pool = _one_thread()
        self._room.acquire()
        try:
            written = self._pool.submit(job)
        except BaseException:
            self._room.release()
            raise
        room = self._room
        written.add_done_callback(lambda _: room.release())
        return written

    def close(self, *, discard: bool = False) -> None:
        """End the thread, once the job that it is at is done; the next job begins another one.

        Args:
            discard: leave out the jobs that it has not begun.
        """
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=discard)


def _one_thread() -> ThreadPoolExecutor:
    # Its tensor operations begin no threads of their own: two teams of as many threads as there
    # are cores would wait for each other.
    pool = ThreadPoolExecutor(1, thread_name_prefix="ifim-writer")
    before = torch.get_num_threads()
    pool.submit(torch.get_num_threads).result()  # torch sets it for a thread that first asks
    pool.submit(torch.set_num_threads, 1).result()
    torch.set_num_threads(before)  # what later threads of the process begin with
    return pool


def at_once(job: Job) -> Written:
    """Do a job in this thread.

    Args:
        job: gives the paths that it wrote.

    Returns:
        What it wrote.

    Raises:
        Exception: the job's.
    """
    written: Written = Future()
    written.set_result(job())
    return written
