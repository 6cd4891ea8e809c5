"""Bundles of several makes, without a server."""

import json
import shutil
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

import torch
from monai.bundle import ConfigParser
from starlette.exceptions import HTTPException

import monai_ifim as mi
from _helpers.foreign_bundles import SHAPES, install
from _helpers.servers import BUNDLES
from monai_ifim.__main__ import main
from monai_ifim.label.bundle import ClassificationBundle, find_bundles
from monai_ifim.label.infer import ComponentTask
from monai_ifim.label.options import Options, parse_options


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    main(["signal-images", "2d", str(folder), "--count", "1"])
    return folder / "signal_0000.nii.gz"


def copy_of(name, folder):
    return Path(shutil.copytree(BUNDLES / name, folder / name))


def test_torchscript(image, tmp_path):
    expected = ClassificationBundle(BUNDLES / "ifim_signal_2d").run(image, Options())
    root = copy_of("ifim_signal_2d", tmp_path)
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "inference.json"))
    network = parser.get_parsed_content("network_def")
    weights = root / "models" / "model.pt"
    network.load_state_dict(torch.load(weights, weights_only=True))
    with pytest.warns((DeprecationWarning, FutureWarning), match="torch.jit"):
        torch.jit.trace(network.eval(), torch.rand(1, 1, 64, 64)).save(
            str(root / "models" / "model.ts")
        )
    weights.unlink()
    with warnings.catch_warnings():
        # A user cannot change that the bundle is TorchScript.
        warnings.filterwarnings("error", message="`torch.jit")
        got = ClassificationBundle(root).run(image, Options())
    assert got.numbers["trace"] == pytest.approx(expected.numbers["trace"], rel=1e-5)
    np.testing.assert_allclose(got.volumes["high"], expected.volumes["high"], atol=1e-6)


def test_new_weights_are_taken_up(image, tmp_path):
    root = copy_of("ifim_signal_2d", tmp_path)
    bundle = ClassificationBundle(root)
    before, version = bundle.run(image, Options()), bundle.model_version
    weights = root / "models" / "model.pt"
    state = torch.load(weights, weights_only=True)
    torch.save({key: value * 0.5 for key, value in state.items()}, weights)
    assert bundle.model_version != version
    assert bundle.run(image, Options()).numbers["trace"] != before.numbers["trace"]


def test_the_key_is_of_all_that_a_result_depends_on(image, tmp_path):
    """By which a PACS tells results apart; the image itself is known there by its UIDs."""
    root = copy_of("ifim_signal_2d", tmp_path)
    bundle = ClassificationBundle(root)
    mask = tmp_path / "mask.nii.gz"
    mask.write_bytes(b"one")
    keys = [
        bundle.key(Options()),
        bundle.key(Options(rank=1)),
        bundle.key(Options(energy=0.9)),
        bundle.key(Options(), {"mask": str(mask)}),
    ]
    mask.write_bytes(b"two")
    keys.append(bundle.key(Options(), {"mask": str(mask)}))
    keys.append(ClassificationBundle(root, likelihood="bernoulli").key(Options()))
    configuration = root / "configs" / "inference.json"
    configuration.write_text(configuration.read_text() + "\n")
    assert bundle.key(Options()) == keys[0]  # it has read the former one
    keys.append(ClassificationBundle(root).key(Options()))
    weights = root / "models" / "model.pt"
    state = torch.load(weights, weights_only=True)
    torch.save({key: value * 0.5 for key, value in state.items()}, weights)
    keys.append(ClassificationBundle(root).key(Options()))
    assert len(set(keys)) == len(keys)
    # Where and how it is sent back is no part of it.
    fresh, sent = ClassificationBundle(root), Options(component="orth", device="cpu")
    assert fresh.run(image, sent).key == keys[-1]


def test_scripts_of_two_bundles(image, tmp_path):
    """Both bring a package of that name; each gets its own."""
    traces = []
    for i, factor in enumerate((1.0, 3.0)):
        root = copy_of("ifim_signal_2d", tmp_path / str(i))
        (root / "scripts").mkdir()
        (root / "scripts" / "__init__.py").write_text("")
        (root / "scripts" / "scale.py").write_text(
            "def scale(image):\n    import scripts.factor\n    return image * scripts.factor.f\n"
        )
        (root / "scripts" / "factor.py").write_text(f"f = {factor}\n")
        file = root / "configs" / "inference.json"
        config = json.loads(file.read_text())
        config["imports"].append("$from scripts.scale import scale")
        step = {"_target_": "Lambdad", "keys": "image", "func": "$scale"}
        config["preprocessing"]["transforms"].append(step)
        file.write_text(json.dumps(config))
        traces.append(ClassificationBundle(root).run(image, Options()).numbers["trace"])
    own = ClassificationBundle(BUNDLES / "ifim_signal_2d").run(image, Options())
    assert traces[0] == pytest.approx(own.numbers["trace"])
    assert traces[1] != traces[0]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of MONAI's Orientationd
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_sigmoids_are_recognised(shape, tmp_path):
    bundle = ClassificationBundle(install(shape.name, tmp_path))
    assert bundle.likelihood == shape.likelihood
    assert bundle.further_keys == (["label"] if shape.name == "mask_channel" else [])


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("configs/inference.json", "expected inference.json or inference.yaml"),
        ("configs/metadata.json", "expected metadata.json"),
        ("models/model.pt", "expected model.pt or model.ts"),
    ],
)
def test_half_a_bundle(tmp_path, missing, message):
    root = copy_of("ifim_signal_2d", tmp_path)
    (root / missing).unlink()
    with pytest.raises(ValueError, match=message):
        ClassificationBundle(root)


