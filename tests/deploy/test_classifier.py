"""A bundle on an array in memory; runs without the MONAI Deploy App SDK."""

import subprocess
import sys
from importlib.util import find_spec

import nibabel as nib
import numpy as np
import pytest
import torch

import monai_ifim as mi
from _helpers.deploy import BUNDLE
from monai_ifim.bundle.classifier import load_bundle_classifier
from monai_ifim.bundle.configuration import BundleConfiguration
from monai_ifim.deploy.classifier import InMemoryBundle

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")


@pytest.fixture(scope="module")
def bundle():
    return InMemoryBundle(BUNDLE, ("high", "orth", "sensitivity"))


def image(seed=0, shape=(32, 32, 32)):
    """Stored from right to left, as many scans are: the bundle turns it, and it comes back."""
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return values, np.diag([-2.0, 2.0, 2.5, 1.0])


def test_an_array_gives_what_its_file_gives(bundle, tmp_path):
    array, affine = image()
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(array, affine), path)
    prepared = BundleConfiguration(BUNDLE).content("preprocessing")({"image": str(path)})["image"]
    space = mi.eigenspace(load_bundle_classifier(BUNDLE).network, prepared.as_tensor()[None])
    high, orth = space.split(prepared.as_tensor()[None])
    result = bundle.run(array, affine)
    for name, wanted in (("high", high[0]), ("orth", orth[0]), ("sensitivity", None)):
        volume = result.volumes[name]
        np.testing.assert_allclose(volume.affine, affine)
        if wanted is not None:  # Orientation to RAS flips the first axis alone
            np.testing.assert_allclose(volume.numpy(), wanted.flip(1).numpy(), rtol=1e-4, atol=1e-7)
    total = result.volumes["high"] + result.volumes["orth"]
    np.testing.assert_allclose(total.numpy()[0], array, atol=1e-5)
    assert result.numbers["trace"] == pytest.approx(space.trace.item(), rel=1e-5)
    assert result.numbers["status"] == "ok"
    assert "Research use only" in result.numbers["note"]
    assert result.model.startswith("ifim_signal_3d 0.1.1-")


def test_options():
    one = InMemoryBundle(BUNDLE, "high", options={"rank": 1}).run(*image())
    assert one.numbers["rank"] == 1
    assert list(one.volumes) == ["high"]
    with pytest.raises(TypeError, match="did you mean 'rank'"):
        InMemoryBundle(BUNDLE, options={"rnk": 1})


def test_each_image_has_its_own_result(bundle):
    """And one that fails leaves nothing for the next."""
    first = bundle.run(*image(0)).numbers["trace"]
    with pytest.raises(ValueError, match=r"ifim_signal_3d can take, got knee of shape \(8, 8, 8\)"):
        bundle.run(*image(1, (8, 8, 8)), "knee")
    assert bundle.run(*image(2)).numbers["trace"] != first
    assert bundle.run(*image(0)).numbers["trace"] == first


def test_an_image_without_a_result(bundle):
    array, affine = image()
    array[3, 4, 5] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        bundle.run(array, affine)


def test_no_bundle(tmp_path):
    with pytest.raises(ValueError, match="expected the folder of a classification bundle"):
        InMemoryBundle(tmp_path)


@pytest.mark.skipif(find_spec("holoscan") is not None, reason="the SDK is installed here")
def test_without_the_sdk_the_extra_is_named():
    code = "from monai_ifim.deploy import IFIMOperator"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "pip install 'monai_ifim[deploy]'" in done.stderr


def test_components_in_a_pooled_eigenspace(bundle, tmp_path):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32**3, 3))
    pooled = mi.pooled_eigenspace(network, torch.randn(4, 1, 32, 32, 32), rank=2)
    pooled.save(tmp_path / "pooled.safetensors")
    array, affine = image()
    given = {"volumes": "high", "options": {"rank": 2}, "space": tmp_path / "pooled.safetensors"}
    result = InMemoryBundle(BUNDLE, **given).run(array, affine)
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(array, affine), path)
    prepared = BundleConfiguration(BUNDLE).content("preprocessing")({"image": str(path)})["image"]
    high, _ = pooled.split(prepared.as_tensor()[None])
    np.testing.assert_allclose(
        result.volumes["high"].numpy(), high[0].flip(1).numpy(), rtol=1e-4, atol=1e-6
    )
    assert result.numbers["components"].startswith("in a pooled eigenspace of 4 images (2 direc")
    assert result.model.endswith(", pooled 4 images")
    assert result.numbers["trace"] == pytest.approx(bundle.run(array, affine).numbers["trace"])
    with pytest.raises(FileNotFoundError, match="expected a file of a pooled eigenspace"):
        InMemoryBundle(BUNDLE, space=tmp_path / "nowhere")
