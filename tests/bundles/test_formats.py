"""One folder of every kind of file, good and bad, through a real inference run."""

import csv
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SERIES = ROOT.parent / "shared" / "data" / "dicom_small_head"
OBLIQUE = np.array([[0.9, -0.2, 0, 4], [0.3, 1.1, 0, -7], [0, 0.1, 1.6, 9], [0, 0, 0, 1]])


def infer(bundle: str, images: Path, output: Path) -> tuple[int, dict[str, dict]]:
    config = ROOT / "bundles" / bundle / "configs" / "inference.json"
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config)]
    command += ["--workflow_type", "infer", "--dataset_dir", str(images)]
    command += ["--output_dir", str(output)]
    done = subprocess.run(command, cwd=output.parent, capture_output=True, text=True)
    assert (output / "ifim.csv").is_file(), done.stderr[-3000:]
    with (output / "ifim.csv").open(newline="") as file:
        rows = {Path(row["file"]).name: row for row in csv.DictReader(file)}
    return done.returncode, rows


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int, dict[str, dict]]:
    images = tmp_path_factory.mktemp("formats") / "images"
    images.mkdir()
    random = np.random.default_rng(0)
    grey = random.integers(0, 256, (71, 90), dtype=np.uint8)
    colour = random.integers(0, 256, (71, 90, 3), dtype=np.uint8)
    Image.fromarray(grey).save(images / "grey.png")
    Image.fromarray(grey).convert("RGB").save(images / "grey_as_rgb.png")
    Image.fromarray(grey).save(images / "grey_photo.jpg")
    Image.fromarray(colour).save(images / "colour.png")
    values = random.random((61, 80), dtype=np.float32)
    nib.save(nib.Nifti1Image(values, OBLIQUE), images / "flat.nii.gz")
    nib.save(nib.Nifti1Image(values[..., None], OBLIQUE), images / "slice.nii.gz")
    nib.save(nib.Nifti1Image(np.stack([values] * 3, -1), OBLIQUE), images / "volume.nii.gz")
    series = random.random((20, 21, 3, 4), dtype=np.float32)
    nib.save(nib.Nifti1Image(series, OBLIQUE), images / "four_d.nii.gz")
    broken = values.copy()
    broken[3, 4] = np.nan
    nib.save(nib.Nifti1Image(broken, OBLIQUE), images / "nan.nii")
    (images / "empty.nii.gz").write_bytes(b"")
    (images / "notes.txt").write_text("not an image")
    output = images.parent / "out"
    return images, output, *infer("ifim_mednist_2d", images, output)


def test_status_is_not_zero(run):
    assert run[2] != 0


def test_every_image_has_one_row(run):
    images, _, _, rows = run
    assert set(rows) == {path.name for path in images.iterdir()} - {"notes.txt"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("colour.png", "expected 1 channel and 2 spatial axes, got an image of shape (3, "),
        ("volume.nii.gz", "expected 1 channel and 2 spatial axes, got an image of shape (1, 61, "),
        ("four_d.nii.gz", "expected 1 channel and 2 spatial axes, got an image of shape (4, "),
        ("nan.nii", "NaN or infinity"),
        ("empty.nii.gz", "Empty file"),
    ],
)
def test_bad_images_say_why(run, name, says):
    _, output, _, rows = run
    assert rows[name]["status"].startswith("failed:")
    assert says in rows[name]["status"]
    assert not list(output.glob(f"{name.split('.')[0]}_ifim_*"))


@pytest.mark.parametrize("name", ["flat.nii.gz", "slice.nii.gz"])
def test_nifti_keeps_shape_and_affine(run, name):
    images, output, _, rows = run
    assert rows[name]["status"] == "ok"
    scan = nib.load(images / name)
    for volume in ("high", "orth"):
        written = nib.load(output / f"{name.split('.')[0]}_ifim_{volume}.nii.gz")
        assert written.shape == scan.shape
        np.testing.assert_array_equal(written.affine, scan.affine)


@pytest.mark.parametrize("name", ["grey.png", "grey_as_rgb.png", "grey_photo.jpg"])
def test_pictures_become_flat_nifti(run, name):
    _, output, _, rows = run
    assert rows[name]["status"] == "ok"
    written = nib.load(output / f"{name.split('.')[0]}_ifim_high.nii.gz")
    assert written.shape == (90, 71)  # columns first, as MONAI reads pictures
    assert np.abs(written.get_fdata()).max() > 0


@pytest.mark.skipif(not SERIES.is_dir(), reason=f"no DICOM series in {SERIES}")
def test_dicom_series_is_one_volume_on_its_own_grid(tmp_path):
    status, rows = infer("ifim_hippocampus_3d", SERIES, tmp_path / "out")
    assert status == 0
    assert rows[SERIES.name]["status"] == "ok"
    written = nib.load(tmp_path / "out" / f"{SERIES.name}_ifim_high.nii.gz")
    assert sorted(written.shape) == [17, 88, 128]
    np.testing.assert_allclose(nib.affines.voxel_sizes(written.affine), 2, atol=1e-3)
    # Nothing is written beside the output folder, although the series is the data folder itself.
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
