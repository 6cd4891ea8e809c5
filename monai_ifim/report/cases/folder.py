"""The output folder of a run: its tables, and the volumes of every image."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from monai_ifim.core import pooled_words
from monai_ifim.data.nifti import affine_in_millimetres, model_of
from monai_ifim.data.run_folder.earlier import EARLIER
from monai_ifim.data.run_folder.journal import read_history
from monai_ifim.data.tables import Row, read_table
from monai_ifim.report.cases.asked import also_asked
from monai_ifim.report.cases.case import Case, Numbers

TABLES = ("ifim.csv", "ifim.parquet")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp")
_END = "_ifim_high.nii.gz"
# With the numbers that end the names of further images of one file.
_VOLUME = {
    name: re.compile(rf"_ifim_{name}((?:_\d+)*)\.nii(?:\.gz)?$")
    for name in ("high", "orth", "sensitivity")
}
# In the place of a file in the row that says that the run was cut short, or one of its ranks.
_CUT = re.compile(r"(run|rank \d+)$")
_KNOWN = re.compile(
    r"(file|predicted_class|trace|rank|trace_share|high_energy_share|flip_distance|flip_class"
    r"|status)$|probability|eigenvalue_"
)


class RunFolder:
    """What a run has left in its output folder.

    Args:
        path: of the folder, with ``ifim.csv``.
        labels: the true class by file, as ``read_labels`` returns it.

    Attributes:
        path: as given.
        rows: of the table, one an image.
        notice: what the table says of the run, where that was cut short; empty for nothing.
        settings: of ``run.json``, empty where there is none.

    Raises:
        FileNotFoundError: there is no table.
    """

    def __init__(self, path: Path, labels: Mapping[str, str] | None = None) -> None:
        table = next((path / name for name in TABLES if (path / name).is_file()), None)
        if table is None:
            if (path / "run.json").is_file():
                raise FileNotFoundError(
                    f"expected {path / TABLES[0]}, got a run that has not written it yet; wait for "
                    f"its last shard, or make it of what is done: monai-ifim merge {path}"
                )
            raise FileNotFoundError(
                f"expected {path / TABLES[0]} of an inference run, got nothing; run a bundle with "
                f"--output_dir {path} first"
            )
        self.path, self._labels = path, dict(labels or {})
        rows = [texts_of(row) for row in read_table(table)]
        self.rows = [row for row in rows if not _CUT.match(row["file"])]
        self.notice = "; ".join(row["status"] for row in rows if _CUT.match(row["file"]))
        counts: Counter[str] = Counter()
        self._parts: dict[int, int] = {}  # how many images of its file come before each row
        for row in self.rows:
            self._parts[id(row)] = counts[row["file"]]
            counts[row["file"]] += 1
        self._journal = read_history(path).lines
        self._probabilities = _probabilities(path / "predictions.csv")
        self.settings = _settings(path / "run.json")

    @property
    def space(self) -> str:
        """A sentence where components were taken in a pooled eigenspace; empty for their own."""
        known: Any = self.settings
        for key in ("identity", "settings", "space"):
            known = known.get(key) if isinstance(known, dict) else None
        if not isinstance(known, dict) or not {"images", "directions"} <= set(known):
            return ""
        return f"Components {pooled_words(known['images'], known['directions'])}."

    def numbers(self, row: Row) -> Numbers:
        """What the tables say of an image.

        Args:
            row: one of ``rows``.

        Returns:
            Its numbers, with the names of the classes where ``predictions.csv`` has them.
        """
        probabilities, label = self._probabilities.get(row["file"]), self._label(row["file"])
        return numbers_of(row, probabilities, label, self.settings)

    def volumes(self, row: Row) -> dict[str, Path]:
        """Where the volumes of an image lie.

        Args:
            row: one of ``rows``.

        Returns:
            Paths by ``high``, ``orth`` and ``sensitivity``, of those that there are.
        """
        part = self._parts[id(row)]
        lines = self._journal.get(row["file"], [])
        written = lines[part].get("volumes", {}) if part < len(lines) else {}
        found = {name: [p for p in written if _VOLUME[name].search(p)] for name in _VOLUME}
        if any(len(paths) > 1 for paths in found.values()):  # of a whole batch: names must tell
            found = {}
        paths = {name: self.path / given[0] for name, given in found.items() if given}
        stem = None if paths or part else self._stem(row)
        if stem is not None:
            ends = {name: f"{stem.name}_ifim_{name}.nii.gz" for name in _VOLUME}
            paths = {name: stem.with_name(end) for name, end in ends.items()}
        return {name: path for name, path in paths.items() if path.is_file()}

    def _stem(self, row: Row) -> Path | None:
        """The path without ``_ifim_high.nii.gz`` by the image's name, where no journal is."""
        source = Path(row["file"])
        # A DICOM series is a folder, and keeps its name; it may be gone when this is read.
        short = source.name.removesuffix(".gz").rsplit(".", 1)[0]
        names = [source.name, short] if source.is_dir() else [short, source.name]
        for name in names:
            # File names may repeat in several folders: the one with the most folders in common.
            found = self._stems.get(name, [])
            if found:
                return max(found, key=lambda stem: _common(stem.parent, source.parent))
        return None

    def case(self, row: Row) -> Case | None:
        """Volumes and numbers of an image.

        Args:
            row: one of ``rows``.

        Returns:
            The case; None where its volumes were not written.
        """
        paths = self.volumes(row)
        if not {"high", "orth"} <= set(paths):
            return None
        header = nib.load(paths["high"])
        sensitivity = paths.get("sensitivity")
        return Case(
            name=_VOLUME["high"].sub(r"\1", os.path.relpath(paths["high"], self.path)),
            high=_volume(paths["high"], np.float32),
            orth=_volume(paths["orth"], np.float32),
            affine=affine_in_millimetres(header),
            sensitivity=None if sensitivity is None else _volume(sensitivity, np.float64),
            numbers=self.numbers(row),
            picture=row["file"].lower().endswith(PICTURES),
            channel_names=tuple(map(str, self.settings.get("channel_names") or ())),
            model=model_of(header.header),
        )

    @cached_property
    def _stems(self) -> dict[str, list[Path]]:
        found = defaultdict(list)
        for file in sorted(self.path.rglob(f"*{_END}")):
            if file.relative_to(self.path).parts[0].startswith(EARLIER):  # of another run
                continue
            stem = file.with_name(file.name.removesuffix(_END))
            found[stem.name].append(stem)
        return found

    def _label(self, file: str) -> str:
        return self._labels.get(file) or self._labels.get(Path(file).name, "")


