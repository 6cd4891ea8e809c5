"""``run.json``: which run the results of a folder belong to, and whether it is complete."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from monai_ifim.data.atomic import complete_file

RECORD = "run.json"
RUNNING, COMPLETE, INTERRUPTED = "running", "complete", "interrupted"
_PACKAGES = ("monai_ifim", "torch", "monai", "pytorch-ignite", "numpy", "nibabel", "isal")

Record = dict[str, Any]


def read_record(folder: Path) -> Record | None:
    """Read what run a folder belongs to.

    Args:
        folder: of a run's results.

    Returns:
        The content of ``run.json``; None where there is none.

    Raises:
        ValueError: the file is none of ours.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        record = error
    if not isinstance(record, dict) or "identity" not in record:
        raise ValueError(
            f"expected {folder / RECORD} of a run of monai_ifim, got another file; choose another "
            "output_dir"
        )
    return record


def write_record(folder: Path, record: Record) -> None:
    """Write what run a folder belongs to.

    Args:
        folder: of the run's results.
        record: its content.

    Raises:
        OSError: it cannot be written.
    """
    with complete_file(folder / RECORD) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """What differs between two identities.

    Args:
        before: of the results that are there.
        now: of the run that would go on.
        name: of what is compared.

    Yields:
        One sentence for each difference.

    >>> list(differences({"rank": 2, "volumes": ["high"]}, {"rank": None, "volumes": ["high"]}))
    ['rank was 2, is None']
    """
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            dotted = f"{name}.{key}" if name else str(key)
            yield from differences(before.get(key), now.get(key), dotted)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from differences(old, new, f"{name}[{i}]")
    elif before != now:
        yield f"{name} was {_short(before)}, is {_short(now)}"


@cache
def environment() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def command() -> list[str]:
    """The command line of this process."""
    return list(sys.argv)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
