"""``monai-ifim run`` and ``python -m monai.bundle run`` with nuisances and shares."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from _helpers import foreign_bundles as foreign
from _helpers.bundle_images import BUNDLES, make_images
from _helpers.bundles import SIGNAL, copy_of
from _helpers.commands import assert_same_results, refused, rows_of, told

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")
OVERLAY = Path(__file__).parents[2] / "configs" / "ifim.yaml"
REAL = [b for b in BUNDLES if b.name in ("ifim_mednist_2d", "ifim_hippocampus_3d")]


@pytest.mark.parametrize("bundle", REAL, ids=lambda path: path.name)
def test_our_bundles(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    images = make_images(bundle.name, tmp_path / "images")
    theirs = foreign.command(
        *("monai.bundle", "run", "--workflow_type", "infer", "--config_file"),
        *(str(bundle / "configs" / "inference.json"), "--dataset_dir", str(images)),
        *("--output_dir", str(tmp_path / "theirs"), "--batch_size", "2", "--ifim_shares", "True"),
        *("--ifim_nuisances", "['gain',{'offset':{'reach':0.5}}]"),
        cwd=tmp_path,
    )
    assert theirs.returncode == 0, theirs.stdout
    ours = tmp_path / "ours"
    chosen = "ifim_nuisances=['gain',{'offset':{'reach':0.5}}]"
    told(
        capsys,
        *("run", "--bundle", bundle, "--input", images, "--output", ours, "--batch-size", 2),
        *("--device", "cpu", "--set", chosen, "ifim_shares=True"),
    )
    assert_same_results(ours, tmp_path / "theirs")
    assert all(row["nuisance_offset_law"] for row in rows_of(ours))
    questions = json.loads((ours / "run.json").read_text())["identity"]["settings"]["questions"]
    shares, nuisances = questions
    assert shares["key"] is None
    assert nuisances["ranges"]["offset"]["reach"] == 0.5


def test_a_foreign_bundle_under_the_overlay(tmp_path: Path):
    """Three channels have shares; names of nuisances are enough."""
    bundle, images = foreign.install("softmax_rgb", tmp_path), tmp_path / "images"
    images.mkdir()
    foreign.rgb_images(images)
    done = foreign.run_bundle(
        bundle,
        images,
        tmp_path / "out",
        *("--ifim_shares", "True", "--ifim_nuisances", "['gain','blur']"),
        overlay=OVERLAY,
    )
    assert done.returncode == 0, done.stdout
    for row in rows_of(tmp_path / "out"):
        shares = [float(v) for name, v in row.items() if name.startswith("channel_share_")]
        assert len(shares) == 3
        assert sum(shares) == pytest.approx(1, abs=1e-9)
        assert row["nuisance_blur_law"]


def test_the_option_is_the_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    images = make_images("ifim_signal_2d", tmp_path / "images")
    run = ("run", "--bundle", SIGNAL, "--input", images, "--device", "cpu", "--output")
    told(capsys, *run, tmp_path / "a", "--nuisances", "gain", "offset")
    told(capsys, *run, tmp_path / "b", "--set", "ifim_nuisances=['gain','offset']")
    assert_same_results(tmp_path / "a", tmp_path / "b")
    line = refused(capsys, *run, tmp_path / "c", "--nuisances", "gian")
    assert "got 'gian' (did you mean 'gain'?)" in line


def test_a_bundle_without_the_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def without(config):
        del config["ifim_nuisances"]
        for handler in config["handlers"]:
            handler.pop("questions", None)

    bundle = copy_of(SIGNAL, tmp_path, without)
    images = make_images("ifim_signal_2d", tmp_path / "images")
    line = refused(
        capsys,
        *("run", "--bundle", bundle, "--input", images, "--output", tmp_path / "out"),
        *("--nuisances", "gain"),
    )
    assert "expected the id ifim_nuisances" in line


def test_a_plain_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "net.py").write_text(
        "import torch\n\n\ndef make():\n    torch.manual_seed(0)\n    return "
        "torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))\n"
    )
    (tmp_path / "images").mkdir()
    for i in range(2):
        values = np.random.default_rng(i).random((8, 8, 1), dtype=np.float32)
        affine = np.diag([0.5, 0.5, 5, 1])
        nib.save(nib.Nifti1Image(values, affine), tmp_path / "images" / f"{i}.nii.gz")
    told(
        capsys,
        *("run", "--network", f"{tmp_path / 'net.py'}:make", "--input", tmp_path / "images"),
        *("--output", tmp_path / "out", "--size", 8, 8, "--device", "cpu"),
        *("--nuisances", "gain", "shift"),
    )
    for row in rows_of(tmp_path / "out"):
        assert row["nuisance_gain_law"]
        assert row["nuisance_shift_along_axis_0_law"]


ORGANS = """
data: "$[e | {{'organs': e['image'].replace('images', 'organs')}} for e in
  monai_ifim.find_images('{images}')]"
"dataset::data": "@data"
"preprocessing::transforms::0::keys": [image, organs]
"preprocessing::transforms::1::keys": [image, organs]
"preprocessing::transforms::3::keys": [image, organs]
"preprocessing::transforms::5::keys": [image, organs]
"preprocessing::transforms::5::mode": [trilinear, nearest-exact]
"preprocessing::transforms::5::anti_aliasing": [true, false]
ifim_shares: {{key: organs, labels: {{hippocampus: 1, vessel: 2}}}}
"""


def test_organs_of_a_bundle_with_label_maps(tmp_path: Path):
    """Loaded beside the images, with the same transforms; the volumes are as without."""
    bundle = next(b for b in BUNDLES if b.name == "ifim_hippocampus_3d")
    images = make_images(bundle.name, tmp_path / "images")
    for file in sorted(images.rglob("*.nii*")):
        scan = nib.load(file)
        organs = np.zeros(scan.shape[:3], dtype=np.uint8)
        organs[4:12, 3:9, 5:] = 1
        target = Path(str(file).replace("images", "organs"))
        target.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(organs, scan.affine), target)
    (tmp_path / "organs.yaml").write_text(ORGANS.format(images=images))
    for name, files in (("plain", []), ("organs", [str(tmp_path / "organs.yaml")])):
        done = foreign.command(
            *("monai.bundle", "run", "--workflow_type", "infer", "--config_file"),
            *(str([str(bundle / "configs" / "inference.json"), *files]), "--dataset_dir"),
            *(str(images), "--output_dir", str(tmp_path / name), "--batch_size", "2"),
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout
    plain, rows = rows_of(tmp_path / "plain"), rows_of(tmp_path / "organs")
    assert len(rows) == len(plain)
    assert rows
    for row, other in zip(rows, plain, strict=True):
        shares = {n: float(row[f"share_{n}"]) for n in ("hippocampus", "vessel", "other")}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-10)
        assert 0 < shares["hippocampus"] < 1
        assert shares["vessel"] == 0
        assert float(row["trace"]) == pytest.approx(float(other["trace"]))
