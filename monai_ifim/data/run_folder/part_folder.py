"""The folder of a run that several processes do together: shards, or workers of an engine."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_ifim.data.run_folder.earlier import read_list, remove_leftovers, repeated
from monai_ifim.data.run_folder.folder import RunFolder, check_writable
from monai_ifim.data.run_folder.journal import HIDDEN, now
from monai_ifim.data.run_folder.lock import FolderLock, parts_at_work, wait_for_parts
from monai_ifim.data.run_folder.merge import Merged, merge_runs
from monai_ifim.data.run_folder.part import Block, Part, Shard
from monai_ifim.data.run_folder.record import (
    COMPLETE,
    INTERRUPTED,
    RUNNING,
    Record,
    read_record,
    write_record,
)

logger = logging.getLogger(__name__)

# A thousand shards may begin at the same moment, and the last one writes the table of all.
PATIENCE = 300.0
_ENDING = 30.0  # seconds for workers to end
ENGINE = "engine"  # name of the lock of who hands out blocks to workers


class PartFolder(RunFolder):
    """Results of one run, of which this process does a part.

    The first part to come writes the list of all images and ``run.json``; the others join where
    network, settings, list and batches are the same. The lock of the folder is held only while
    that is done; each part holds one of its own while it works.

    Args:
        path: of the folder; made if missing.
        table: name of the table in it.
        part: that this process does.
        resume: do what is left of this part, where it was begun before.
        existing: only ``"refuse"``: no part may move what the others have done.

    Raises:
        ValueError: another word as ``existing``.
    """

    def __init__(
        self,
        path: Path,
        table: str,
        part: Part,
        *,
        resume: bool = False,
        existing: str = "refuse",
    ) -> None:
        super().__init__(path, table, resume=resume, existing=existing)
        if existing != "refuse":
            raise ValueError(
                f"expected existing='refuse' with {part.name}, got {existing!r}, which would move "
                "what other parts of the run have done; choose another output_dir"
            )
        self._part = part
        self._lock = FolderLock(path, patience=PATIENCE)
        self._own_lock = FolderLock(path, part.name)
        self._plan = ""
        self._whole: Sequence[str] = ()

    @property
    def part(self) -> Part:
        """What this process does."""
        return self._part

    def check(self) -> None:
        """Refuse a folder that cannot be written, or holds results of a run as a whole.

        Raises:
            ValueError: it is such a folder.
        """
        check_writable(self.path)
        record = read_record(self.path)
        if self._used(record) and not self.resume and not (record or {}).get("parts"):
            raise ValueError(self._refusal(record))

    def begin(
        self, identity: Record, listed: Sequence[str] | None, plan: str = ""
    ) -> dict[str, Any]:
        """Join the run, or begin it.

        Args:
            identity: of the run: what makes its results.
            listed: all images of the run, not of this part alone.
            plan: digest of its batches.

        Returns:
            What ``join`` needs.

        Raises:
            ValueError: it holds results of another run, there is no list, another one, or one that
                holds a file twice.
            RuntimeError: another process does this part, or a run as a whole is at work.
        """
        if listed is None:
            raise ValueError(
                f"expected a list of files for {self._part.name}, got images without; run it as a "
                "whole"
            )
        twice = repeated(listed)
        if twice:
            raise ValueError(
                f"expected each file once in a list that is done in parts, got {min(twice)!r} "
                "more than once; leave out the others, or run it as a whole"
            )
        check_writable(self.path)
        self._plan, self._whole = plan, listed
        self._lock.acquire()
        try:
            self._own_lock.acquire()
            self._take(identity)
        except BaseException:
            self._own_lock.release()
            raise
        finally:
            self._lock.release()
        return {"run": self.run, "session": self.session, "known": 0 if self._resumed else None}

    def end(self, state: str, counts: dict[str, int], reason: str | None = None) -> None:
        """Say how this part ended; the last one writes the table of all.

        Args:
            state: ``complete`` or ``interrupted``.
            counts: of the part's images.
            reason: why it was interrupted.

        Raises:
            OSError: something cannot be written.
        """
        try:
            self._lock.acquire()
            try:
                self._note_end(state, counts, reason)
            finally:
                self._lock.release()
        finally:
            self._own_lock.release()

    def close(self) -> None:
        """Close the journal, and let the part go without a word."""
        super().close()
        self._own_lock.release()

    @property
    def _key(self) -> str:
        return str(self._part.index) if isinstance(self._part, Shard) else ""

    @property
    def _cut(self) -> Record:
        """How the list is cut, the same for all parts."""
        return {"of": self._part.of, "plan": self._plan}

    def _more(self) -> Record:
        return {"parts": {**self._cut, "begun": [self._key], "ended": {}}}

    def _take(self, identity: Record) -> None:
        record = read_record(self.path)
        if not self._used(record):
            self._anew(identity)
            self._write_list(self._whole)
            return
        if record is None or not self._same(record, identity):
            raise ValueError(self._refusal(record, identity))
        parts = record.get("parts") or {}
        same = {name: parts.get(name) for name in self._cut} == self._cut
        if same and (self.resume or self._key not in parts["begun"]):
            self._join(record)
        elif self.resume and not self._others():
            # What is done is in the journals, so that the list can be cut anew, or have grown.
            self._go_on(record)
            self._write_list(self._whole)
        elif same or not parts:
            raise ValueError(self._refusal(record))
        else:
            raise ValueError(self._refusal_of_cut(parts))

    def _join(self, record: Record) -> None:
        self.run, self._resumed, self.session = record["run"], True, secrets.token_hex(8)
        parts = record["parts"]
        begun = sorted({*parts["begun"], self._key}, key=lambda key: (len(key), key))
        ended = {key: value for key, value in parts["ended"].items() if key != self._key}
        at_work = {"state": RUNNING, "reason": None, "ended": None}
        self._record = record | at_work | {"parts": {**parts, "begun": begun, "ended": ended}}
        write_record(self.path, self._record)

    def _note_end(self, state: str, counts: dict[str, int], reason: str | None) -> None:
        record = read_record(self.path)
        if record is None or record["run"] != self.run:  # removed, or begun anew meanwhile
            return
        parts = record["parts"]
        parts["ended"][self._key] = {
            "state": state, "reason": reason, "ended": now(), "images": counts,
        }  # fmt: skip
        missing = missing_parts(record)
        if not missing:
            finish(self.path, self.table, record)
            return
        others = bool(self._others())
        record["state"] = RUNNING if others else INTERRUPTED
        record["reason"] = None if others else f"{len(missing)} of {parts['of']} shards are missing"
        write_record(self.path, record)

    def _others(self) -> list[str]:
        """Other parts that are at work."""
        own = (self._own_lock.name, ENGINE)
        return [name for name in parts_at_work(self.path) if name not in own]

    def _refusal_of_cut(self, parts: Record) -> str:
        cut = "by workers" if parts["of"] is None else f"as {parts['of']} shards"
        if parts["of"] != self._part.of:
            return (
                f"expected a run that is done in the same parts, got one done {cut} in "
                f"{self.path}, and {self._part.name}; take the same number, or wait until none is "
                "at work and cut it anew with resume=True (--resume)"
            )
        return (
            f"expected the list of images and the size of batches that the run in {self.path} "
            f"began with, got others for {self._part.name}; leave out what has come since, or "
            "wait until no shard is at work and go on with resume=True (--resume)"
        )


class WorkerFolder(PartFolder):
    """Results of a run whose list is handed out block by block; who hands it out ends the run.

    The worker stays in the folder from block to block, with one journal.
    """

    @property
    def is_open(self) -> bool:
        """Whether it has joined."""
        return self.journal is not None

    def end(self, state: str, counts: dict[str, int], reason: str | None = None) -> None:
        """Nothing: the worker gets further blocks.

        Args:
            state: of the block.
            counts: of its images.
            reason: why it was interrupted.
        """

    def close(self) -> None:
        """Nothing, see ``leave``."""

    def leave(self) -> None:
        """The worker has had its last block."""
        super().close()
        self.journal = None


def folder_of_run(
    path: Path, table: str, *, part: Part | None, resume: bool, existing: str
) -> RunFolder:
    """The output folder, for a whole run or for a part of one.

    Args:
        path: of the folder.
        table: name of the table in it.
        part: that this process does; None for the whole.
        resume: go on with the run that the folder holds.
        existing: what happens to results of another run.

    Returns:
        The folder. Errors are those of ``RunFolder`` and ``PartFolder``.
    """
    if part is None:
        return RunFolder(path, table, resume=resume, existing=existing)
    kind = WorkerFolder if isinstance(part, Block) else PartFolder
    return kind(path, table, part, resume=resume, existing=existing)


def missing_parts(record: Record) -> list[str]:
    """Shards of a run that have not come to their end.

    Args:
        record: content of ``run.json``.

    Returns:
        Their numbers; none for a run that has no shards.
    """
    parts = record.get("parts") or {}
    ended = parts.get("ended", {})
    numbers = map(str, range(parts.get("of") or 0))
    return [number for number in numbers if ended.get(number, {}).get("state") != COMPLETE]


def finish(path: Path, table: str, record: Record) -> Merged:
    """Write the table of all parts, and say in ``run.json`` that the run is complete.

    Args:
        path: of the run's folder.
        table: name of the table.
        record: content of ``run.json``.

    Returns:
        What the table holds. The run is not complete while a listed image has no row.

    Raises:
        OSError: something cannot be written.
    """
    remove_leftovers(path)
    merged = merge_runs([path], path / table)
    listed = len(read_list(path) or merged.rows)
    counts = {"listed": listed, "done": merged.done, "failed": merged.failures}
    why = f"{len(merged.absent)} images have no row" if merged.absent else None
    record["state"], record["reason"] = INTERRUPTED if why else COMPLETE, why
    record["ended"], record["images"] = now(), counts
    record["tables"] = sorted({*record.get("tables", []), table, *merged.tables})
    write_record(path, record)
    return merged


def close_run(path: Path, table: str, error: str = "") -> Merged | None:
    """End a run whose list was handed out block by block.

    Args:
        path: of the run's folder.
        table: name of the table.
        error: why it ended early; empty where it did not.

    Returns:
        What the table holds; None where no worker has begun. The workers have ended, or are given
        up after some seconds.

    Raises:
        OSError: something cannot be written.
    """
    record = read_record(path)
    if record is None or "parts" not in record:
        return None
    for name in wait_for_parts(path, _ENDING, but=ENGINE):
        logger.warning("%s is at work still: its further rows are not in the table", name)
    lock = FolderLock(path, patience=PATIENCE)
    lock.acquire()
    try:
        merged = finish(path, table, record)
        if error:
            write_record(path, record | {"state": INTERRUPTED, "reason": error})
        for left in (path / HIDDEN).glob("lock-worker-*"):
            left.unlink(missing_ok=True)
        return merged
    finally:
        lock.release()
