"""The command line in this process: what it prints, and one line for what it cannot do."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_ifim.cli import main


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 2) -> str:
    """The one line that a command is refused with."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == status
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.endswith("\n")
    return line


def told(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> str:
    """What a command prints on standard output, after it has ended with a status."""
    assert main([str(argument) for argument in arguments]) == status
    return capsys.readouterr().out


def rows_of(output: Path) -> list[dict[str, str]]:
    with (output / "ifim.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files_of(output: Path) -> dict[str, Path]:
    found = {f.relative_to(output): f for f in sorted(output.rglob("*")) if f.is_file()}
    # What tells of the run itself is another one each time.
    apart = ("run.json", ".ifim")
    return {str(name): file for name, file in found.items() if name.parts[0] not in apart}


def assert_same_results(ours: Path, theirs: Path) -> None:
    """Two folders hold the same files: tables byte for byte, volumes with values and affine."""
    mine, others = files_of(ours), files_of(theirs)
    assert list(mine) == list(others)
    assert "ifim.csv" in mine
    for name, file in mine.items():
        if name.endswith(".nii.gz"):
            one, other = nib.load(file), nib.load(others[name])
            np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
            np.testing.assert_array_equal(one.affine, other.affine)
        else:
            assert file.read_bytes() == others[name].read_bytes(), name
