"""The folder of a run's results: whose it is, and what is already done in it."""

from __future__ import annotations

import errno
import logging
import os
import secrets
from pathlib import Path
from typing import Any

from monai_ifim.data.run_folder.earlier import move_aside, remove_leftovers
from monai_ifim.data.run_folder.image_list import ImageList, write_list
from monai_ifim.data.run_folder.journal import Journal, journals, now, process, read_history
from monai_ifim.data.run_folder.lock import FolderLock, refuse_parts
from monai_ifim.data.run_folder.part import Part
from monai_ifim.data.run_folder.record import (
    COMPLETE,
    RUNNING,
    Record,
    command,
    differences,
    environment,
    read_record,
    write_record,
)

logger = logging.getLogger(__name__)

EXISTING = ("refuse", "move")
# Runs that were begun here: to begin one of them again, in a notebook, loses nothing.
_BEGUN: set[str] = set()


class RunFolder:
    """Results of one run, and of no other.

    On the first rank ``begin``, on all ranks ``join``, then ``journal``; ``end`` on the first.

    Args:
        path: of the folder; made if missing.
        table: name of the table in it.
        resume: go on with the run that the folder holds.
        existing: what happens to results of another run: ``"refuse"`` or ``"move"``, into a
            subfolder ``earlier-<date>``.

    Attributes:
        journal: of this process, after ``join``.
        session: name of this start of the run.

    Raises:
        ValueError: ``existing`` is another word.
    """

    def __init__(
        self, path: Path, table: str, *, resume: bool = False, existing: str = "refuse"
    ) -> None:
        if existing not in EXISTING:
            raise ValueError(f"expected existing from {EXISTING}, got {existing!r}; choose one")
        self.path, self.table, self.resume, self.existing = path, table, resume, existing
        self.journal: Journal | None = None
        self.session = self.run = ""
        self._record: Record = {}
        self._lock = FolderLock(path)
        self._listed: ImageList | None = None
        self._resumed = False
        self._number = 0  # of this start of the run

    def check(self) -> None:
        """Refuse a folder that this run cannot write to, as far as that is known before it begins.

        Raises:
            ValueError: it cannot be written, or holds results of another run.
        """
        check_writable(self.path)
        used = self._used(None)  # first: a journal comes after the record of its run
        record = read_record(self.path)
        # Results that no run of this process has made.
        foreign = (used or record is not None) and (record is None or record["run"] not in _BEGUN)
        if foreign and not self.resume and self.existing == "refuse":
            raise ValueError(self._refusal(record))

    def begin(self, identity: Record, images: ImageList | None, plan: str = "") -> dict[str, Any]:
        """Take the folder for this run; on the first rank.

        Args:
            identity: of the run: what makes its results.
            images: all of the run, None where they are not known.
            plan: digest of its batches, for parts of a run.

        Returns:
            What the other ranks need, for ``join``.

        Raises:
            ValueError: it holds results of another run.
            RuntimeError: another run is writing to it.
        """
        check_writable(self.path)
        self._lock.acquire()
        try:
            refuse_parts(self.path)
            self._take(identity)
            self._listed = self._write_list(images)
        except BaseException:
            self._lock.release()
            raise
        known = len(read_history(self.path).lines) if self._resumed else None
        return self._shared(known)

    def join(self, shared: dict[str, Any], rank: int) -> int | None:
        """Open the journal of this process.

        Args:
            shared: what ``begin`` returned on the first rank.
            rank: of this process.

        Returns:
            How many images the journals of earlier sessions hold, as the first rank sees them;
            None where no run is resumed.

        Raises:
            OSError: it cannot be written.
        """
        self.run, self.session = shared["run"], shared["session"]
        _BEGUN.add(self.run)
        number = shared["number"]
        self.journal = Journal(self.path, self.run, self.session, rank, number)
        known: int | None = shared["known"]
        return known

    @property
    def part(self) -> Part | None:
        """Of a run that several processes do together, what this one does; None for the whole."""
        return None

    @property
    def is_open(self) -> bool:
        """Whether this process is at work in the folder, and goes on with what it has begun."""
        return False

    def end(self, state: str, counts: dict[str, int], reason: str | None = None) -> str | None:
        """Say how the run ended, and let the folder go.

        Args:
            state: ``complete`` or ``interrupted``.
            counts: of images.
            reason: why it was interrupted.

        Returns:
            What there is to complain about beside this process's images, None for nothing.

        Raises:
            OSError: it cannot be written.
        """
        try:
            if self._record:
                tables = (read_record(self.path) or {}).get("tables", [self.table])
                ended = {"state": state, "reason": reason, "ended": now(), "images": counts}
                self._record = self._record | ended | {"tables": tables}
                write_record(self.path, self._record)
        finally:
            self._lock.release()
        return None

    def close(self) -> None:
        """Close the journal, and let the folder go without a word."""
        if self.journal is not None:
            self.journal.close()
        self._lock.release()

    def _take(self, identity: Record) -> None:
        record = read_record(self.path)
        if not self._used(record):
            self._anew(identity)
        elif self.resume and record is not None and self._same(record, identity):
            self._go_on(record)
        elif record is not None and self._own(record, identity):
            for journal in journals(self.path):
                journal.unlink(missing_ok=True)
            self._anew(identity)
        elif self.existing == "move":
            move_aside(self.path, self.table, record)
            self._anew(identity)
        else:
            raise ValueError(self._refusal(record, identity))

    def _shared(self, known: int | None) -> dict[str, Any]:
        names = {"run": self.run, "session": self.session, "number": self._number}
        return {**names, "known": known}

    def _anew(self, identity: Record) -> None:
        self.run, self._resumed, self._number = secrets.token_hex(8), False, 1
        self._begin_session(identity)

    def _go_on(self, record: Record) -> None:
        self.run, self._resumed = record["run"], True
        self._number = record.get("session_number", 1 + len(record.get("sessions", ()))) + 1
        changed = list(differences(record.get("versions"), environment()))
        if changed:
            logger.warning(
                "resumed with other versions, last digits may differ: %s", "; ".join(changed)
            )
        left = remove_leftovers(self.path)
        if left:
            logger.info("%d unfinished files of processes that ended were removed", left)
        kept = ("started", "ended", "state", "reason", "process", "versions", "images")
        sessions = [*record.get("sessions", []), {key: record.get(key) for key in kept}]
        self._begin_session(record["identity"], sessions)

    def _begin_session(self, identity: Record, sessions: list[Record] | None = None) -> None:
        self.session = secrets.token_hex(8)
        self._record = {
            "format": 1,
            "state": RUNNING,
            "reason": None,
            "run": self.run,
            "identity": identity,
            "versions": environment(),
            "command": command(),
            "process": process(),
            "started": now(),
            "ended": None,
            "tables": [self.table],
            "session_number": self._number,
            **self._more(),
        }
        if sessions is not None:
            self._record["sessions"] = sessions
        write_record(self.path, self._record)
        _BEGUN.add(self.run)

    def _more(self) -> Record:
        """What else the record has."""
        return {}

    def _write_list(self, images: ImageList | None) -> ImageList | None:
        if images is not None and images != self._listed:
            write_list(self.path, images)
        return images

    def _used(self, record: Record | None) -> bool:
        there = record is not None or (self.path / self.table).is_file()
        return there or bool(journals(self.path))

    def _own(self, record: Record, identity: Record) -> bool:
        """Whether the results are of this object, or are made again where they were made."""
        if record.get("parts"):  # of which others have done some
            return False
        again = record["run"] in _BEGUN and record["state"] == COMPLETE
        return record["run"] == self.run or (again and self._same(record, identity))

    def _same(self, record: Record, identity: Record) -> bool:
        return not any(differences(record["identity"], identity))

    def _refusal(self, record: Record | None, identity: Record | None = None) -> str:
        ways = (
            "choose another output_dir, or move them aside with existing='move' (--existing "
            "move, --ifim_existing move)"
        )
        if record is None:
            return (
                f"expected no results of another run in {self.path}, got {self.table} or journals "
                f"without a run.json; {ways}"
            )
        changed = [] if identity is None else list(differences(record["identity"], identity))
        if changed:
            more = "" if len(changed) < 5 else f" and {len(changed) - 4} more"
            return (
                f"expected results of the same network and settings in {self.path}, got a run of "
                f"others: {'; '.join(changed[:4])}{more}; {ways}"
            )
        if record["state"] == COMPLETE:
            return (
                f"expected no results of another run in {self.path}, got a complete one, begun "
                f"{record['started'][:16]}; do what has changed since with resume=True "
                f"(--resume, --ifim_resume true), {ways}"
            )
        return (
            f"expected no results of another run in {self.path}, got an unfinished one, begun "
            f"{record['started'][:16]}; go on with it with resume=True (--resume, --ifim_resume "
            f"true), {ways}"
        )


def add_table(folder: Path, name: str) -> None:
    """Note in ``run.json`` that a table belongs to the run.

    Args:
        folder: of the run's results.
        name: of the table.

    Raises:
        OSError: it cannot be written.
    """
    record = read_record(folder)
    if record is not None and name not in record.get("tables", []):
        write_record(folder, record | {"tables": [*record.get("tables", []), name]})


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written, before the work is done.

    Args:
        folder: made if missing.

    Raises:
        ValueError: it cannot be made, or no file can be made in it.
        OSError: its disk is full.
    """
    trial = folder / f".trial-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.close(os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        trial.unlink()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ValueError(
            f"expected an output folder that can be written, got {folder} ({error}); choose "
            "another output_dir"
        ) from error
