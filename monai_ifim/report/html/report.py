"""Write the report of a run into its output folder."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nibabel.filebasedimages import ImageFileError
from tqdm import tqdm

from monai_ifim.messages import RESEARCH_ONLY, reason
from monai_ifim.report.assets import asset
from monai_ifim.report.cases import Case, Style, case_figure
from monai_ifim.report.cases.folder import RunFolder
from monai_ifim.report.html.pages import json_script, page, source
from monai_ifim.report.html.rows import columns, table_rows
from monai_ifim.report.html.volumes import BrowserVolumes

MOST = 100
FOLDER = "report"
_MARK = "Content-Security-Policy"
_LOADER = """
const node = document.createElement("script");
node.src = "../case.js";
document.head.append(node);
"""
_KEYS = """
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.target.closest("input, select, canvas")) return;
  const to = { ArrowLeft: "before", ArrowRight: "after" }[event.key];
  const link = to && document.getElementById(to);
  if (link) link.click();
});
"""


def write_report(
    output_dir: Path,
    *,
    most: int = MOST,
    labels: Mapping[str, str] | None = None,
    style: Style | None = None,
) -> Path:
    """Write ``report/index.html`` and a page for each image.

    The pages need no network and no server. The most sensitive images have a picture and their
    volumes on their pages; all others have their numbers.

    Args:
        output_dir: of the run, with ``ifim.csv`` and component volumes.
        most: how many images get a picture and volumes.
        labels: the true class by file.
        style: how the pictures are drawn.

    Returns:
        The path of the page to open. An image whose volumes cannot be read has a page that says
        why; the others are unaffected.

    Raises:
        FileNotFoundError: there is no table.
        FileExistsError: there is a folder of that name which is no report.
        ValueError: ``most`` < 0.
    """
    if most < 0:
        raise ValueError(f"expected a number of images from 0, got {most}; say --most 100")
    folder = RunFolder(output_dir, labels)
    target = output_dir / FOLDER
    if target.exists() and not _is_report(target):
        raise FileExistsError(
            f"expected no {target}, or an earlier report, got something else; move it away"
        )
    partial = output_dir / f".{FOLDER}-{os.getpid()}"
    try:
        _Writer(folder, partial, style).write(most)
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target / "index.html"


def _is_report(target: Path) -> bool:
    try:
        return _MARK in (target / "index.html").read_text(encoding="utf-8")[:400]
    except (OSError, UnicodeDecodeError):
        return False


class _Writer:
    """Writes all files of one report."""

    def __init__(self, folder: RunFolder, target: Path, style: Style | None) -> None:
        self.folder, self.target, self.style = folder, target, style
        self.rows = table_rows(folder)
        self.viewer = asset("niivue.js") is not None
        self.css = source("report.css")

    def write(self, most: int) -> None:
        """Write everything.

        Args:
            most: how many images get a picture and volumes.
        """
        (self.target / "cases").mkdir(parents=True)
        niivue = asset("niivue.js")
        if niivue is not None:
            shutil.copyfile(niivue, self.target / "niivue.js")
            (self.target / "case.js").write_text(source("case.js"), encoding="utf-8")
        ranked = [row for row in self.rows if not row["failed"]]
        ranked.sort(key=lambda row: -(row["trace"] or 0.0))
        drawn = {row["index"] for row in ranked[:most]}
        for index in tqdm(
            range(len(self.rows)), desc="report", unit="image", leave=False, disable=None
        ):
            self._write_case(index, index in drawn)
        self._write_index(len(drawn))

    def _write_index(self, pictured: int) -> None:
        labelled = any(row["label"] for row in self.rows)
        table = asset("tabulator.js")
        sheet = asset("tabulator.css")
        built = table is not None and sheet is not None
        styles, scripts = [self.css], [source("index.js")]
        if table is not None and sheet is not None:
            styles.insert(0, _without_map(sheet.read_text(encoding="utf-8")))
            scripts.insert(0, _without_map(table.read_text(encoding="utf-8")))
        text = page(
            "index.html.j2",
            styles,
            scripts,
            title=self.folder.path.resolve().name,
            rows=self.rows,
            failed=sum(row["failed"] for row in self.rows),
            pictured=pictured,
            labelled=labelled,
            tabulator=built,
            columns=columns(labelled),
            provenance=[f"{key}: {value}" for key, value in self._provenance()],
            notice=self.folder.notice,
            space=self.folder.space,
            settings=json.dumps(self.folder.settings, indent=1) if self.folder.settings else "",
            data={"rows": self.rows, "columns": columns(labelled)},
        )
        (self.target / "index.html").write_text(text, encoding="utf-8")

    def _write_case(self, index: int, drawn: bool) -> None:
        shown, row = self.rows[index], self.folder.rows[index]
        path = self.target / shown["page"]
        picture, trouble, case = "", "", None
        if drawn:
            try:
                case = self.folder.case(row)
                if case is not None:
                    picture = _picture(case, self.style)
                    self._write_volumes(case, path.with_suffix(".js"))
            except (OSError, EOFError, ValueError, MemoryError, ImageFileError) as error:
                picture, trouble = "", f"the volumes could not be read: {reason(error)}"
        if trouble:
            case = None
            path.with_suffix(".js").unlink(missing_ok=True)
        there = not shown["failed"] and bool(self.folder.volumes(row))
        viewer = self.viewer and there and not trouble
        provenance = [("file", row["file"]), *([("network", case.model)] if case else [])]
        provenance += [("not shown", trouble)] if trouble else []
        provenance += [("components", self.folder.space)] if self.folder.space else []
        text = page(
            "case.html.j2",
            [self.css],
            [_KEYS, _LOADER] if viewer else [_KEYS],
            name=shown["name"],
            numbers=self.folder.numbers(row),
            before=self._beside(index - 1),
            after=self._beside(index + 1),
            viewer=viewer,
            picture=picture,
            alt=f"Image, sensitivity, components and numbers of {shown['name']}. {RESEARCH_ONLY}",
            provenance=[*provenance, *self._provenance()],
            data={
                "index": index,
                "data": path.with_suffix(".js").name if case and self.viewer else None,
            },
        )
        path.write_text(text, encoding="utf-8")

    def _write_volumes(self, case: Case, path: Path) -> None:
        if not self.viewer:
            return
        volumes = BrowserVolumes(case)
        value = {"settings": volumes.settings(), "volumes": volumes.embedded()}
        path.write_text(json_script("ifim", value), encoding="utf-8")

    def _beside(self, index: int) -> str:
        there = 0 <= index < len(self.rows)
        return str(self.rows[index]["page"]).removeprefix("cases/") if there else ""

    def _provenance(self) -> list[tuple[str, str]]:
        said: list[tuple[str, Any]] = [("output folder", self.folder.path.resolve())]
        known = (
            (key, value) for key, value in self.folder.settings.items() if isinstance(value, str)
        )
        said += [(f"run.json: {key}", value) for key, value in known]
        try:
            said.append(("report by", f"monai_ifim {version('monai-ifim')}"))
        except PackageNotFoundError:  # a checkout on the path, not installed
            said.append(("report by", "monai_ifim"))
        return [(key, str(value)) for key, value in said]


def _picture(case: Case, style: Style | None) -> str:
    """The picture of a case as the address of an image."""
    buffer = io.BytesIO()
    case_figure(case, style).savefig(buffer, format="png", dpi=90)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _without_map(text: str) -> str:
    """Without the line that would make a browser's tools look for a file that is not there."""
    return text.rpartition("sourceMappingURL=")[0].rstrip("/*# @\n") or text
