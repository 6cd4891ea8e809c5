"""Some classes, merged classes, another family and perturbations over a foreign bundle."""

import pytest
import torch

import monai_ifim as mi
from _helpers.foreign_bundles import SHAPES, install, network_of, parse, run_bundle
from _helpers.tables import read_table

pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")
SOFTMAX = next(shape for shape in SHAPES if shape.name == "softmax_rgb")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    bundle, images = install(SOFTMAX.name, folder), folder / "images"
    images.mkdir()
    SOFTMAX.write_images(images)
    return bundle, images


def network_and_images(bundle, images):
    parser = parse(bundle, dataset_dir=str(images))
    preprocessing = parser.get_parsed_content("preprocessing")
    loaded = [preprocessing(entry)["image"] for entry in parser.get_parsed_content("datalist")]
    return network_of(parser), loaded


def names_of(bundle):
    return mi.class_names(bundle)


@pytest.mark.parametrize("kind", ["pair", "groups", "regression", "smooth"])
def test_the_numbers_of_the_plain_call(installed, overlay, tmp_path, kind):
    bundle, images = installed
    network, loaded = network_and_images(bundle, images)
    names = names_of(bundle) or None
    last = 2 if names is None else names[2]
    written, choice = {
        "pair": (("--ifim_classes", f"[0, {last!r}]"), {"classes": [0, 2]}),
        "groups": (("--ifim_groups", f"[[0], [1, {last!r}]]"), {"groups": [[0], [1, 2]]}),
        "regression": (
            ("--ifim_likelihood", "{'_target_': 'monai_ifim.Gaussian', 'scale': 4.0}"),
            {"likelihood": mi.Gaussian(4.0)},
        ),
        "smooth": (
            ("--ifim_perturbation", "{'_target_': 'monai_ifim.SmoothOf', 'sigma_mm': 2.0}"),
            {},
        ),
    }[kind]
    done = run_bundle(bundle, images, tmp_path, *written, overlay=overlay)
    assert done.returncode == 0, done.stdout
    rows = read_table(tmp_path)
    expected = []
    for image in loaded:
        if kind == "smooth":  # in mm of the image that the network is given
            choice = {"perturbation": mi.Smooth(2.0, spacing=tuple(image.pixdim.tolist()))}
        plain = image.as_tensor()[None].float()
        expected.append(float(mi.eigenspace(network, plain, **choice).trace))
    found = [float(row["trace"]) for row in rows]
    torch.testing.assert_close(sorted(found), sorted(expected), rtol=1e-3, atol=0)
    columns = [name for name in rows[0] if name.startswith("probability_")]
    all_names = names or ["0", "1", "2"]
    expected = {
        "pair": [f"probability_{all_names[0]}", f"probability_{all_names[2]}"],
        "groups": [
            f"probability_{all_names[0]}",
            f"probability_{all_names[1]} or {all_names[2]}",
        ],
        "regression": [],
        "smooth": [f"probability_{name}" for name in all_names],
    }[kind]
    assert columns == expected


def test_a_name_that_the_bundle_does_not_have(installed, overlay, tmp_path):
    bundle, images = installed
    done = run_bundle(bundle, images, tmp_path, "--ifim_classes", "['cat', 0]", overlay=overlay)
    assert done.returncode != 0
    assert "expected a class from" in done.stdout
    assert "got 'cat'" in done.stdout
