"""File names: one for each image, inside the output folder."""

from pathlib import Path

import pytest

from monai_ifim import DistinctFolderLayout
from monai_ifim.data.datalist import find_images, image_root


def layout(output: Path, root: Path | str = "") -> DistinctFolderLayout:
    return DistinctFolderLayout(output, "ifim_high", ".nii.gz", root)


def test_repeated_names_are_refused_unless_the_folders_are_kept(tmp_path: Path):
    flat = layout(tmp_path / "out")
    first = flat.filename("data/a/scan.nii.gz")
    assert Path(first) == tmp_path / "out" / "scan_ifim_high.nii.gz"
    assert flat.filename("data/a/scan.nii.gz") == first  # the same image again is no other image
    with pytest.raises(ValueError, match=r"data/a/scan\.nii\.gz has; keep the folders"):
        flat.filename("data/b/scan.png")
    kept = layout(tmp_path / "out", "data")
    names = {kept.filename(f"data/{folder}/scan.nii.gz") for folder in "ab"}
    assert names == {str(tmp_path / "out" / f / "scan_ifim_high.nii.gz") for f in "ab"}


def test_nothing_outside_the_output_folder(tmp_path: Path):
    with pytest.raises(ValueError, match="got a file name outside"):
        layout(tmp_path / "out", tmp_path / "data" / "series").filename(
            str(tmp_path / "data" / "x")
        )
    assert not list(tmp_path.iterdir())  # not even a folder


@pytest.mark.parametrize("output", ["../out", "x/../out", "."])
def test_output_folder_may_lie_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str):
    (tmp_path / "work" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    name = Path(layout(Path(output)).filename("/data/scan.nii.gz"))
    assert name.name == "scan_ifim_high.nii.gz"
    assert name.parent.resolve() == (tmp_path / "work" / output).resolve()


def test_series_folders_keep_the_whole_of_their_numbers(tmp_path: Path):
    series = [tmp_path / "data" / f"1.2.840.{number}" for number in (10, 11)]
    for folder in series:
        folder.mkdir(parents=True)
    names = layout(tmp_path / "out")
    found = [Path(names.filename(folder)).name for folder in series]
    assert found == ["1.2.840.10_ifim_high.nii.gz", "1.2.840.11_ifim_high.nii.gz"]


def test_results_inside_the_data_folder_are_not_taken_for_images(tmp_path: Path):
    for name in ("scan.nii.gz", "out/scan_ifim_high.nii.gz", "out/scan_ifim_orth.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert find_images(tmp_path) == [{"image": str(tmp_path / "scan.nii.gz")}]
    assert image_root(tmp_path) == str(tmp_path)
    assert image_root(tmp_path / "scan.nii.gz") == str(tmp_path)
