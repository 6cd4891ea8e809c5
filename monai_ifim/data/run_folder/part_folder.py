"""The folder of a run that several processes do together: shards, or workers of an engine."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai_ifim.data.run_folder.folder import RunFolder, check_writable
from monai_ifim.data.run_folder.image_list import ImageList, write_list
from monai_ifim.data.run_folder.journal import HIDDEN, now, process
from monai_ifim.data.run_folder.lock import FolderLock, parts_at_work, wait_for_parts
from monai_ifim.data.run_folder.merge import Merged, finish, missing_parts
from monai_ifim.data.run_folder.part import Block, Part, Shard
from monai_ifim.data.run_folder.record import (
    INTERRUPTED,
    RUNNING,
    Record,
    command,
    differences,
    environment,
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
        self._images = ImageList(())

    @property
    def part(self) -> Part:
        """What this process does."""
        return self._part

    def check(self) -> None:
        """Refuse a folder that cannot be written; whose it is shows under its lock alone.

        Raises:
            ValueError: it is such a folder.
        """
        check_writable(self.path)

    def begin(self, identity: Record, images: ImageList | None, plan: str = "") -> dict[str, Any]:
        """Join the run, or begin it.

        Args:
            identity: of the run: what makes its results.
            images: all of the run, not of this part alone.
            plan: digest of its batches.

        Returns:
            What ``join`` needs.

        Raises:
            ValueError: it holds results of another run, there is no list, another one, or one that
                holds a file twice; or this is the second epoch.
            RuntimeError: another process does this part, or a run as a whole is at work.
        """
        name = self._part.name
        if images is None:
            raise ValueError(
                f"expected a list of files for {name}, got images without; run it as a whole"
            )
        if images.repeated():
            raise ValueError(
                "expected each file once in a list that is done in parts, got "
                f"{min(images.repeated())!r} more than once; leave out the others, or run it as a "
                "whole"
            )
        if self.run:
            raise ValueError(
                f"expected one epoch with {name}, got a further one; shards are for inference, "
                "leave it out where a network is validated again and again"
            )
        check_writable(self.path)
        self._plan, self._images = plan, images
        self._own_lock.acquire()  # before the folder's, which others must not wait for meanwhile
        try:
            with self._locked():
                self._take(identity)
        except BaseException:
            self._own_lock.release()
            raise
        return self._shared(0 if self._resumed else None)

    def end(self, state: str, counts: dict[str, int], reason: str | None = None) -> str | None:
        """Say how this part ended; the last one writes the table of all.

        Args:
            state: ``complete`` or ``interrupted``.
            counts: of the part's images.
            reason: why it was interrupted.

        Returns:
            Images of other parts that have no row although all parts have ended, None for none.

        Raises:
            OSError: something cannot be written.
            RuntimeError: the folder is no longer this run's.
        """
        try:
            with self._locked():
                return self._note_end(state, counts, reason)
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
        return {"parts": {**self._cut, "begun": {self._key: begun_now()}, "ended": {}}}

    def _take(self, identity: Record) -> None:
        record = read_record(self.path)
        if not self._used(record):
            write_list(self.path, self._images)  # first: a record says that the list is there
            self._anew(identity)
            return
        if record is None or not self._same(record, identity):
            raise ValueError(self._refusal(record, identity))
        parts = record.get("parts") or {}
        same = {name: parts.get(name) for name in self._cut} == self._cut
        if same and (self.resume or self._key not in parts["begun"]):
            self._join(record)
        elif self.resume and not self._others():
            # What is done is in the journals, so that the list can be cut anew, or have grown.
            if parts.get("ended"):
                logger.warning(
                    "the list is cut anew: all shards must be run again, also those that had "
                    "ended; what is done is left out"
                )
            write_list(self.path, self._images)
            self._go_on(record)
        elif same or not parts:
            raise ValueError(self._refusal(record))
        else:
            raise ValueError(self._refusal_of_cut(parts))

    def _join(self, record: Record) -> None:
        self.run, self._resumed, self.session = record["run"], True, secrets.token_hex(8)
        self._number = record["session_number"] + 1
        changed = list(differences(record["versions"], environment()))
        if changed:
            logger.warning(
                "other versions than where the run began, last digits may differ: %s",
                "; ".join(changed),
            )
        parts = record["parts"]
        parts["begun"][self._key] = begun_now()
        parts["ended"].pop(self._key, None)
        at_work = {"state": RUNNING, "reason": None, "ended": None}
        self._record = record | at_work | {"session_number": self._number}
        write_record(self.path, self._record)

    def _note_end(self, state: str, counts: dict[str, int], reason: str | None) -> str | None:
        record = read_record(self.path)
        if record is None or record["run"] != self.run:
            raise RuntimeError(
                f"expected the run.json of this run in {self.path}, got another or none: it was "
                "removed or begun anew meanwhile; start this part again"
            )
        ended = {"state": state, "reason": reason, "ended": now(), "images": counts}
        record["parts"]["ended"][self._key] = ended
        missing = missing_parts(record)
        others = bool(self._others())
        record["state"] = RUNNING if others else INTERRUPTED
        record["reason"] = None if others else _why(record, missing, reason)
        write_record(self.path, record)  # also where the tables cannot be written
        return None if missing else finish(self.path, self.table, record).complaint

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the folder."""
        self._lock.acquire()
        try:
            yield
        finally:
            self._lock.release()

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

    def end(self, state: str, counts: dict[str, int], reason: str | None = None) -> str | None:
        """Nothing: the worker gets further blocks.

        Args:
            state: of the block.
            counts: of its images.
            reason: why it was interrupted.

        Returns:
            None.
        """
        return None

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
            ended = {"state": INTERRUPTED, "reason": error}
            write_record(path, (read_record(path) or record) | ended)
        for left in (path / HIDDEN).glob("lock-worker-*"):
            left.unlink(missing_ok=True)
        return merged
    finally:
        lock.release()


def begun_now() -> Record:
    """What ``run.json`` says of a part that begins."""
    return {**process(), "started": now(), "command": command(), "versions": environment()}


def _why(record: Record, missing: Sequence[str], reason: str | None) -> str | None:
    """Why a run that nobody is at work on is not complete."""
    of = record["parts"]["of"]
    told = [f"{len(missing)} of {of} shards are missing"] if missing else ["the tables are missing"]
    return "; ".join([*told, *([reason] if reason else [])])
