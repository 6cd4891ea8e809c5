"""All results of a run as DICOM objects: a row that cannot be converted leaves the others alone."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm import tqdm

from monai_ifim.data.atomic import complete_file
from monai_ifim.data.nifti import affine_in_millimetres, model_of
from monai_ifim.data.run_folder.earlier import DICOM_FOLDER
from monai_ifim.data.tables import Row
from monai_ifim.dicom.identity import Result
from monai_ifim.dicom.objects import OBJECTS, Volume, result_objects
from monai_ifim.dicom.parametric_map import channels_of, check_highdicom
from monai_ifim.dicom.series import SourceSeries, read_series
from monai_ifim.dicom.sources import Sources
from monai_ifim.messages import RESEARCH_ONLY, printable, reason
from monai_ifim.report.cases.folder import RunFolder

_COMPONENT = re.compile(r"_ifim_(?:high|orth|sensitivity)((?:_\d+)*)\.nii(?:\.gz)?$")
_ANOTHER = "written for the series {}, which is another than the run has read"
_NAMED = 10  # images that are named


@dataclass
class Export:
    """What was written of a run.

    Attributes:
        folder: of the objects.
        written: paths of the objects, by image.
        failed: images of which nothing was written, with the reason of each.
        notes: what could not be written of an image of which the rest was.
        doubts: what somebody should look at, of images that were written.
        others: how many images are no DICOM.
    """

    folder: Path
    written: dict[str, list[Path]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)
    others: int = 0

    @property
    def complete(self) -> bool:
        """Whether every DICOM image has its objects."""
        return not self.failed

    def __str__(self) -> str:
        objects = sum(map(len, self.written.values()))
        lines = [f"{len(self.written)} images as {objects} DICOM objects: {self.folder}"]
        told = {"failed": self.failed, "in part": self.notes, "check": self.doubts}
        for what, said in told.items():
            named = list(said.items())
            lines += [f"  {what}: {file}: {why}" for file, why in named[:_NAMED]]
            if len(named) > _NAMED:
                lines.append(f"  and {len(named) - _NAMED} more")
        if self.others:
            lines.append(f"  {self.others} images are no DICOM and were left out")
        return "\n".join(printable(line) for line in [*lines, RESEARCH_ONLY])


def write_results(
    output_dir: Path,
    *,
    sources: Sequence[Path] = (),
    folder: Path | None = None,
    objects: Sequence[str] = OBJECTS,
) -> Export:
    """Write the results of a run as DICOM objects.

    Of each image that was a DICOM series: a Parametric Map for each component, the picture of the
    case as a Secondary Capture, the numbers as a structured report, all in the study of the series.

    Args:
        output_dir: of the run, with its table and volumes.
        sources: series, or folders that are searched for them, in the place of those on record.
        folder: of the objects; ``dicom`` in ``output_dir`` by default. Objects that are there are
            replaced.
        objects: which of "maps", "picture" and "numbers" to write.

    Returns:
        What was written, and why not.

    Raises:
        FileNotFoundError: there is no table, or no such source.
        ModuleNotFoundError: highdicom or matplotlib is not installed.
        ValueError: no image of the run was a DICOM series.
    """
    check_highdicom()
    run = RunFolder(output_dir)
    results = [row["file"] for row in run.rows if not run.numbers(row).failed]
    known = Sources(output_dir, results, sources)
    export = Export(folder or output_dir / DICOM_FOLDER)
    rows = list(zip(run.rows, _labels(run.rows), strict=True))
    shown = tqdm(rows, desc="DICOM", unit="image", leave=False, disable=None)
    for number, (row, name) in enumerate(shown, start=1):
        try:
            entry = known.of(row["file"])
            if entry is None:
                export.others += 1
                continue
            if run.numbers(row).failed:
                export.failed[name] = f"no result ({row['status']})"
                continue
            source = read_series(entry)
            one = _Image(run, row, number, source)
            export.written[name] = one.write(export.folder, objects)
            uid = str(source.first.SeriesInstanceUID)
            other = _ANOTHER.format(uid) if known.is_another(row["file"], uid) else ""
            if other:
                export.doubts[name] = other
            if one.note:
                export.notes[name] = one.note
        except Exception as error:  # of one image: the others are unaffected
            export.failed[name] = reason(error)
    if not export.written and not export.failed:
        raise ValueError(
            f"expected images that were DICOM series, got {export.others} others in {output_dir}; "
            "name the series that they were made of with --source"
        )
    return export


class _Image:
    """The objects of one image."""

    def __init__(self, run: RunFolder, row: Row, number: int, source: SourceSeries) -> None:
        self._run, self._row, self._source = run, row, source
        self._volumes = run.volumes(row)
        self._name = _stem(run.path, self._volumes, row, number)
        first = next(iter(self._volumes.values()), None)
        self._result = Result(
            model_of(nib.load(first).header) if first else "",
            _time(first or run.path / "ifim.csv"),
            str(run.settings.get("run", "")),
            number,
        )
        self.note = ""

    def write(self, folder: Path, objects: Sequence[str]) -> list[Path]:
        """Make the objects, and write them when all are made.

        Args:
            folder: of the objects.
            objects: which of them.

        Returns:
            Their paths.

        Raises:
            ValueError: there is nothing to write, or the volumes are not on the series' grid.
        """
        made, self.note = result_objects(
            self._each_volume(),
            self._run.case(self._row) if "picture" in objects else None,
            self._run.numbers(self._row),
            self._source,
            self._result,
            objects,
        )
        paths = []
        for kind, dataset in made.items():
            path = folder / f"{self._name}_ifim_{kind}.dcm"
            with complete_file(path) as partial_path:
                dataset.save_as(partial_path, enforce_file_format=True)
            paths.append(path)
        return paths

    def _each_volume(self) -> Iterator[Volume]:
        for component, path in self._volumes.items():
            image = nib.load(path)
            channels = channels_of(np.asarray(image.dataobj))
            yield component, channels, affine_in_millimetres(image)


def _stem(folder: Path, volumes: dict[str, Path], row: Row, number: int) -> str:
    """Path of an image's objects below their folder, as its volumes have it."""
    for path in volumes.values():
        inside = os.path.relpath(path, folder)
        name = path.name if inside.startswith(os.pardir) else inside
        return _COMPONENT.sub(r"\1", name)
    return f"{number:05d}-{re.sub(r'[^A-Za-z0-9_-]+', '-', Path(row['file']).name)[:40]}"


def _labels(rows: Sequence[Row]) -> list[str]:
    """The file of each row, with a number where it has several rows."""
    counts, seen = Counter(row["file"] for row in rows), Counter[str]()
    labels = []
    for row in rows:
        seen[row["file"]] += 1
        end = f" ({seen[row['file']]})" if counts[row["file"]] > 1 else ""
        labels.append(f"{row['file']}{end}")
    return labels


def _time(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime)
