"""Class numbers of a folder's images: from the data list, a table, or the names of folders."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def find_labels(
    paths: Sequence[str], given: Sequence[int | None], top: Path, classes: list[str]
) -> Tensor | None:
    """Class numbers of images, from the first source that has one for every image.

    Args:
        paths: N absolute paths of the images.
        given: N labels of the bundle's own data list, None where it has none.
        top: folder of the images, or one image file; ``labels.csv`` lies in the folder.
        classes: names of the classes, which subfolders of ``top`` may bear.

    Returns:
        Class numbers (N,) in int64, or None where no source has one for every image.
    """
    numbers = [number for number in given if number is not None]
    if len(numbers) < len(paths):
        table = (top if top.is_dir() else top.parent) / "labels.csv"
        numbers = _from_table(table, paths) if table.is_file() else []
    numbers = numbers or _from_folders(paths, top, classes)
    return torch.tensor(numbers) if numbers else None


def class_number(value: Any) -> int | None:
    """A label as a class number.

    Args:
        value: of a data set's item.

    Returns:
        The number of an integer scalar, be it a number, an array or a tensor; None for everything
        else, a mask for example.
    """
    with suppress(ValueError, RuntimeError):  # of more than one element
        value = value.item() if hasattr(value, "item") else value
    return value if type(value) is int else None


def path_below(path: str, top: Path) -> str:
    """A path relative to a folder, with forward slashes.

    Args:
        path: absolute.
        top: the folder.

    Returns:
        The relative path; the absolute one of a file that lies elsewhere.
    """
    return Path(path).relative_to(top).as_posix() if top in Path(path).parents else path


def _from_table(table: Path, paths: Sequence[str]) -> list[int]:
    """Numbers from the table's column ``label``; [] if one image has none there."""
    with table.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    files = [str(table.parent / (row.get("path") or row.get("file") or "")) for row in rows]
    known = {os.path.abspath(f): row.get("label") or "" for f, row in zip(files, rows, strict=True)}
    bad = [path for path in paths if not known.get(path, "").isdecimal()]
    if bad:
        logger.warning(
            "no labels: expected in %s the columns path or file, and label with the number of the "
            "class, got %r for %s; add what is missing",
            *(table, known.get(bad[0]), bad[0]),
        )
    return [] if bad else [int(known[path]) for path in paths]


def _from_folders(paths: Sequence[str], top: Path, classes: list[str]) -> list[int]:
    """Numbers of the classes whose names the folders below ``top`` bear; [] if one does not."""
    folders = [path_below(path, top).partition("/")[0] for path in paths]
    # One output alone has the outcomes yes and no: its name is no number.
    named = len(classes) > 1 and set(folders) <= set(classes)
    return [classes.index(folder) for folder in folders] if named else []
