"""Rows of the report's table: what is shown of each image, and what its page is called."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

from monai_ifim.messages import printable
from monai_ifim.report.cases.folder import RunFolder

# Key, heading, and whether it is a number.
COLUMNS = (
    ("name", "Image", False),
    ("predicted", "Prediction", False),
    ("probability", "Probability", True),
    ("trace", "Trace", True),
    ("largest", "Largest eigenvalue", True),
    ("effective", "Effective rank", True),
    ("energy", "Energy share", True),
    ("label", "Label", False),
    ("status", "Status", False),
)


def columns(labelled: bool) -> list[dict[str, Any]]:
    """Columns of the table.

    Args:
        labelled: whether true classes are known.

    Returns:
        ``key``, ``title`` and ``number`` of each.
    """
    named = (dict(zip(("key", "title", "number"), each, strict=True)) for each in COLUMNS)
    return [column for column in named if labelled or column["key"] != "label"]


def table_rows(folder: RunFolder) -> list[dict[str, Any]]:
    """Rows of the table, for JSON.

    Args:
        folder: of the run.

    Returns:
        One dictionary an image, in the order of ``ifim.csv``; None for a number that is not known.
    """
    names = _names([row["file"] for row in folder.rows])
    found = []
    for index, (row, name) in enumerate(zip(folder.rows, names, strict=True)):
        numbers = folder.numbers(row)
        known = bool(numbers.label) and not numbers.failed
        found.append(
            {
                "index": index,
                "page": f"cases/{_slug(index, name)}.html",
                "name": name,
                "predicted": printable(numbers.predicted),
                "probability": _finite(numbers.probability),
                "trace": _finite(numbers.trace),
                "largest": _finite(max(numbers.eigenvalues, default=math.nan)),
                "effective": _finite(numbers.effective_rank),
                "energy": _finite(numbers.energy_share),
                "label": printable(numbers.label),
                "status": printable(numbers.status),
                "failed": numbers.failed,
                "wrong": known and numbers.label != numbers.predicted,
            }
        )
    return found


def _names(paths: list[str]) -> list[str]:
    """Paths without the folders that all have in common."""
    try:
        common = os.path.commonpath([os.path.dirname(path) for path in paths])
    except ValueError:  # none, or relative and absolute ones
        common = ""
    return [printable(os.path.relpath(path, common) if common else path) for path in paths]


def _slug(index: int, name: str) -> str:
    """A file name that means nothing to a shell, a browser or a file system.

    >>> _slug(7, "a<b>/../c.nii.gz")
    '00007-c'
    """
    stem = Path(name).name.removesuffix(".gz").rsplit(".", 1)[0]
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", stem)[:40].strip("-")
    return f"{index:05d}-{safe}" if safe else f"{index:05d}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
