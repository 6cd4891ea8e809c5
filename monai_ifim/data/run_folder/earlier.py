"""Results of an earlier run: what they are, moving them aside, and what killed processes left."""

from __future__ import annotations

import logging
import os
import time
from datetime import datetime
from pathlib import Path

from monai_ifim.data.atomic import maker_of_partial
from monai_ifim.data.run_folder.epoch_tables import epoch_tables
from monai_ifim.data.run_folder.image_list import LIST
from monai_ifim.data.run_folder.journal import HIDDEN, journals, read_history
from monai_ifim.data.run_folder.record import RECORD, Record
from monai_ifim.data.run_pooled.parts import PREFIX

logger = logging.getLogger(__name__)

EARLIER = "earlier-"  # beginning of the names of folders with results that were moved aside
DICOM_FOLDER = "dicom"  # of the results as DICOM objects, which would pass for the new run's
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
    tables = [table, *([] if record is None else record.get("tables", []))]
    tables += [path.name for one in [*tables] for path in epoch_tables(folder / one)]
    volumes = [name for line in read_history(folder).all_lines() for name in line["volumes"]]
    if record is None:
        found = [path.relative_to(folder) for kind in _VOLUMES for path in folder.rglob(kind)]
        volumes += [str(path) for path in found if not path.parts[0].startswith(EARLIER)]
    objects = (folder / DICOM_FOLDER).rglob("*_ifim_*.dcm")
    volumes += [str(path.relative_to(folder)) for path in objects]
    pooled = (folder / HIDDEN).glob(f"{PREFIX}*.safetensors")
    hidden = [f"{HIDDEN}/{path.name}" for path in (*journals(folder), *pooled)]
    hidden += [f"{HIDDEN}/{LIST}"]
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