def numbers_of(
    row: Row,
    probabilities: Mapping[str, float] | None = None,
    label: str = "",
    run: Mapping[str, Any] | None = None,
) -> Numbers:
    """What a row of a table says of its image.

    Args:
        row: as texts, of a table that was read.
        probabilities: of every class by name; those of the row where there are none.
        label: the true class, empty where it is not known.
        run: content of ``run.json``, which says what was asked of the images.

    Returns:
        Its numbers.
    """
    asked = also_asked(row, run or {})
    probabilities = probabilities or _named(row)
    names = list(probabilities)
    values = [_number(value) for name, value in row.items() if name.startswith("eigenvalue_")]
    return Numbers(
        predicted=_by_name(row.get("predicted_class", ""), names),
        probability=_number(row.get("probability")),
        probabilities=probabilities,
        trace=_number(row.get("trace")),
        eigenvalues=tuple(value for value in values if np.isfinite(value)),
        trace_share=_number(row.get("trace_share")),
        energy_share=_number(row.get("high_energy_share")),
        status=row.get("status", ""),
        label=_by_name(label, names),
        flip_distance=_number(row.get("flip_distance")),
        flip_class=_by_name(row.get("flip_class", ""), names),
        asked=asked,
        others={
            name: row[name]
            for name in row
            if row[name] and not _KNOWN.match(name) and name not in asked.columns
        },
    )


def texts_of(row: Row) -> dict[str, str]:
    """A row as it is written in a table.

    Args:
        row: with numbers and texts.

    Returns:
        Texts, empty ones for values that are missing.
    """
    return {name: "" if value is None else str(value) for name, value in row.items()}


def read_labels(path: Path) -> dict[str, str]:
    """Read the true classes of images.

    Args:
        path: of a CSV table with the columns ``file`` and ``label``; files by their whole path or
            by their name alone.

    Returns:
        Label by file.

    Raises:
        ValueError: the table has other columns.
    """
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.DictReader(file)
        if not {"file", "label"} <= set(reader.fieldnames or ()):
            raise ValueError(
                f"expected the columns file and label in {path}, got {reader.fieldnames}; name "
                "them so in the first line"
            )
        return {row["file"]: row["label"] or "" for row in reader}


def _volume(path: Path, dtype: Any) -> np.ndarray:
    """Channels first, three spatial axes."""
    data = np.asanyarray(nib.load(path).dataobj, dtype=dtype)
    data = data.reshape(*data.shape, *[1] * (3 - data.ndim))
    return np.moveaxis(data.reshape(*data.shape[:3], -1), -1, 0)


def _probabilities(path: Path) -> dict[str, dict[str, float]]:
    """Of every class by name, by file; nothing where the bundle's own table is another one."""
    if not path.is_file():
        return {}
    try:
        rows = read_table(path)
    except (ValueError, csv.Error):  # rows of different lengths: MONAI's table has no header
        return {}
    first, *names, last = rows[0] if rows else ("", "")
    if (first, last) != ("file", "predicted_class"):
        return {}
    return {row["file"]: {name: _number(row[name]) for name in names} for row in rows}


def _named(row: Row) -> dict[str, float]:
    """Probabilities of the classes in the table of the eigenspaces itself."""
    start = "probability_"
    named = {
        name.removeprefix(start): _number(v) for name, v in row.items() if name.startswith(start)
    }
    return named if all(np.isfinite(value) for value in named.values()) else {}


def _by_name(outcome: str, names: list[str]) -> str:
    """A class by its name where the table has its number; several labels stand with a plus."""
    parts = outcome.split("+")
    if len(names) < 2 or not all(p.isdecimal() and int(p) < len(names) for p in parts):
        return outcome
    return "+".join(names[int(part)] for part in parts)


def _settings(path: Path) -> dict[str, Any]:
    """What the run wrote about itself; a file that is no JSON object is as none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return float("nan")


def _common(a: Path, b: Path) -> int:
    same = [x == y for x, y in zip(reversed(a.parts), reversed(b.parts), strict=False)]
    return same.index(False) if False in same else len(same)
