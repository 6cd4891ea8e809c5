"""``monai-ifim run --verify``: the image just beyond the boundary, beside the components."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from _helpers.bundle_images import BUNDLES, make_images
from _helpers.commands import refused, rows_of, told
from _helpers.foreign_bundles import write_picture

pytest.importorskip("foolbox", reason="an extra: pip install 'monai_ifim[adversarial]'")
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")
SIGNAL = next(bundle for bundle in BUNDLES if bundle.name == "ifim_signal_2d")
LAYER = """
import torch


def make():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(300, 3))
"""


def test_our_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    images = make_images("ifim_signal_2d", tmp_path / "images")
    run = ("run", "--bundle", SIGNAL, "--input", images, "--output", tmp_path / "out")
    told(capsys, *run, "--device", "cpu", "--verify", "ddn")
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 5
    for row in rows:
        ratio = float(row["verified_distance"]) / float(row["flip_distance"])
        assert 0.5 < ratio < 2
        assert row["verified_class"] == row["flip_class"]  # of two
        stem = Path(row["file"]).name.removesuffix(".nii.gz")
        source = nib.load(row["file"])
        flipped = nib.load(tmp_path / "out" / f"{stem}_ifim_flipped.nii.gz")
        assert flipped.shape == source.shape
        np.testing.assert_allclose(flipped.affine, source.affine, atol=1e-6)


def test_a_plain_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "images").mkdir()
    for i in range(2):
        write_picture(tmp_path / "images" / f"p{i}.png", 3 * i, (20, 15))
    (tmp_path / "layer.py").write_text(LAYER)
    run = ("run", "--network", f"{tmp_path / 'layer.py'}:make", "--input", tmp_path / "images")
    choices = ("--intensity", "zscore", "--verify", "pgd", "--device", "cpu")
    told(capsys, *run, "--output", tmp_path / "out", *choices)
    for row in rows_of(tmp_path / "out"):
        assert float(row["verified_distance"]) == pytest.approx(
            float(row["flip_distance"]), rel=0.02
        )
        assert row["verified_by"] == "pgd, 20 steps"
    assert len(list((tmp_path / "out").glob("*_ifim_flipped.nii.gz"))) == 2


def test_without_foolbox(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "foolbox", None)
    run = ("run", "--bundle", SIGNAL, "--input", tmp_path, "--output", tmp_path / "out")
    assert "monai_ifim[adversarial]" in refused(capsys, *run, "--verify", "ddn")
