"""guides/dicom_results.md: its commands run one after another, and its codes are those we write."""

import re
import shlex
from pathlib import Path

import pydicom
import pytest
import torch

from _helpers.dicom import write_series
from _helpers.pages import DOCS, blocks
from monai_ifim.cli import main
from monai_ifim.dicom.codes import ALL, DESIGNATOR

pytest.importorskip("highdicom")
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")
PAGE = "guides/dicom_results.md"


def test_commands_and_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write_series(tmp_path / "study")
    lines = [line for block in blocks(PAGE, "bash") for line in block.splitlines()]
    assert len(lines) == 3
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for line in lines:
            program, *arguments = shlex.split(line)
            assert program == "monai-ifim"
            assert main(arguments) == 0, line
    names = sorted(path.name for path in (tmp_path / "results" / "dicom").iterdir())
    assert names == [f"study_ifim_{kind}.dcm" for kind in ("high", "numbers", "orth", "picture")]
    (python,) = blocks(PAGE, "python")
    exec(compile(python, PAGE, "exec"), {})
    assert pydicom.dcmread(tmp_path / "high.dcm").ContentLabel == "IFIM_HIGH"


def test_the_codes():
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    assert f"`{DESIGNATOR}`" in text
    rows = re.findall(r"^\| `(IFIM-\w+)` \| (.+) \|$", text, re.MULTILINE)
    assert rows == [(concept.value, concept.meaning) for concept in ALL]
    for concept in ALL:
        assert len(concept.value) <= 16
        assert len(concept.meaning) <= 64
    assert len({concept.value for concept in ALL}) == len(ALL)
