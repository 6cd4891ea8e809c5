"""The command line: what it prints, and a sentence with status 2 for what it cannot do."""

import subprocess
import sys
from pathlib import Path

import pytest

from monai_ifim.__main__ import main


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_config_prints_a_path_from_any_folder(tmp_path: Path):
    command = [sys.executable, "-m", "monai_ifim", "config", "ifim_validate"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).name == "ifim_validate.yaml"
    assert Path(done.stdout.strip()).is_file()


def test_unknown_config_names_the_known_ones(capsys: pytest.CaptureFixture[str]):
    assert "ifim_transform" in refused(capsys, "config", "nothing")


def test_sheet_without_results(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert "expected" in refused(capsys, "sheet", str(tmp_path))
    (tmp_path / "ifim.csv").write_text("file,status\n")
    assert "at least one image" in refused(capsys, "sheet", str(tmp_path), "--most", "0")


def test_sheet_without_matplotlib_names_the_extra(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delitem(sys.modules, "monai_ifim.report.sheet", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "monai_ifim[report]" in refused(capsys, "sheet", str(tmp_path))


def test_signal_images_refuse_a_count_of_none(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert "expected" in refused(capsys, "signal-images", "2d", str(tmp_path), "--count", "0")


def test_demo_outside_a_clone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert "clone of the project" in refused(capsys, "demo")
