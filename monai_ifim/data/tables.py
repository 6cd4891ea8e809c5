"""The table of one row an image, as CSV or as Parquet."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from monai_ifim.data.atomic import complete_file

Row = dict[str, Any]
# Columns that are no float64. The class is text: with sigmoids it can be "0+2" or "none".
TEXT = ("file", "predicted_class", "status")
WHOLE = ("rank",)


def check_table(path: Path) -> None:
    """Refuse a table that could not be written, before the work is done.

    Args:
        path: of the table; ``.parquet`` needs pyarrow, every other name is CSV.

    Raises:
        ModuleNotFoundError: Parquet without pyarrow.
    """
    if not _is_parquet(path):
        return
    try:
        import_module("pyarrow.parquet")
    except ImportError as error:
        raise ModuleNotFoundError(
            f"expected pyarrow, which writes {path.name}, got none ({error}); "
            "pip install 'monai_ifim[parquet]', or choose a name that ends in .csv",
            name="pyarrow",
        ) from error


def write_table(rows: Sequence[Row], path: Path) -> None:
    """Write rows as CSV, or as Parquet where the name says so; the file appears only when complete.

    Args:
        rows: one dictionary an image; a missing value is left empty (Parquet: null).
        path: of the file; its folder is made.
    """
    write = _write_parquet if _is_parquet(path) else _write_csv
    with complete_file(path) as partial:
        write(rows, _columns(rows), partial)


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _columns(rows: Sequence[Row]) -> list[str]:
    eigenvalues = {name for row in rows for name in row if name.startswith("eigenvalue_")}
    ordered = sorted(eigenvalues, key=lambda name: int(name.rsplit("_", 1)[1]))
    columns = ["file", "predicted_class", "probability", "trace", *ordered]
    # Only where directions were left out.
    columns += [name for name in ("residual", "trace_error") if any(name in row for row in rows)]
    return [*columns, "rank", "trace_share", "high_energy_share", "status"]


def _write_csv(rows: Sequence[Row], columns: list[str], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(rows: Sequence[Row], columns: list[str], path: Path) -> None:
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    # Said, not inferred: a shard in which every image failed must have the types of the others.
    types = dict.fromkeys(TEXT, arrow.string()) | dict.fromkeys(WHOLE, arrow.int64())
    schema = arrow.schema([(name, types.get(name, arrow.float64())) for name in columns])
    values = {name: [row.get(name) for row in rows] for name in columns}
    parquet.write_table(arrow.table(values, schema=schema), path)
