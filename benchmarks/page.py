"""``docs/performance.md`` from the committed measurements; no number in it is typed.

python -m benchmarks.page                 # docs/performance/*.json to docs/performance.md
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from monai_ifim.report import markdown

# What comes first; files of other names follow in alphabetical order.
_ORDER = (
    "lower_bound",
    "peers",
    "epoch",
    "epoch_pictures",
    "pooling",
    "inference_run",
    "pictures",
    "profile",
    "scaling",
    "engines",
    "large_k",
    "segmentation",
    "volume",
    "volumes",
    "ideas",
)

_INTRODUCTION = """\
*This page is generated from `{folder}/*.json`; no number in it is typed.*

A cell `1.02 (0.98–1.10)` is the median of the repeats with the smallest and the largest. What is
compared was run in turn in one process, after a warm-up; a ratio is taken within a round. Small
machines with other tenants: read the ratios, not the seconds. Networks have random weights and
images are noise, which the time does not depend on.

`make bench` measures on the CPU, `make bench-all` also an inference run, several processes, a whole
volume and the ideas, `make bench-gpu` on a CUDA device."""


def generate(folder: Path, page: Path) -> str:
    """The text of the page.

    Args:
        folder: with the JSON files of the benchmarks.
        page: where the text will be, for the links to pictures.

    Returns:
        Markdown.

    Raises:
        ValueError: a file that no benchmark wrote, or one of a smoke test.
    """
    linked = Path(os.path.relpath(folder, page.parent)).as_posix()
    files = sorted(folder.glob("*.json"), key=_rank)
    sections = ["\n\n".join(_section(_read(file), linked)) for file in files]
    if not any(file.stem.endswith("_cuda") for file in files):
        sections.append("No GPU has been measured yet.")
    top = "# Time and memory\n\n" + _INTRODUCTION.format(folder=folder.as_posix())
    return "\n\n".join([top, *sections]) + "\n"


def _rank(file: Path) -> tuple[int, str]:
    name = file.stem.removesuffix("_cuda")
    return (_ORDER.index(name) if name in _ORDER else len(_ORDER), file.stem)


def _read(file: Path) -> dict[str, Any]:
    record = json.loads(file.read_text(encoding="utf-8"))
    needed = {"title", "claim", "command", "environment", "columns", "rows"}
    missing = needed - set(record)
    if missing:
        raise ValueError(
            f"expected the entries that benchmarks/harness.py lists, {file} lacks "
            f"{sorted(missing)}; write it with harness.report"
        )
    if record.get("quick"):
        raise ValueError(f"expected results, {file} is a smoke test; run it without --quick")
    return record


def _section(record: dict[str, Any], linked: str) -> Iterator[str]:
    device = record["environment"].get("device", "cpu")
    yield f"## {record['title']}" + ("" if device == "cpu" else f", {device}")
    yield record["claim"]
    yield table(record["columns"], record["rows"])
    if record.get("figure"):
        yield f"![{record['title']}]({linked}/{record['figure']})"
    for part in record.get("tables", ()):
        yield part["heading"]
        yield table(part["columns"], part["rows"])
    if record.get("notes"):
        yield "\n".join(f"- {note}" for note in record["notes"])
    about = ", ".join(f"{name} {value}" for name, value in record["environment"].items())
    yield f"`{record['command']}`; {about}."


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """The Markdown table of cells as ``cell`` words them.

    Args:
        columns: headings.
        rows: cells of each row.

    Returns:
        The table, without a newline at its end.

    >>> print(table(["what", "s"], [["one", [1.0, 0.912, 1.1]], ["two", None]]))
    | what | s |
    | --- | --- |
    | one | 1.00 (0.912–1.10) |
    | two | – |
    """
    return markdown.table(columns, [[cell(value) for value in row] for row in rows])


def cell(value: Any) -> str:  # noqa: PLR0911 - one line for each kind of value
    """A text, a number to three digits, or a median with its range.

    Args:
        value: text, number, [median, smallest, largest], or None.

    Returns:
        What the page shows.

    >>> cell(12345.6), cell(3.14159), cell(2.5e-7), cell(None), cell(8)
    ('12346', '3.14', '2.5e-07', '–', '8')
    """
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        median, smallest, largest = map(cell, value)
        return median if smallest == largest else f"{median} ({smallest}–{largest})"
    if isinstance(value, int):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:#.3g}".rstrip(".")


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/performance"))
    parser.add_argument("page", type=Path, nargs="?", default=Path("docs/performance.md"))
    options = parser.parse_args(argv)
    options.page.write_text(generate(options.folder, options.page), encoding="utf-8")


if __name__ == "__main__":
    main()
