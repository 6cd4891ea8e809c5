"""Files that are either complete or not there."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def complete_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file under a hidden name, which becomes its own name once it is complete.

    No reader meets half a file, and after an error the file is as it was before.

    Args:
        path: of the file; its folder is made, and a file that is there is replaced.

    Yields:
        The path to write to: hidden, in the same folder, with the same ending, and different for
        every process and thread. It is gone afterwards.

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
    partial = path.with_name(f".partial-{os.getpid()}-{threading.get_native_id()}-{end}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
