"""Images without a result, and errors that end the run."""

import csv

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose
from torch import nn

import monai_ifim as mi
from _helpers.comparisons import assert_close
from _helpers.geometry import assert_files_on_scan_grid, geometric_preprocessing, inverted_and_saved
from _helpers.networks import Returning, smooth_network
from _helpers.recorders import INFERERS, evaluate
from _helpers.scans import dataset, preprocessing
from _helpers.tables import read_table


class Overflowing(nn.Module):
    """NaN logits for the image whose mean is beyond 10, as float16 overflow leaves them."""

    def __init__(self):
        super().__init__()
        self.body = smooth_network(3)

    def forward(self, x):
        far = x.detach().mean(dim=(1, 2, 3, 4)) > 10
        return torch.where(far[:, None], torch.nan, 1.0) * self.body(x)


@INFERERS
def test_nan_logits_leave_the_other_images_alone(files, tmp_path, inferer, caplog):
    scan = nib.load(files[1])
    nib.save(nib.Nifti1Image((scan.get_fdata() + 50).astype(np.float32), scan.affine), files[1])
    transform = Compose(geometric_preprocessing().transforms[:-1])  # intensities as in the file
    out = tmp_path / "out"
    network = Overflowing()
    with pytest.raises(RuntimeError, match=r"1 of 5 images have no result; .*scan1") as raised:
        evaluate(
            network,
            DataLoader(dataset(files, transform), batch_size=3),
            mi.IFIMHandler(output_dir=out, fail_at_end=True),
            inferer=inferer,
            postprocessing=inverted_and_saved(transform, out),
        )
    assert "ifim.csv" in str(raised.value)
    good = [0, 2, 3, 4]
    rows = read_table(out)
    assert [row["file"] for row in rows] == files
    assert rows[1]["status"] == "failed: the logits hold NaN or infinity"
    assert rows[1]["trace"] == rows[1]["predicted_class"] == rows[1]["rank"] == ""
    assert files[1] in caplog.text
    assert {p.name for p in out.glob("*_ifim_*")} == {
        f"scan{i}_ifim_{name}.nii.gz" for i in good for name in ("high", "orth")
    }
    images = torch.stack([item["image"].as_tensor() for item in dataset(files, transform)])
    space = mi.eigenspace(network, images[good])
    for trace, i in zip(space.trace, good, strict=True):
        assert rows[i]["status"] == "ok"
        assert float(rows[i]["trace"]) == pytest.approx(trace.item(), rel=1e-5)
    assert_files_on_scan_grid([files[i] for i in good], out)


@INFERERS
def test_a_nan_image_leaves_the_other_images_alone(files, tmp_path, inferer):
    scan = nib.load(files[3])
    values = scan.get_fdata().astype(np.float32)
    values[2, 3, 4] = np.nan
    nib.save(nib.Nifti1Image(values, scan.affine), files[3])
    transform = Compose(preprocessing().transforms[:2])
    loader = DataLoader(dataset(files, transform), batch_size=5)
    saved = []
    handler = mi.IFIMHandler(output_dir=tmp_path, postprocessing=saved.append)
    network = smooth_network(3)
    _, items = evaluate(network, loader, handler, inferer=inferer)
    rows = read_table(tmp_path)
    assert rows[3]["status"] == "failed: the preprocessed image holds NaN or infinity"
    assert [row["status"] for row in rows].count("ok") == 4
    assert len(saved) == 4
    for i in (0, 1, 2, 4):
        image = dataset(files, transform)[i]["image"].as_tensor()[None]
        assert_close(items[i]["ifim_trace"], mi.eigenspace(network, image).trace[0])


def test_without_fail_at_end_the_run_ends_without_an_error(files, tmp_path, caplog):
    loader = DataLoader(dataset(files), batch_size=3)
    network = Returning(lambda z: z * torch.nan)
    evaluate(network, loader, mi.IFIMHandler(output_dir=tmp_path))
    assert all(row["status"].startswith("failed:") for row in read_table(tmp_path))
    assert "5 of 5 images have no result" in caplog.text


@INFERERS
def test_a_dead_network_gives_zeros_and_a_sentence(files, tmp_path, inferer):
    network = smooth_network(3)
    nn.init.zeros_(network[-1].weight)
    loader = DataLoader(dataset(files), batch_size=2)
    handler = mi.IFIMHandler(output_dir=tmp_path, fail_at_end=True)
    _, items = evaluate(network, loader, handler, inferer=inferer)
    for item in items:
        assert torch.equal(item["ifim_orth"], item["image"])
        assert not item["ifim_high"].any()
        assert not item["ifim_eigenvalues"].any()
    for row in read_table(tmp_path):
        assert row["status"] == "ok, but the prediction does not react to the image at all"
        assert (float(row["trace"]), int(row["rank"]), float(row["trace_share"])) == (0, 0, 0)


def test_a_failing_postprocessing_leaves_the_other_images_alone(files, tmp_path, caplog):
    saved = []

    def postprocess(item):
        if "scan1" in item["image"].meta["filename_or_obj"]:
            raise OSError("no space left on device")
        saved.append(item["image"].meta["filename_or_obj"])

    loader = DataLoader(dataset(files), batch_size=2)
    handler = mi.IFIMHandler(output_dir=tmp_path, postprocessing=postprocess, fail_at_end=True)
    with pytest.raises(RuntimeError, match=r"1 of 5 .*scan1.*OSError"):
        evaluate(smooth_network(3), loader, handler)
    assert saved == [f for f in files if "scan1" not in f]
    rows = read_table(tmp_path)
    assert [row["status"] == "ok" for row in rows] == [True, False, True, True, True]
    assert "no space left on device" in caplog.text


def test_error_that_ends_the_run_keeps_the_rows_and_names_the_batch(tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    batches = [{"image": torch.randn(1, 1, n, n), "label": torch.zeros(1)} for n in (8, 8, 9, 8)]
    handler = mi.IFIMHandler(output_dir=tmp_path, fail_at_end=True)
    evaluator = SupervisedEvaluator("cpu", batches, network=network, val_handlers=[handler])
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        evaluator.run()
    with (tmp_path / "ifim.csv").open(newline="") as file:
        statuses = [row["status"] for row in csv.DictReader(file)]
    assert statuses[:2] == ["ok", "ok"]
    assert statuses[2].startswith("failed: the run ended here, RuntimeError: mat1")
