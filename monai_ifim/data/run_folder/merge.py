"""One table from the journals of one run's folders."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from monai_ifim.data.prediction_table import JOURNALLED, write_predictions
from monai_ifim.data.run_folder.done import missing_volume
from monai_ifim.data.run_folder.earlier import read_list
from monai_ifim.data.run_folder.journal import Line, read_history
from monai_ifim.data.run_folder.record import differences, read_record
from monai_ifim.data.tables import RUN, Row, check_table, write_table
from monai_ifim.messages import failed, is_failure

_ABSENT = failed("no row in any journal: its work has not ended")


@dataclass(frozen=True)
class Merged:
    """What a merge has found.

    Attributes:
        rows: of the table, one an image.
        absent: files of the list without a row of their own; the table says so of each.
        damaged: volumes that are not as they were written, where that was asked for.
        tables: names of further tables, written beside.
    """

    rows: tuple[Row, ...]
    absent: tuple[str, ...]
    damaged: tuple[str, ...]
    tables: tuple[str, ...] = ()

    @property
    def failures(self) -> int:
        """How many images have no result."""
        return sum(is_failure(row["status"]) for row in self.rows)

    @property
    def done(self) -> int:
        """How many images have one."""
        return len(self.rows) - self.failures


def merge_runs(
    folders: Sequence[str | os.PathLike[str]],
    table: str | os.PathLike[str],
    *,
    verify: bool = False,
) -> Merged:
    """Make one table of the journals of several folders, or make the table of one anew.

    Args:
        folders: output folders of runs with the same network and settings.
        table: path of the table.
        verify: compare the sizes of all volumes with those that were written.

    Returns:
        What was found.

    Raises:
        ValueError: a folder holds no run, or the runs differ in network or settings.
        OSError: the table cannot be written.
        ModuleNotFoundError: Parquet without pyarrow.
    """
    check_table(Path(table))
    paths = [Path(folder) for folder in folders]
    _check_same(paths)
    lines: dict[str, list[Line]] = {}
    damaged: list[str] = []
    listed: dict[str, None] = {}
    tables: dict[str, list[str]] = {}
    for path in paths:
        listed |= dict.fromkeys(read_list(path) or ())
        history = read_history(path)
        tables |= history.tables
        for file, found in history.lines.items():
            if file not in lines or _failed(lines[file]):
                lines[file] = found
            if verify:
                bad = [missing_volume(path, line) for line in found]
                damaged += [str(path / name) for name in bad if name is not None]
    absent = [file for file in listed if file not in lines]
    done = [line for each in lines.values() for line in each]
    rows = [line["row"] for line in done]
    rows += [{"file": file, "status": _ABSENT} for file in absent]
    rows.sort(key=lambda row: row["file"])  # stable: the parts of one file keep their order
    text = failed(f"{len(absent)} of {len(listed)} images have no row in any journal")
    cut = [{"file": RUN, "status": text}] if absent else []
    write_table([*rows, *cut], Path(table))
    predictions = [line[JOURNALLED] for line in done if JOURNALLED in line]
    for name, class_names in tables.items():
        write_predictions(predictions, class_names, Path(table).with_name(name))
    return Merged(tuple(rows), tuple(absent), tuple(damaged), tuple(tables))


def _failed(lines: Sequence[Line]) -> bool:
    return any(is_failure(line["row"]["status"]) for line in lines)


def _check_same(paths: Sequence[Path]) -> None:
    first = None
    for path in paths:
        record = read_record(path)
        if record is None:
            raise ValueError(
                f"expected a folder with run.json, got {path} without; name the output folders of "
                "the runs"
            )
        first = record if first is None else first
        changed = list(differences(first["identity"], record["identity"]))
        if changed:
            raise ValueError(
                f"expected runs with the same network and settings, got {path} in which "
                f"{'; '.join(changed[:4])}; merge each kind by itself"
            )