def test_compressed_images_are_measured_by_their_header(tmp_path):
    import nrrd
    from PIL import Image

    nrrd.write(str(tmp_path / "large.nrrd"), np.zeros((300, 300), np.uint8))
    Image.new("L", (300, 300)).save(tmp_path / "large.png")
    nib.save(nib.Nifti1Image(np.zeros((300, 300), np.uint8), np.eye(4)), tmp_path / "large.nii.gz")
    bundle = ClassificationBundle(BUNDLES / "ifim_mednist_2d", max_voxels=80_000)
    for suffix in (".nrrd", ".png", ".nii.gz"):
        assert (tmp_path / f"large{suffix}").stat().st_size < 2_000
        with pytest.raises(HTTPException, match="got 90000 in") as caught:
            bundle.run(tmp_path / f"large{suffix}", Options())
        assert caught.value.status_code == 413


def test_nan_is_refused(image, tmp_path):
    values = nib.load(image).get_fdata()
    values[3, 4] = np.nan
    path = tmp_path / "nan.nii.gz"
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    with pytest.raises(HTTPException, match="expected finite values") as caught:
        ClassificationBundle(BUNDLES / "ifim_signal_2d").run(path, Options())
    assert caught.value.status_code == 422


def test_a_sure_prediction(tmp_path):
    """Its sensitivity, below the range of float32, reaches the file through a resizing."""
    from monai_ifim.label.infer import ComponentTask

    root = copy_of("ifim_hippocampus_3d", tmp_path)
    weights = root / "models" / "model.pt"
    state = torch.load(weights, weights_only=True)
    last = list(state)[-2:]  # weight and bias of the head
    torch.save({k: v * 150 if k in last else v for k, v in state.items()}, weights)
    random = np.random.default_rng(0)
    values = random.standard_normal((24, 19, 22)).cumsum(0).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([-1.0, 1, 2, 1])), tmp_path / "scan.nii.gz")
    bundle = ClassificationBundle(root)
    result = bundle.run(tmp_path / "scan.nii.gz", Options())
    assert 0 < result.numbers["trace"] < 1e-30
    options = Options(component="sensitivity")
    files = ComponentTask(bundle).write(result, options, tmp_path)
    written = nib.load(files["sensitivity"])
    assert written.get_data_dtype() == np.float64
    assert written.shape == values.shape
    total = written.get_fdata().sum() * (20**3 / values.size)  # as many voxels as the network sees
    assert total == pytest.approx(result.numbers["trace"], rel=0.2)


def test_a_sensitivity_below_float32_keeps_its_digits():
    from monai_ifim.label.bundle import stored_dtype

    assert stored_dtype(torch.tensor([0.0, 1e-40], dtype=torch.float64)) == np.float64
    assert stored_dtype(torch.tensor([0.0, 1e-20], dtype=torch.float64)) == np.float32
    assert stored_dtype(torch.zeros(2, dtype=torch.float64)) == np.float32


def test_components_in_a_pooled_eigenspace(image, tmp_path):
    plain = ClassificationBundle(BUNDLES / "ifim_signal_2d")
    assert "space" not in ComponentTask(plain).info()["config"]
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64 * 64, 3))
    pooled = mi.pooled_eigenspace(network, torch.randn(4, 1, 64, 64), rank=2)
    pooled.save(tmp_path / "pooled.safetensors")
    conf = {
        "models": "ifim_signal_2d",
        "space.ifim_signal_2d": str(tmp_path / "pooled.safetensors"),
    }
    (bundle,) = find_bundles(BUNDLES, conf)
    assert ComponentTask(bundle).info()["config"]["space"] == ["pooled", "own"]
    own = plain.run(image, Options())
    asked_own = bundle.run(image, parse_options({"space": "own"}))
    np.testing.assert_array_equal(asked_own.volumes["high"], own.volumes["high"])
    assert asked_own.key == own.key
    both = [bundle.run(image, Options()), bundle.run(image, Options(rank=1))]
    for got, rank in zip(both, (pooled.stable_rank, 1), strict=True):
        prepared = bundle._preprocessing()({"image": str(image)})["image"].as_tensor()
        high, _ = pooled.split(prepared[None], rank)
        np.testing.assert_allclose(got.volumes["high"].flatten(), high.flatten(), atol=1e-5)
        assert f"of 4 images ({rank} direction" in got.numbers["components"]
        assert got.numbers["trace"] == pytest.approx(own.numbers["trace"], rel=1e-6)
        assert got.model.endswith(", pooled 4 images")
    assert len({own.key, *(got.key for got in both)}) == 3
    with pytest.raises(HTTPException, match="expected space from pooled, own"):
        parse_options({"space": "neither"})


def test_a_bundle_whose_space_is_not_there_is_left_out(caplog):
    conf = {"models": "ifim_signal_2d", "space.ifim_signal_2d": "nowhere.safetensors"}
    assert find_bundles(BUNDLES, conf) == []
    assert "expected a file of a pooled eigenspace, got none at nowhere" in caplog.text
