"""The journal of a run: a line for each image that is done, written at once and never changed.

Every process of a run has a file of its own, ``.ifim/journal-<host>-<pid>-<random>.jsonl``, because
shared disks do not keep lines of several hosts apart. Its lines are JSON objects:

- the head: ``{"journal": 1, "run", "session", "number", "started", "host", "pid", "rank"}``. A
  session is one start of the program; a run has several of them when it is resumed. They are
  numbered in the order of their beginning, because the clocks of hosts differ.
- ``{"start": [files]}`` before the work on images begins, and ``{"left": [files]}`` when the run
  ends in the middle of it. Where neither this nor a row follows, the process died.
- ``{"row", "part", "unit": [k, n], "source", "volumes", "probabilities", ...}`` for each image
  when its volumes have their names. The n lines of a batch count together: when the last of them
  is not there, the batch is done again as it was, so that its numbers are the same to the last bit.

- ``{"table", "class_names"}``: the predictions in these lines belong in a table of that name.

A line that was torn by a kill or a full disk is skipped.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from monai_ifim.data.atomic import synced

Line = dict[str, Any]
HIDDEN = ".ifim"
FORMAT = 1


def now() -> str:
    """Time of day, so that texts of it have its order."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")


def process() -> dict[str, Any]:
    """Host and number of this process."""
    return {"host": socket.gethostname(), "pid": os.getpid()}


class Journal:
    """The journal of this process.

    Args:
        folder: of the run's results.
        run: name of the run.
        session: name of this start of it, the same for all its processes.
        rank: of this process among them.
        number: of the session among those of the run.

    Attributes:
        path: of the file.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(
        self, folder: Path, run: str, session: str, rank: int = 0, number: int = 0
    ) -> None:
        hidden = folder / HIDDEN
        hidden.mkdir(parents=True, exist_ok=True)
        me = process()
        host = re.sub(r"[^A-Za-z0-9_]", "_", me["host"])[:40]
        self.path = hidden / f"journal-{host}-{me['pid']}-{secrets.token_hex(4)}.jsonl"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file: int | None = os.open(self.path, flags, 0o666)
        self._inode = os.fstat(self._file).st_ino
        names = {"run": run, "session": session, "number": number}
        self._write({"journal": FORMAT, **names, "started": now(), "rank": rank, **me})

    def start(self, files: Sequence[str]) -> None:
        """The work on images begins.

        Args:
            files: of the images.

        Raises:
            OSError: the line cannot be written.
        """
        self._write({"start": list(files)})

    def leave(self, files: Sequence[str]) -> None:
        """The run ends while images are in work; that is no fault of theirs.

        Args:
            files: of the images.

        Raises:
            OSError: the line cannot be written.
        """
        self._write({"left": list(files)})

    def add(self, lines: Sequence[Line]) -> None:
        """The images of a batch are done.

        Args:
            lines: one an image, with ``row``.

        Raises:
            OSError: a line cannot be written.
        """
        for k, line in enumerate(lines):
            self._write(line | {"unit": [k, len(lines)]})

    def note_table(self, name: str, class_names: Sequence[str]) -> None:
        """A further table is made of what the lines hold.

        Args:
            name: of the table.
            class_names: of the predictions.

        Raises:
            OSError: the line cannot be written.
        """
        self._write({"table": name, "class_names": list(class_names)})

    def check(self) -> None:
        """Refuse to go on where the folder is no longer the one that the run began in.

        Raises:
            FileNotFoundError: the journal has gone.
        """
        try:
            there = os.stat(self.path).st_ino == self._inode
        except (FileNotFoundError, NotADirectoryError):
            there = False
        if not there:
            raise FileNotFoundError(
                f"expected the output folder {self.path.parent.parent} as it was when the run "
                "began, got one without the run's journal; it was removed, replaced or renamed: "
                "start anew"
            )

    def close(self, sync: bool = False) -> None:
        """No further lines.

        Args:
            sync: bring the lines to the disk before, so that other hosts see them.
        """
        file, self._file = self._file, None
        if file is None:
            return
        try:
            if sync:
                os.fsync(file)
        finally:
            os.close(file)

    def _write(self, line: Line) -> None:
        if self._file is None:
            return
        data = json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n"
        try:
            written = os.write(self._file, data)
            if written < len(data):  # a disk that is full takes a part; the next call says why
                os.write(self._file, data[written:])
            if synced():
                os.fsync(self._file)
        except OSError:
            self.close()  # nothing may follow a torn line
            raise


@dataclass
class History:
    """What the journals of a folder hold.

    Attributes:
        lines: of each file, its images' lines in the order of their parts; of the last session
            that has done the file.
        starts: how often the work on a file began since a line of it was last written.
        runs: names of the runs.
        tables: names of further tables that are made of the lines, with the classes' names.
    """

    lines: dict[str, list[Line]] = field(default_factory=dict)
    starts: Counter[str] = field(default_factory=Counter)
    runs: set[str] = field(default_factory=set)
    tables: dict[str, list[str]] = field(default_factory=dict)

    def all_lines(self) -> list[Line]:
        """The lines of all files."""
        return [line for lines in self.lines.values() for line in lines]


def journals(folder: Path) -> list[Path]:
    """The journals of a folder.

    Args:
        folder: of a run's results.

    Returns:
        Their paths.
    """
    return sorted((folder / HIDDEN).glob("journal-*.jsonl"))


def read_history(folder: Path, but: str = "") -> History:
    """Read the journals of a folder.

    Args:
        folder: of a run's results.
        but: a session to leave out.

    Returns:
        What they hold.
    """
    history = History()
    of_session: dict[str, str] = {}
    read = [(lines[0], lines[1:]) for path in journals(folder) if (lines := list(_lines(path)))]
    for head, lines in sorted(read, key=_order):
        session = str(head.get("session"))
        if head.get("journal") != FORMAT or session == but:
            continue
        history.runs.add(str(head["run"]))
        _add(history, of_session, session, lines)
    for lines in history.lines.values():
        lines.sort(key=lambda line: line["part"])
    return history


def _add(history: History, of_session: dict[str, str], session: str, lines: Sequence[Line]) -> None:
    batch: list[Line] = []
    for line in lines:
        if "start" in line:
            batch = []
            history.starts.update(line["start"])
        elif "left" in line:
            history.starts.subtract(line["left"])
        elif "table" in line:
            history.tables[line["table"]] = line["class_names"]
        elif "row" in line:
            k, n = line["unit"]
            batch = [*batch, line] if k == len(batch) else [line] * (k == 0)
            if k < n - 1 or len(batch) < n:
                continue
            for each in batch:
                file = each["row"]["file"]
                if of_session.get(file) != session:
                    history.lines[file] = []
                of_session[file] = session
                history.lines[file].append(each)
                history.starts.pop(file, None)
            batch = []


def _order(journal: tuple[Line, list[Line]]) -> tuple[int, str]:
    head = journal[0]
    return int(head.get("number", 0)), str(head.get("started"))


def _lines(path: Path) -> Iterator[Line]:
    for text in path.read_bytes().split(b"\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue  # torn, or the empty text after the last line
        if isinstance(line, dict):
            yield line
