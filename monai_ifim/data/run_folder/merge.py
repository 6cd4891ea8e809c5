"""One table from the journals of one run's folders."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from monai_ifim.data.run_folder.done import missing_volume
from monai_ifim.data.run_folder.earlier import remove_leftovers
from monai_ifim.data.run_folder.image_list import read_list
from monai_ifim.data.run_folder.journal import HIDDEN, Line, now, read_history
from monai_ifim.data.run_folder.lock import FolderLock, parts_at_work
from monai_ifim.data.run_folder.record import (
    COMPLETE,
    INTERRUPTED,
    RECORD,
    Record,
    differences,
    read_record,
    write_record,
)
from monai_ifim.data.run_pooled.files import merge_parts
from monai_ifim.data.run_table.prediction_table import JOURNALLED, write_predictions
from monai_ifim.data.tables import RUN, Row, check_table, write_table
from monai_ifim.messages import failed, is_failure, reason

_ABSENT = failed("no row in any journal: its work has not ended")


@dataclass(frozen=True)
class Merged:
    """What a merge has found.

    Attributes:
        rows: of the table, one an image.
        absent: files of the list without a row of their own; the table says so of each.
        damaged: volumes that are not as they were written, where that was asked for.
        tables: names of further tables, written beside.
        listed: how many images the lists hold; where there is no list, how many rows there are.
        dropped: how many images of the journals are no longer in the list.
    """

    rows: tuple[Row, ...]
    absent: tuple[str, ...]
    damaged: tuple[str, ...]
    tables: tuple[str, ...] = ()
    listed: int = 0
    dropped: int = 0

    @property
    def failures(self) -> int:
        """How many images have no result."""
        return sum(is_failure(row["status"]) for row in self.rows)

    @property
    def done(self) -> int:
        """How many images have one."""
        return len(self.rows) - self.failures

    @property
    def complaint(self) -> str | None:
        """What is missing, None for nothing."""
        if not self.absent:
            return None
        return f"{len(self.absent)} of {self.listed} images have no row in any journal"


def merge_runs(
    folders: Sequence[str | os.PathLike[str]],
    table: str | os.PathLike[str],
    *,
    verify: bool = False,
) -> Merged:
    """Make one table of the journals of several folders, or make the table of one anew.

    Of images that were done in several folders the result counts that is none of a failure; two
    results must be the same. Images that are no longer in a folder's list are left out.

    Args:
        folders: output folders of runs with the same network and settings.
        table: path of the table. Where it lies in one of the folders, no run may end meanwhile.
        verify: compare the sizes of all volumes with those that were written.

    Returns:
        What was found.

    Raises:
        ValueError: a folder holds no run, the runs differ in network or settings, or two images
            have the same name; or the table would replace another file of a run.
        RuntimeError: a run is writing to the table's folder.
        OSError: the table cannot be written.
        ModuleNotFoundError: Parquet without pyarrow.
    """
    paths, path = [Path(folder) for folder in folders], Path(table)
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"expected a table.csv or table.parquet, got {path}; rename it")
    check_table(path)
    records = _records(paths)
    home = next((i for i, p in enumerate(paths) if _same(p, path.parent)), None)
    runs = [(p, record["run"]) for p, record in zip(paths, records, strict=True)]
    if home is None:
        merged = _written(_joined(paths, verify), path)
        merge_parts(runs, path, merged.listed)
        return merged
    _check_name(records[home], path)
    lock = FolderLock(path.parent)
    lock.acquire()
    try:
        merged = _written(_joined(paths, verify), path)
        pooled = merge_parts(runs, path, merged.listed)
        whole = len(paths) == 1 and path.name == _own_table(records[0])
        if whole and not merged.absent and not parts_at_work(path.parent):
            _complete(path.parent, path.name, merged, pooled)
        return merged
    finally:
        lock.release()


def table_of(folders: Sequence[str | os.PathLike[str]]) -> Path:
    """The table that a merge makes anew.

    Args:
        folders: that are merged.

    Returns:
        That of the run, where there is one folder.

    Raises:
        ValueError: there are several.
    """
    if len(folders) > 1:
        raise ValueError(
            f"expected a table for {len(folders)} folders, got none; name one outside of them with "
            "--table"
        )
    return Path(folders[0], _own_table(read_record(Path(folders[0])) or {}))


def finish(path: Path, table: str, record: Record) -> Merged:
    """Write the table of all parts, and say in ``run.json`` that the run is complete.

    To be called with the lock of the folder.

    Args:
        path: of the run's folder.
        table: name of the table.
        record: content of ``run.json``.

    Returns:
        What the table holds. The run is not complete while a listed image has no row.

    Raises:
        BaseException: something cannot be written; the reason is in ``run.json``, if it can be.
    """
    try:
        remove_leftovers(path)
        merged = _written(_joined([path]), path / table)
        pooled = merge_parts([(path, record["run"])], path / table, merged.listed)
    except BaseException as error:
        with suppress(OSError):
            write_record(path, record | {"state": INTERRUPTED, "reason": reason(error)})
        raise
    _complete(path, table, merged, pooled)
    return merged


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


def _complete(path: Path, table: str, merged: Merged, pooled: Sequence[str]) -> None:
    record = read_record(path) or {}
    counts = {"listed": merged.listed, "done": merged.done, "failed": merged.failures}
    state = INTERRUPTED if merged.absent else COMPLETE
    ended = {"state": state, "reason": merged.complaint, "ended": now(), "images": counts}
    tables = dict.fromkeys([table, *record.get("tables", []), *merged.tables, *pooled])
    write_record(path, record | ended | {"tables": list(tables)})


@dataclass
class _Joined:
    """What the journals of several folders hold."""

    lines: dict[str, list[Line]] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)
    listed: dict[str, None] = field(default_factory=dict)
    tables: dict[str, list[str]] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    dropped: int = 0


def _joined(paths: Sequence[Path], verify: bool = False) -> _Joined:
    joined = _Joined()
    for path in paths:
        history, images = read_history(path), read_list(path)
        names = None if images is None else dict.fromkeys(images.names)
        joined.listed |= names or {}
        joined.tables |= history.tables
        for file, found in history.lines.items():
            if names is not None and file not in names:
                joined.dropped += 1
                continue
            _add(joined, path, file, found)
            if verify:
                bad = [missing_volume(path, line) for line in found]
                joined.damaged += [str(path / name) for name in bad if name is not None]
    return joined


def _add(joined: _Joined, path: Path, file: str, found: list[Line]) -> None:
    there = joined.lines.get(file)
    if there is not None and not _failed(there):
        if not _failed(found) and _content(there) != _content(found):
            raise ValueError(
                f"expected the images of one list in all folders, got {file!r} with other results "
                f"in {joined.places[file]} and in {path}; are these two images? Run them by their "
                "whole paths, or merge the folders apart"
            )
        return
    joined.lines[file], joined.places[file] = found, path


def _content(lines: Sequence[Line]) -> str:
    # The time of a file's copy on another machine may differ.
    sizes = [(line.get("source") or [None])[0] for line in lines]
    return json.dumps([sizes, [line["row"] for line in lines]], sort_keys=True)


def _written(joined: _Joined, table: Path) -> Merged:
    absent = [file for file in joined.listed if file not in joined.lines]
    done = [line for each in joined.lines.values() for line in each]
    rows = [line["row"] for line in done]
    rows += [{"file": file, "status": _ABSENT} for file in absent]
    rows.sort(key=lambda row: row["file"])  # stable: the parts of one file keep their order
    merged = Merged(
        tuple(rows),
        tuple(absent),
        tuple(joined.damaged),
        tuple(joined.tables),
        len(joined.listed) or len(rows),
        joined.dropped,
    )
    cut = [{"file": RUN, "status": failed(merged.complaint)}] if merged.complaint else []
    write_table([*rows, *cut], table)
    predictions = [line[JOURNALLED] for line in done if JOURNALLED in line]
    for name, class_names in joined.tables.items():
        write_predictions(predictions, class_names, table.with_name(name))
    return merged


def _own_table(record: Record) -> str:
    return next(iter(record.get("tables") or ()), "ifim.csv")


def _check_name(record: Record, table: Path) -> None:
    """Refuse a table that would replace another file of the run."""
    own = _own_table(record)
    others = (RECORD, *(name for name in record.get("tables", ()) if name != own))
    if table.name in others:
        raise ValueError(
            f"expected a name for the table, got {table.name}, which is another file of the run; "
            f"take {own}"
        )


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _failed(lines: Sequence[Line]) -> bool:
    return any(is_failure(line["row"]["status"]) for line in lines)


def _records(paths: Sequence[Path]) -> list[Record]:
    """What runs these are, of the same network and settings."""
    records: list[Record] = []
    for path in paths:
        record = read_record(path)
        if record is None:
            raise ValueError(
                f"expected a folder with run.json, got {path} without; name the output folders of "
                "the runs"
            )
        if record.get("parts") and read_list(path) is None:
            raise ValueError(
                f"expected the list of images in {path / HIDDEN}, got none; start one of the "
                "shards again with --resume, which writes it"
            )
        records.append(record)
        changed = list(differences(records[0]["identity"], record["identity"]))
        # Where images lie is no setting: machines have disks of their own.
        changed = [each for each in changed if "data_root_dir was" not in each]
        if changed:
            raise ValueError(
                f"expected runs with the same network and settings, got {path} in which "
                f"{'; '.join(changed[:4])}; merge each kind by itself"
            )
    return records
