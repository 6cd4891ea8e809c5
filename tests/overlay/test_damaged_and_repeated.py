"""ifim.yaml where something is wrong with the files."""

import csv
import shutil
from pathlib import Path

import nibabel as nib
import pytest

from _helpers.foreign_bundles import grey_images, install, run_bundle, stem, write_scan


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install("oblique_3d", tmp_path_factory.mktemp("damaged"))


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "ifim.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def volumes(folder: Path) -> list[str]:
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*_ifim_*"))


def test_one_unreadable_file_among_ten(bundle: Path, overlay: Path, tmp_path: Path):
    images, output = tmp_path / "images", tmp_path / "output"
    images.mkdir()
    for i in range(10):
        write_scan(images / f"scan{i}.nii.gz", i)
    (images / "scan4.nii.gz").write_bytes(b"not an image")
    result = run_bundle(bundle, images, output, overlay=overlay)
    assert result.returncode != 0
    assert "1 of 10 images have no result" in result.stdout
    rows = {stem(row["file"]): row for row in table(output)}
    assert sorted(rows) == [f"scan{i}" for i in range(10)]
    bad = rows.pop("scan4")
    assert bad["status"].startswith("failed: ")
    assert "scan4.nii.gz" in bad["status"]
    assert not any(bad[key] for key in bad if key not in ("file", "status"))
    assert {row["status"] for row in rows.values()} == {"ok"}
    names = sorted(f"{k}_ifim_{c}.nii.gz" for k in rows for c in ("high", "orth"))
    assert volumes(output) == names
    predicted = (output / "predictions.csv").read_text().splitlines()
    assert sorted(stem(line.split(",")[0]) for line in predicted) == sorted(rows)


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two different patients, each with a ``scan.nii.gz``."""
    images = tmp_path_factory.mktemp("repeated") / "images"
    for i, patient in enumerate(["ada", "bob"]):
        (images / patient).mkdir(parents=True)
        write_scan(images / patient / "scan.nii.gz", i)
    return images


def test_repeated_names_keep_their_folders(
    bundle: Path, overlay: Path, repeated: Path, tmp_path: Path
):
    options = ["--ifim_data_root_dir", str(repeated)]
    result = run_bundle(bundle, repeated, tmp_path, *options, overlay=overlay)
    assert result.returncode == 0, result.stdout
    assert [row["status"] for row in table(tmp_path)] == ["ok", "ok"]
    wanted = [f"{p}/scan_ifim_{c}.nii.gz" for p in ("ada", "bob") for c in ("high", "orth")]
    assert volumes(tmp_path) == wanted
    for patient in ("ada", "bob"):
        source = nib.load(repeated / patient / "scan.nii.gz")
        assert nib.load(tmp_path / patient / "scan_ifim_high.nii.gz").shape == source.shape


def test_repeated_names_without_folders_fail_for_the_second(
    bundle: Path, overlay: Path, repeated: Path, tmp_path: Path
):
    result = run_bundle(bundle, repeated, tmp_path, overlay=overlay)
    assert result.returncode != 0
    first, second = table(tmp_path)
    assert first["status"] == "ok"
    assert second["status"].startswith("failed: ")
    assert "scan_ifim_high.nii.gz" in second["status"]
    assert "ifim_data_root_dir" in second["status"]
    assert volumes(tmp_path) == ["scan_ifim_high.nii.gz", "scan_ifim_orth.nii.gz"]
    kept = nib.load(tmp_path / "scan_ifim_high.nii.gz")
    assert kept.shape == nib.load(repeated / "ada" / "scan.nii.gz").shape


@pytest.mark.slow
def test_a_cache_gives_up_at_the_first_unreadable_file_unless_it_is_off(
    overlay: Path, tmp_path: Path
):
    """``CacheDataset`` loads every file before there is a loader that could survive one."""
    bundle, images = install("sigmoid_labels", tmp_path), tmp_path / "images"
    images.mkdir()
    grey_images(images)
    (images / "breast9.jpg").write_bytes(b"not an image")
    options = ["--ifim_likelihood", "bernoulli"]
    run = {"overlay": overlay, "run_id": "evaluating"}
    cached = run_bundle(bundle, images, tmp_path / "cached", *options, **run)
    assert cached.returncode != 0
    assert not (tmp_path / "cached").exists()
    options += ["--dataset::cache_rate", "0"]
    result = run_bundle(bundle, images, tmp_path / "output", *options, **run)
    assert result.returncode != 0
    assert len(volumes(tmp_path / "output")) == 6
    failed = [row for row in table(tmp_path / "output") if row["status"] != "ok"]
    assert [stem(row["file"]) for row in failed] == ["breast9"]


@pytest.mark.slow
def test_a_second_run_loses_nothing_of_the_first(
    bundle: Path, overlay: Path, repeated: Path, tmp_path: Path
):
    images, output = tmp_path / "images", tmp_path / "output"
    images.mkdir()
    shutil.copy(repeated / "ada" / "scan.nii.gz", images)
    assert run_bundle(bundle, images, output, overlay=overlay).returncode == 0
    first = (output / "scan_ifim_high.nii.gz").read_bytes()
    shutil.copy(repeated / "bob" / "scan.nii.gz", images)
    refused = run_bundle(bundle, images, output, overlay=overlay)
    assert refused.returncode != 0
    assert "expected no results of another run" in refused.stdout
    assert (output / "scan_ifim_high.nii.gz").read_bytes() == first
    moved = run_bundle(bundle, images, output, "--ifim_existing", "move", overlay=overlay)
    assert moved.returncode == 0, moved.stdout
    (earlier,) = output.glob("earlier-*")
    assert (earlier / "scan_ifim_high.nii.gz").read_bytes() == first
    kept = nib.load(output / "scan_ifim_high.nii.gz")
    assert kept.shape == nib.load(repeated / "bob" / "scan.nii.gz").shape
    resumed = run_bundle(bundle, images, output, "--ifim_resume", "true", overlay=overlay)
    assert resumed.returncode == 0, resumed.stdout
    assert "resumed: 1 of 1 images are done" in resumed.stdout
