"""Series that a result could be written into, and should not be, or not without a word."""

import shutil
from pathlib import Path

import pydicom
import pytest

from _helpers.commands import told
from _helpers.dicom_objects import mr_series, run

pytest.importorskip("highdicom")
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")


def test_the_series_of_somebody_else_on_the_same_grid(tmp_path: Path, capsys):
    """It is written, as of a run on copies without names, and somebody should look at it."""
    mr_series(tmp_path / "in" / "scan")
    run(tmp_path / "in", tmp_path / "out")
    copy = tmp_path / "original"
    shutil.copytree(tmp_path / "in" / "scan", copy)
    said = told(capsys, "dicom", tmp_path / "out", "--source", copy)
    assert "check:" not in said
    for path in copy.iterdir():
        ds = pydicom.dcmread(path)
        ds.PatientID, ds.SeriesInstanceUID = "999", "1.2.99"
        ds.save_as(path)
    said = told(capsys, "dicom", tmp_path / "out", "--source", copy)
    assert "check: " in said
    assert "written for the series 1.2.99, which is another than the run has read" in said
    shutil.rmtree(tmp_path / "in")  # nobody can know
    assert "check:" not in told(capsys, "dicom", tmp_path / "out", "--source", copy)


def test_slices_that_share_their_uid(tmp_path: Path, capsys):
    mr_series(tmp_path / "in" / "scan")
    for path in (tmp_path / "in" / "scan").iterdir():
        ds = pydicom.dcmread(path)
        ds.SOPInstanceUID = "1.2.3.4"
        ds.save_as(path)
    run(tmp_path / "in", tmp_path / "out")
    said = told(capsys, "dicom", tmp_path / "out", status=1)
    assert "expected a SOPInstanceUID of its own for each of 5 slices, got 1 different" in said
    assert not list(tmp_path.rglob("*_ifim_numbers.dcm"))
