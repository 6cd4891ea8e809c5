"""The ranks of a distributed run: when one fails, all end, and what is done is not lost."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")

GRACE = 20.0  # seconds that a failing rank gives the others to hand in what they have done
PATIENCE = 30.0  # seconds without a sign of life, after which a collective's own timeout decides
PIECE = 4 << 20  # bytes; PyTorch's TCPStore drops the connection at values above 8 MiB


class Ranks:
    """All ranks of one run, as one of them sees them; one rank where nothing is distributed.

    A collective waits for a rank that failed: gloo until its process has gone, NCCL for ten
    minutes. What concerns failures therefore goes through the process group's store, which works
    for every backend, and a rank enters a collective only when all others are there, or when it
    hears nothing of them.

    The store is advice: where it does not answer, the ranks do what they would without.

    Args:
        run: name of the run, the same on every rank, different for each run (``next_run`` gives
            one).
    """

    def __init__(self, run: str) -> None:
        # Not ignite.distributed: it would open process groups at its first use, which dead-locks
        # when the ranks do not get there in step.
        many = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.size = dist.get_world_size() if many else 1
        self.rank = dist.get_rank() if many else 0
        self._store: Any = None
        if many:
            store = dist.distributed_c10d._get_default_store()
            self._store = dist.PrefixStore(f"monai_ifim/{run}", store)
        self._counts: Any = None  # store of the runs that each rank has begun
        self._looked = -1.0

    @classmethod
    def next_run(cls, kind: str) -> Ranks:
        """The ranks of a run that begins here.

        The store counts how many runs of a kind each rank has begun. Ranks begin their runs in the
        same order, as they do all that they do together, so that the count names the run. After a
        failure, when some may have begun more of them, ``saved`` makes the counts equal.

        Args:
            kind: the same on every rank; runs of different kinds are counted separately.

        Returns:
            The ranks, under a name that no other run of this process group has.
        """
        ranks = cls(kind)
        if ranks.size == 1:
            return ranks
        try:
            run = cls(f"{kind}, run {ranks._store.add(f'begun by {ranks.rank}', 1)}")
        except RuntimeError:
            return ranks  # the store has gone, and what it could be asked with it
        run._counts = ranks._store
        return run

    def look(self) -> None:
        """Show that this rank is alive and see whether another has failed, once a second.

        Raises:
            RuntimeError: another rank has failed, or the process with the store has gone.
        """
        now = time.monotonic()
        if self.size == 1 or now - self._looked < 1:
            return
        self._looked = now
        try:
            self._store.add("signs of life", 1)
            failure = self._failure()
        except RuntimeError as error:
            raise RuntimeError(
                "expected every rank to reach the end, got no answer from the process group's "
                "store: the process that holds it (torchrun or rank 0) has ended; see its messages"
            ) from error
        if failure is not None:
            raise RuntimeError(failure)

    def meet(self, place: str) -> None:
        """Wait until all ranks are here.

        Args:
            place: its name, another one each time.

        Raises:
            RuntimeError: another rank has failed.
        """
        if self.size == 1:
            return
        failure, pause = None, 0.01
        try:
            self._store.add(place, 1)
            seen, since = (-1, -1), time.monotonic()
            while (arrived := self._store.add(place, 0)) < self.size:
                failure = self._failure()
                progress = (arrived, self._store.add("signs of life", 0))
                if progress != seen:
                    seen, since = progress, time.monotonic()
                if failure is not None or time.monotonic() - since > PATIENCE:
                    break
                time.sleep(pause)
                pause = min(2 * pause, 0.1)
        except RuntimeError:
            failure = None  # the store has gone; the barrier says who has gone with it
        if failure is not None:
            raise RuntimeError(failure)
        dist.barrier()  # a rank that was killed told nobody, but gloo knows

    def gather(self, values: list[T]) -> list[T]:
        """Bring lists together.

        Args:
            values: of this rank.

        Returns:
            Those of all ranks on rank 0, nothing on the others.
        """
        if self.size == 1:
            return values
        # One rank alone holds them all: a million rows on each of many ranks fill a machine.
        parts: list[Any] | None = [None] * self.size if self.rank == 0 else None
        dist.gather_object(values, parts, dst=0)
        return [value for part in parts or () for value in part]

    def on_first(self, work: Callable[[], T]) -> T:
        """Do something on rank 0; its result, or its failure, is that of every rank.

        Args:
            work: called on rank 0.

        Returns:
            What ``work`` returned.

        Raises:
            RuntimeError: on the other ranks, when it raised on rank 0.
        """
        if self.size == 1:
            return work()
        outcome: list[Any] = [None, None]
        raised: Exception | None = None
        if self.rank == 0:
            try:
                outcome[0] = work()
            except Exception as error:
                raised, outcome[1] = error, _sentence(0, f"{type(error).__name__}: {error}")
        dist.broadcast_object_list(outcome, src=0)
        if raised is not None:
            raise raised
        if outcome[1] is not None:
            raise RuntimeError(outcome[1])
        return outcome[0]

    def leave(self, values: list[T], reason: str) -> dict[int, list[T]] | None:
        """Tell the other ranks that this one has failed, and hand over what is done.

        No collective: the others are in the middle of their work. The rank that failed first
        waits a while for them; they look once a second.

        Args:
            values: of this rank.
            reason: for the others' message, one line.

        Returns:
            On the rank that failed first, the values of each rank that handed them in, for it to
            save and then to call ``saved``; None on the others, which then need not hurry.
        """
        if self.size == 1:
            return {0: values}
        try:
            self._put(values)
            first = self._store.add("failures", 1) == 1
        except RuntimeError:  # the store has gone, and what the others have done with it
            return {0: values} if self.rank == 0 else None
        parts = {self.rank: values}
        try:
            if first:
                self._store.set("failure", _sentence(self.rank, reason))
                self._wait(lambda: self._collect(parts), GRACE)
            else:
                self._wait(lambda: self._store.check(["saved"]), GRACE + 10)
        except RuntimeError:
            return parts if first else None
        return parts if first else None

    def saved(self) -> None:
        """Let the other ranks go, after ``leave`` returned values."""
        if self.size > 1:
            try:
                if self._counts is not None:
                    keys = [f"begun by {rank}" for rank in range(self.size)]
                    begun = [self._counts.add(key, 0) for key in keys]
                    for key, count in zip(keys, begun, strict=True):
                        self._counts.add(key, max(begun) - count)
                self._store.set("saved", "yes")
            except RuntimeError:
                return  # the store has gone, and so have they

    def _failure(self) -> str | None:
        if not self._store.check(["failure"]):
            return None
        return str(self._store.get("failure").decode())

    def _put(self, values: list[Any]) -> None:
        data = pickle.dumps(values)
        pieces = [data[start : start + PIECE] for start in range(0, len(data), PIECE)]
        for i, piece in enumerate(pieces):
            self._store.set(f"done by {self.rank}, {i}", piece)
        self._store.set(f"done by {self.rank}", str(len(pieces)))  # last: all pieces are there

    def _collect(self, parts: dict[int, list[Any]]) -> bool:
        """Add what has come since; True when nothing is missing."""
        for rank in set(range(self.size)) - set(parts):
            key = f"done by {rank}"
            if self._store.check([key]):
                count = int(self._store.get(key))
                pieces = [self._store.get(f"{key}, {i}") for i in range(count)]
                parts[rank] = pickle.loads(b"".join(pieces))
        return len(parts) == self.size

    def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            time.sleep(0.1)


def _sentence(rank: int, reason: str) -> str:
    return (
        f"expected every rank to reach the end, got an error on rank {rank} ({reason}); fix it "
        "there, this rank stopped because of it"
    )
