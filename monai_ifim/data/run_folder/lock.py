"""One run at a time in one folder."""

from __future__ import annotations

import logging
import os
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
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = os.path.realpath(folder)
        self._lock: FileLock | None = None

    def acquire(self) -> None:
        """Take the folder.

        Raises:
            RuntimeError: another run is writing to it.
        """
        if self._name in _HELD:
            raise RuntimeError(self._refusal("another run of this process"))
        (self._folder / HIDDEN).mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._folder / HIDDEN / "lock", thread_local=False)
        since = time.monotonic()
        try:
            lock.acquire(timeout=0)
        except NotImplementedError:
            logger.warning("%s has no locks: see that no second run writes to it", self._folder)
            return
        except Timeout:
            logger.warning("waiting up to %.0f s for the lock of %s", PATIENCE, self._folder)
            self._wait(lock, since)
        self._lock = lock
        _HELD.add(self._name)

    def release(self) -> None:
        """Let the folder go; a second call does nothing."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None
            _HELD.discard(self._name)

    def _wait(self, lock: FileLock, since: float) -> None:
        try:
            lock.acquire(timeout=max(PATIENCE - (time.monotonic() - since), 0))
        except Timeout:
            holder = (read_record(self._folder) or {}).get("process", {})
            who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
            raise RuntimeError(self._refusal(who)) from None

    def _refusal(self, who: str) -> str:
        return (
            f"expected {self._folder} for this run alone, got {who}, which is writing to it; wait "
            "for its end, or choose another output_dir (--output_dir)"
        )
