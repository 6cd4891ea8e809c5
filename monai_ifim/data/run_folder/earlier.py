"""Results of an earlier run: what they are, moving them aside, and what killed processes left."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from monai_ifim.data.atomic import complete_file, maker_of_partial
from monai_ifim.data.run_folder.epoch_tables import epoch_tables
from monai_ifim.data.run_folder.journal import HIDDEN, journals, read_history
from monai_ifim.data.run_folder.record import RECORD, Record

logger = logging.getLogger(__name__)

EARLIER = "earlier-"  # beginning of the names of folders with results that were moved aside
LIST = "images.json"
_VOLUMES = ("*_ifim_high.nii*", "*_ifim_orth.nii*", "*_ifim_sensitivity.nii*")
_OLD = 3600.0  # seconds; a file that another host has not finished in them is left over


def move_aside(folder: Path, table: str, record: Record | None) -> Path:
    """Move the results of an earlier run into a folder of their own, beside the new ones.

    Args:
        folder: of the results.
        table: name of the table.
        record: content of ``run.json``, None for results from before there was one.

    Returns:
        The new folder, ``earlier-<date>`` below the old one.

    Raises:
        OSError: a file cannot be moved.
    """
    stamp = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    target, count = folder / f"{EARLIER}{stamp}", 1
    while target.exists():
        target, count = folder / f"{EARLIER}{stamp}-{count}", count + 1
    tables = [table, *(path.name for path in epoch_tables(folder / table))]
    tables += [] if record is None else record.get("tables", [])
    volumes = [name for line in read_history(folder).all_lines() for name in line["volumes"]]
    if record is None:
        found = [path.relative_to(folder) for kind in _VOLUMES for path in folder.rglob(kind)]
        volumes += [str(path) for path in found if not path.parts[0].startswith(EARLIER)]
    hidden = [f"{HIDDEN}/{path.name}" for path in journals(folder)] + [f"{HIDDEN}/{LIST}"]
    # The record last: until then the folder says whose results these are.
    for name in (*volumes, *dict.fromkeys(tables), *hidden, RECORD):
        if not os.path.isabs(name) and (folder / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).replace(target / name)
    logger.warning("results of an earlier run were moved to %s", target)
    return target


def remove_leftovers(folder: Path) -> int:
    """Remove the hidden files of processes that were killed while they wrote them.

    Args:
        folder: of the results; its subfolders, too.

    Returns:
        How many were removed.
    """
    count = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            maker = maker_of_partial(name)
            if maker is not None and not _at_work(*maker, os.path.join(parent, name)):
                try:
                    os.unlink(os.path.join(parent, name))
                except OSError:
                    continue
                count += 1
    return count


def write_list(folder: Path, files: list[str]) -> None:
    """Write down the list of a run's images, complete, whoever does which of them.

    Args:
        folder: of the results.
        files: in the order of the list.

    Raises:
        OSError: it cannot be written.
    """
    with complete_file(folder / HIDDEN / LIST) as partial:
        partial.write_text(json.dumps({"files": files}), encoding="ascii")


def read_list(folder: Path) -> list[str] | None:
    """The list of a run's images.

    Args:
        folder: of the results.

    Returns:
        The files in order; None where the run had none, as with batches made elsewhere.
    """
    try:
        text = (folder / HIDDEN / LIST).read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    return list(json.loads(text)["files"])


def repeated(names: Iterable[str]) -> set[str]:
    """Files that a list holds more than once.

    Args:
        names: of the list's entries.

    Returns:
        Those files.
    """
    return {name for name, count in Counter(names).items() if count > 1}


def _at_work(here: bool, pid: int, path: str) -> bool:
    if not here:
        try:
            return time.time() - os.stat(path).st_mtime < _OLD
        except OSError:
            return True
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
