"""One run at a time in one folder."""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path

from filelock import FileLock, Timeout

from monai_ifim.data.run_folder.journal import HIDDEN
from monai_ifim.data.run_folder.record import read_record

logger = logging.getLogger(__name__)

# Workers of a loader outlive the process that was killed, and hold its lock, for some seconds.
PATIENCE = 12.0
_HELD: set[str] = set()  # folders of this process's runs


class FolderLock:
    """Held while a run writes to a folder; the system lets it go when the process ends.

    Args:
        folder: of the run's results.
        part: name of a part of the run, which is held for this part alone; several parts may work
            at the same time.
        patience: seconds to wait for another process.

    Attributes:
        path: of the file that is locked.
        name: of the part, as in the file's name.
    """

    def __init__(self, folder: Path, part: str = "", patience: float | None = None) -> None:
        self._folder, self._part = folder, part
        self.path = folder / HIDDEN / lock_name(part)
        self.name = self.path.name.removeprefix("lock-")
        self._held = os.path.realpath(self.path)
        self._patience = patience
        self._lock: FileLock | None = None

    def acquire(self) -> None:
        """Take the folder.

        Raises:
            RuntimeError: another run is writing to it.
        """
        if self._held in _HELD:
            raise RuntimeError(self._refusal("another run of this process"))
        (self._folder / HIDDEN).mkdir(parents=True, exist_ok=True)
        # Whoever shares the folder may take the lock, pods of other users, too.
        lock = FileLock(self.path, mode=0o666, thread_local=False)
        since = time.monotonic()
        try:
            lock.acquire(timeout=0)
        except NotImplementedError:
            logger.warning("%s has no locks: see that no second run writes to it", self._folder)
            return
        except Timeout:
            patience = PATIENCE if self._patience is None else self._patience
            logger.warning("waiting up to %.0f s for the lock of %s", patience, self._folder)
            self._wait(lock, since + patience)
        self._lock = lock
        _HELD.add(self._held)

    def release(self) -> None:
        """Let the folder go; a second call does nothing."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
            _HELD.discard(self._held)

    def _wait(self, lock: FileLock, end: float) -> None:
        try:
            lock.acquire(timeout=max(end - time.monotonic(), 0))
        except Timeout:
            record = read_record(self._folder) or {}
            holder = record.get("process", {})
            who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
            who = "a part of a run" if record.get("parts") else who
            raise RuntimeError(self._refusal(who)) from None

    def _refusal(self, who: str) -> str:
        if self._part:
            return (
                f"expected {self._part} in {self._folder} for this process alone, got another one "
                "that does it; wait for its end"
            )
        return (
            f"expected {self._folder} for this run alone, got {who}, which is writing to it; wait "
            "for its end, or choose another output_dir (--output_dir)"
        )


def lock_name(part: str) -> str:
    """Name of the file that is locked.

    Args:
        part: of a run; empty for the whole.

    Returns:
        A name.

    >>> lock_name("shard 3/100")
    'lock-shard-3-100'
    """
    return "-".join(["lock", *re.findall(r"\w+", part)])


def refuse_parts(folder: Path, patience: float = 0.0) -> None:
    """Refuse a folder in which a part of a run is at work.

    Args:
        folder: of the run's results.
        patience: seconds to wait for its end.

    Raises:
        RuntimeError: it is at work still.
    """
    others = wait_for_parts(folder, patience)
    if others:
        raise RuntimeError(
            f"expected {folder} for this run alone, got {', '.join(others[:4])} of a run in it; "
            "wait for their end, or choose another output_dir (--output_dir)"
        )


def wait_for_parts(folder: Path, patience: float, but: str = "") -> list[str]:
    """Wait until no part of a run is at work: processes that are ended need a moment.

    Args:
        folder: of the run's results.
        patience: seconds to wait at the most.
        but: name of a part that is not waited for.

    Returns:
        Names of the parts that are at work still.
    """
    end = time.monotonic() + patience
    while at_work := [name for name in parts_at_work(folder) if name != but]:
        if time.monotonic() >= end:
            break
        time.sleep(0.2)
    return at_work


def parts_at_work(folder: Path) -> list[str]:
    """Parts of a run that some process is doing.

    Args:
        folder: of the run's results.

    Returns:
        Names of their locks, without ``lock-``.
    """
    found = []
    for path in sorted((folder / HIDDEN).glob("lock-*")):
        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            found.append(path.name.removeprefix("lock-"))
        except NotImplementedError:
            return found
        else:
            lock.release()
    return found
