"""``monai-ifim run --space``: components in a stored pooled eigenspace."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import monai_ifim as mi
from _helpers import foreign_bundles as foreign
from _helpers.bundle_images import BUNDLES, make_images
from _helpers.commands import refused, rows_of, told
from monai_ifim.bundle.configuration import BundleConfiguration
from monai_ifim.report.cases.folder import RunFolder
from monai_ifim.report.html.report import write_report

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")
SIGNAL = next(bundle for bundle in BUNDLES if bundle.name == "ifim_signal_2d")
WORDS = "in a pooled eigenspace of 5 images (2 directions), not in each image's own"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images("ifim_signal_2d", tmp_path_factory.mktemp("signals") / "images")


def prepared(bundle: Path, images: Path) -> torch.Tensor:
    """The images as the bundle's preprocessing leaves them."""
    steps = BundleConfiguration(bundle).content("preprocessing")
    files = sorted(images.glob("*.nii.gz"))
    return torch.stack([steps({"image": str(file)})["image"].as_tensor() for file in files])


@pytest.fixture(scope="module")
def space(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pooled over the same images, of a linear network: the directions are what counts."""
    values = prepared(SIGNAL, images)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(values[0].numel(), 4))
    file = tmp_path_factory.mktemp("pooled") / "pooled.safetensors"
    mi.pooled_eigenspace(network, values, rank=3).save(file)
    return file


def test_our_bundle(images, space, tmp_path, capsys):
    output = tmp_path / "out"
    run = ("run", "--bundle", SIGNAL, "--input", images, "--device", "cpu", "--space", space)
    text = told(capsys, *run, "--output", output, "--rank", 2)
    assert f"components: {WORDS}" in text
    values = prepared(SIGNAL, images)
    high, _ = mi.PooledEigenspace.load(space).split(values, 2)
    for file, wanted in zip(sorted(output.glob("*_high.nii.gz")), high, strict=True):
        written = nib.load(file)
        np.testing.assert_allclose(written.get_fdata(), wanted[0], atol=1e-5)
        assert b", pooled 5 images; research use only" in bytes(written.header["descrip"])
    own = [row["rank"] for row in rows_of(output)]
    assert set(own) == {"1"}  # two classes
    told_of_run = json.loads((output / "run.json").read_text())["identity"]["settings"]["space"]
    assert (told_of_run["images"], told_of_run["directions"]) == (5, 2)

    assert RunFolder(output).space == f"Components {WORDS}."
    page = write_report(output, most=1).read_text()
    assert f"Components {WORDS}.".replace("'", "&#39;") in page
    case = next((output / "report" / "cases").glob("*.html")).read_text()
    assert "in a pooled eigenspace of 5 images" in case

    # Without it, and resumed, it is another run.
    text = told(capsys, *run[:-2], "--output", output, "--resume", status=1)
    assert "settings.space was {'images': 5, 'directions': 2" in text


def test_a_foreign_bundle_by_the_overlay(tmp_path, capsys):
    bundle, images = foreign.install("one_logit", tmp_path), tmp_path / "images"
    images.mkdir()
    next(shape for shape in foreign.SHAPES if shape.name == "one_logit").write_images(images)
    run = ("run", "--bundle", bundle, "--input", images, "--device", "cpu")
    told(capsys, *run, "--output", tmp_path / "own")
    assert RunFolder(tmp_path / "own").space == ""
    steps = BundleConfiguration(bundle).content("preprocessing")
    shape = steps({"image": str(next(images.iterdir()))})["image"].shape
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(shape.numel(), 3))
    file = tmp_path / "pooled.safetensors"
    mi.pooled_eigenspace(network, torch.randn(9, *shape), rank=2).save(file)
    text = told(capsys, *run, "--output", tmp_path / "pooled", "--space", file)
    assert "with ifim.yaml" in text
    assert "components: in a pooled eigenspace of 9 images (2 directions)" in text


@pytest.mark.parametrize("on_one_grid", [True, False])
def test_what_was_pooled_is_told(images, tmp_path, capsys, on_one_grid):
    own, output = tmp_path / "images", tmp_path / "out"
    shutil.copytree(images, own)
    files = sorted(own.glob("*.nii.gz"))
    for file in files if on_one_grid else ():
        nib.save(nib.Nifti1Image(nib.load(file).get_fdata(dtype=np.float32), np.eye(4)), file)
    run = ("run", "--bundle", SIGNAL, "--input", own, "--device", "cpu", "--output", output)
    text = told(capsys, *run, "--set", "ifim_pooled=ifim_pooled.safetensors")
    line = f"pooled: 5 of 5 images in {output / 'ifim_pooled.safetensors'}"
    more = ", and ifim_pooled.nii.gz" if on_one_grid else "; no eigenvectors as NIfTI: the prepro"
    assert f"{line}{more}" in text
    assert (output / "ifim_pooled.nii.gz").exists() == on_one_grid


def test_why_nothing_was_pooled_is_told(images, tmp_path, capsys):
    own = tmp_path / "images"
    own.mkdir()
    shutil.copy(min(images.glob("*.nii.gz")), own)
    run = ("run", "--bundle", SIGNAL, "--input", own, "--device", "cpu", "--output", tmp_path)
    text = told(capsys, *run, "--set", "ifim_pooled=ifim_pooled.safetensors", status=1)
    assert "no pooled eigenspace of this epoch: ValueError: expected at least two images" in text


@pytest.mark.parametrize("kind", ["absent", "folder", "weights", "too few directions"])
def test_no_such_space_is_told_before_anything_is_done(kind, images, space, tmp_path, capsys):
    files = {
        "absent": tmp_path / "nowhere.safetensors",
        "folder": tmp_path,
        "weights": SIGNAL / "models" / "model.pt",
        "too few directions": space,
    }
    rank = ("--rank", 9) if kind == "too few directions" else ()
    run = ("run", "--bundle", SIGNAL, "--input", images, "--output", tmp_path / "out", *rank)
    line = refused(capsys, *run, "--space", files[kind])
    expected = {
        "absent": "expected a file of a pooled eigenspace, got none",
        "folder": "expected a file of a pooled eigenspace, got none",
        "weights": "expected a complete file of tensors (safetensors)",
        "too few directions": "expected rank <= 3, the directions of the pooled eigenspace, got 9",
    }
    assert expected[kind] in line
    assert not (tmp_path / "out").exists()


def test_a_space_of_other_images_ends_the_run_with_a_sentence(images, tmp_path, capsys):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    file = tmp_path / "pooled.safetensors"
    mi.pooled_eigenspace(network, torch.randn(4, 1, 3, 4), rank=2).save(file)
    run = ("run", "--bundle", SIGNAL, "--input", images, "--output", tmp_path / "out")
    text = told(capsys, *run, "--device", "cpu", "--space", file, status=1)
    assert "expected images (B, 1, 3, 4)" in text
    assert "preprocess them as those that were pooled" in text
