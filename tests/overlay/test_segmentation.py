"""ifim_segmentation.yaml on a segmentation bundle with a sliding window."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.transforms import Invertd
from torch import nn

import monai_ifim as mi
from _helpers.foreign_bundles import (
    command,
    digests,
    install,
    network_of,
    parse,
    run_bundle,
    scans,
    stem,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*Orientationd.__init__.labels:FutureWarning"),
]


class Stitched(nn.Module):
    """The whole prediction as a function of the whole image."""

    def __init__(self, inferer, network):
        super().__init__()
        self.inferer, self.network = inferer, network

    def forward(self, x):
        return self.inferer(x, self.network)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmentation")
    answer = command("monai_ifim", "config", "ifim_segmentation", cwd=folder)
    assert answer.returncode == 0, answer.stdout
    bundle, images = install("segment_3d", folder), folder / "images"
    images.mkdir()
    scans(images)
    before = digests(bundle)
    plain = run_bundle(bundle, images, folder / "plain")
    overlay = Path(answer.stdout.strip())
    done = run_bundle(bundle, images, folder / "overlaid", overlay=overlay)
    assert plain.returncode == 0, plain.stdout
    assert done.returncode == 0, done.stdout
    assert digests(bundle) == before
    return folder, bundle, images


def read_rows(folder):
    with (folder / "ifim.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_segmentation_is_what_it_was(run):
    folder = run[0]
    own = sorted((folder / "plain").rglob("*.nii.gz"))
    assert len(own) == 3
    for file in own:
        (now,) = (folder / "overlaid").rglob(file.name)
        assert np.array_equal(nib.load(file).get_fdata(), nib.load(now).get_fdata())


def test_volumes_and_numbers_are_those_of_the_stitched_prediction(run):
    folder, bundle, images = run
    parser = parse(bundle, dataset_dir=str(images))
    network = network_of(parser)
    inferer = parser.get_parsed_content("inferer")
    preprocessing = parser.get_parsed_content("preprocessing")
    invert = Invertd("copy", preprocessing, orig_keys="image", nearest_interp=False)
    rows = read_rows(folder / "overlaid")
    assert [row["status"] for row in rows] == ["ok"] * 3
    for row, entry in zip(rows, parser.get_parsed_content("datalist"), strict=True):
        item = preprocessing(entry)
        x = item["image"].as_tensor()[None]
        space = mi.eigenspace(Stitched(inferer, network), x, rank=3, tolerance=1e-2)
        values = [float(row[f"eigenvalue_{i}"]) for i in (1, 2, 3)]
        assert values == pytest.approx(space.eigenvalues[0].tolist(), rel=1e-3)
        assert float(row["trace"]) == pytest.approx(float(space.trace), rel=1e-3)
        assert float(row["residual"]) <= 1e-2
        copied = {**item, "copy": item["image"].clone()}
        whole = invert(copied)["copy"].numpy()[0]
        name = stem(entry["image"])
        parts = []
        for component in ("high", "orth"):
            (file,) = (folder / "overlaid").rglob(f"{name}_ifim_{component}.nii.gz")
            volume = nib.load(file)
            assert np.allclose(volume.affine, nib.load(entry["image"]).affine, atol=1e-5)
            parts.append(np.asarray(volume.dataobj))
        assert np.linalg.norm(parts[0]) > 0
        assert np.allclose(parts[0] + parts[1], whole, atol=1e-4 * np.abs(whole).max())


def test_the_overlay_differs_from_that_of_classifiers_where_it_must():
    """One file is easier to bolt on than two; this keeps the copies from drifting apart."""
    folder = Path(mi.__file__).parents[1] / "configs"
    one, other = (
        yaml.safe_load((folder / f"{name}.yaml").read_text())
        for name in ("ifim", "ifim_segmentation")
    )
    assert differing(one, other) == {
        "ifim_likelihood", "ifim_rank", "ifim_energy", "ifim_tolerance", "ifim_handler",
        "evaluator::ifim_likelihood",
        # Of one answer an image, which a segmentation has not.
        "ifim_classes", "ifim_groups", "ifim_inputs", "ifim_verify", "ifim_postprocessing",
    }  # fmt: skip
    assert differing(one["ifim_handler"], other["ifim_handler"]) == {
        "likelihood", "energy", "classes", "groups", "inputs", "questions",
    }  # fmt: skip
    assert differing(one["ifim_postprocessing"], other["ifim_postprocessing"]) == {"keys"}


def differing(one, other):
    return {k for k in one.keys() | other.keys() if one.get(k, "absent") != other.get(k, "absent")}


def test_gradients_flow_through_the_stitching():
    """Not a property of ours, but all of it stands on this."""
    inferer = parse(install_here("segment_3d")).get_parsed_content("inferer")
    image = torch.randn(1, 1, 12, 9, 10, requires_grad=True)
    total = inferer(image, lambda x: torch.cat([x, 2 * x, 3 * x], dim=1)).sum()
    (gradient,) = torch.autograd.grad(total, image)
    torch.testing.assert_close(gradient, torch.full_like(image, 6.0))


def install_here(name):
    return Path(__file__).with_name("bundles") / name
