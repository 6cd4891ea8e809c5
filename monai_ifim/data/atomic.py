"""Files that are either complete or not there."""

from __future__ import annotations

import os
import re
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HOST = re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())[:24] or "host"
_NAME = re.compile(r"\.partial-(?P<host>\w+)-(?P<pid>\d+)-[0-9a-f]{8}-")


class _Records(threading.local):
    def __init__(self) -> None:
        self.lists: list[list[Path]] = []


_RECORDS = _Records()


@contextmanager
def complete_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file under a hidden name, which becomes its own name once it is complete.

    No reader meets half a file, and after an error the file is as it was before.

    Args:
        path: of the file; its folder is made, and a file that is there is replaced.

    Yields:
        The path to write to: hidden, in the same folder, with the same ending, and different for
        every host, process and call. It is gone afterwards.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with complete_file(Path(folder, "table.csv")) as partial:
    ...         _ = partial.write_text("file,status")
    ...         before = Path(folder, "table.csv").exists()
    ...     before, [file.name for file in Path(folder).iterdir()]
    (False, ['table.csv'])
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    end = path.name[-40:]  # the hidden name has room where the name itself has
    # Hosts that share a disk can have processes of the same number.
    partial = path.with_name(f".partial-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}-{end}")
    try:
        yield partial
        if synced():
            _sync(partial)
        partial.replace(path)
        if synced():
            _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)
    for record in _RECORDS.lists:
        record.append(path)


def synced() -> bool:
    """Whether files must survive a power cut, by the environment variable ``MONAI_IFIM_FSYNC``."""
    return os.environ.get("MONAI_IFIM_FSYNC", "") not in ("", "0")


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def recorded_files() -> Iterator[list[Path]]:
    """Note which files ``complete_file`` finishes in the meantime, in this thread.

    Yields:
        Their paths, in order.
    """
    record: list[Path] = []
    _RECORDS.lists.append(record)
    try:
        yield record
    finally:
        _RECORDS.lists = [each for each in _RECORDS.lists if each is not record]


def maker_of_partial(name: str) -> tuple[bool, int] | None:
    """Who writes a file under a hidden name.

    Args:
        name: of a file.

    Returns:
        Whether it is a process of this host, and the number of the process; None for a file that
        is not from ``complete_file``.

    >>> maker_of_partial("scan.nii.gz")
    """
    found = _NAME.match(name)
    return None if found is None else (found["host"] == _HOST, int(found["pid"]))
