r"""The table of one row an image, as CSV or as Parquet, whatever the files are called.

File names are bytes, and Python stands in surrogate characters for those that are no UTF-8. A CSV
table is UTF-8 and holds the very bytes of the name: read it with ``read_table``, or with
``open(path, newline="", encoding="utf-8", errors="surrogateescape")``. Parquet takes valid UTF-8
alone: there such a byte is written as ``\udcf6`` (Python's "backslashreplace"), and a text with
one, or that spells one, has its own backslashes doubled.

A spreadsheet would run a text that begins like a formula. In a CSV table such a text has an
apostrophe in front, which spreadsheets and ``read_table`` take away; numbers never have one.
"""

from __future__ import annotations

import codecs
import csv
import os
import re
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from monai_ifim.data.atomic import complete_file

Row = dict[str, Any]
RUN = "run"  # in the place of a file: the row that says that the table was cut short
# Columns that are no float64. A class is text: with sigmoids it can be "0+2" or "none".
TEXT = ("file", "predicted_class", "flip_class", "verified_class", "verified_by", "status")
WHOLE = ("rank",)
# How a formula begins in a spreadsheet, wide characters and characters to trim included. With the
# apostrophes before it, so that what is guarded can be told from what had an apostrophe of its own.
_FORMULA = re.compile(r"'*\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|'*[\t\r\n]")
_ESCAPED = re.compile(r"\\ud[89a-f][0-9a-f]{2}")
_UTF8 = "monai_ifim.bytes"


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


def write_csv(rows: Iterable[Row], columns: Sequence[str], path: Path) -> None:
    """Write rows of any columns as CSV; the file appears only when complete.

    Args:
        rows: a missing value is left empty.
        columns: in order.
        path: of the file; its folder is made.
    """
    with complete_file(path) as partial:
        _write_csv(rows, columns, partial)


def read_table(path: str | os.PathLike[str]) -> list[Row]:
    r"""Read a table of a run, with the file names as Python has them.

    Args:
        path: of a CSV table, whose values are texts, or of a Parquet table.

    Returns:
        One dictionary a row.

    Raises:
        OSError: it cannot be read.
        ModuleNotFoundError: Parquet without pyarrow.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "ifim.csv")
    ...     write_table([{"file": "=J\udcf6rg, 1.png", "status": "ok"}], path)
    ...     read_table(path)[0]["file"], b"=J\xf6rg, 1.png" in path.read_bytes()
    ('=J\udcf6rg, 1.png', True)
    """
    path = Path(path)
    if _is_parquet(path):
        check_table(path)
        rows = import_module("pyarrow.parquet").read_table(path).to_pylist()
        return [{name: _unescaped(value) for name, value in row.items()} for row in rows]
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        head, *rows = csv.reader(file)
    names = [_unguarded(name) for name in head]
    return [dict(zip(names, map(_unguarded, row), strict=True)) for row in rows if row]


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _columns(rows: Sequence[Row]) -> list[str]:
    eigenvalues = {name for row in rows for name in row if name.startswith("eigenvalue_")}
    ordered = sorted(eigenvalues, key=lambda name: int(name.rsplit("_", 1)[1]))
    classes = [name for row in rows for name in row if name.startswith("probability_")]
    columns = ["file", "predicted_class", "probability", *dict.fromkeys(classes), "trace", *ordered]
    # Only where directions were left out.
    columns += [name for name in ("residual", "trace_error") if any(name in row for row in rows)]
    columns += ["rank", "trace_share", "high_energy_share"]
    # Only of classifiers.
    columns += [n for n in ("flip_distance", "flip_class") if any(n in row for row in rows)]
    # What else was asked of the images, in its order.
    others = {name: None for row in rows for name in row if name not in columns}
    return [*columns, *[name for name in others if name != "status"], "status"]


def _write_csv(rows: Iterable[Row], columns: Sequence[str], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8", errors=_UTF8) as file:
        writer = csv.writer(file)
        writer.writerow([_guarded(name) for name in columns])
        writer.writerows([_guarded(row.get(name)) for name in columns] for row in rows)


def _write_parquet(rows: Sequence[Row], columns: list[str], path: Path) -> None:
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    # Said, not inferred: a shard in which every image failed must have the types of the others.
    texts = [name for name in columns if name in TEXT or _is_text(rows, name)]
    types = dict.fromkeys(texts, arrow.string()) | dict.fromkeys(WHOLE, arrow.int64())
    schema = arrow.schema([(name, types.get(name, arrow.float64())) for name in columns])
    values = {name: [_escaped(row.get(name)) for row in rows] for name in columns}
    parquet.write_table(arrow.table(values, schema=schema), path)


def _is_text(rows: Sequence[Row], name: str) -> bool:
    """Of a question of somebody's own, whose columns are not known here."""
    return any(isinstance(row.get(name), str) for row in rows)


def _guarded(value: Any) -> Any:
    """A text that no spreadsheet takes for a formula; anything else as it is."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def _unguarded(text: str) -> str:
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def _escaped(value: Any) -> Any:
    """A text of valid UTF-8, from which ``_unescaped`` makes the first one."""
    if not isinstance(value, str) or not (_is_odd(value) or _ESCAPED.search(value)):
        return value
    return value.replace("\\", "\\\\").encode("utf-8", "backslashreplace").decode("utf-8")


def _unescaped(value: Any) -> Any:
    if not isinstance(value, str) or not _ESCAPED.search(value):
        return value
    pattern = rf"\\\\|{_ESCAPED.pattern}"
    return re.sub(pattern, lambda m: "\\" if m[0] == "\\\\" else chr(int(m[0][2:], 16)), value)


def _is_odd(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _bytes_of(error: UnicodeError) -> tuple[bytes, int]:
    """As "surrogateescape", but a surrogate that stands for no byte (Windows) is spelled out."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    odd = error.object[error.start : error.end]
    written = [
        bytes([ord(c) - 0xDC00]) if "\udc80" <= c <= "\udcff" else f"\\u{ord(c):04x}".encode()
        for c in odd
    ]
    return b"".join(written), error.end


codecs.register_error(_UTF8, _bytes_of)
