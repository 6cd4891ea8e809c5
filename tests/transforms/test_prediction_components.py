"""What hosts without handlers do with a bundle: its transforms one by one, and its inferer."""

import copy
import pickle
import threading
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

import monai_ifim as mi
from monai_ifim.__main__ import main

BUNDLES = Path(__file__).parents[2] / "bundles"


class Host:
    """The steps of MONAI Label's ``BundleInferTask``."""

    def __init__(self, name):
        root = BUNDLES / name
        self.parser = ConfigParser()
        self.parser.read_config(str(root / "configs" / "inference.json"))
        self.parser["bundle_root"] = str(root)
        # A copy gets the weights, never the configuration's own network.
        self.network = copy.deepcopy(self.parser.get_parsed_content("network_def"))
        weights = torch.load(root / "models" / "model.pt", weights_only=True)
        self.network.load_state_dict(weights)
        self.network.eval()

    def predict(self, path, **params):
        data = {"image": str(path), "image_path": str(path), **params}
        for transform in self.parser.get_parsed_content("preprocessing").transforms:
            data = transform(data)
        with torch.no_grad():
            outputs = self.parser.get_parsed_content("inferer")(data["image"][None], self.network)
        data["pred"] = outputs[0]
        return data

    def finish(self, data):
        for transform in self.parser.get_parsed_content("post_transforms").transforms:
            data = transform(data)
        return data

    def run(self, path, **params):
        return self.finish(self.predict(path, **params))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for task in ("2d", "3d"):
        main(["signal-images", task, str(folder / task), "--count", "2"])
    path = folder / "left.nii.gz"  # stored from right to left, as many scans are
    image = nib.load(folder / "3d" / "signal_0000.nii.gz")
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), np.diag([-2, 2, 2, 1.0])), path)
    return folder


@pytest.mark.parametrize("component", ["high", "orth", "sensitivity"])
@pytest.mark.parametrize(
    ("bundle", "file"),
    [("ifim_signal_2d", "2d/signal_0000.nii.gz"), ("ifim_signal_3d", "left.nii.gz")],
)
def test_the_component_on_the_scans_own_grid(images, bundle, file, component):
    host = Host(bundle)
    result = host.run(images / file, component=component)
    scan = nib.load(images / file)
    preprocessing = host.parser.get_parsed_content("preprocessing")
    prepared = preprocessing({"image": str(images / file)})["image"]
    parts = mi.IFIMComponents(host.network, volumes=[component])(prepared)
    expected = parts[f"ifim_{component}"].numpy().astype(np.float32)[0]
    got = np.asarray(result["pred"]).squeeze()
    if bundle == "ifim_signal_3d":  # the preprocessing turned it to RAS
        expected = expected[::-1]
    np.testing.assert_allclose(got, expected.squeeze(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(result["pred"].affine, scan.affine, atol=1e-6)
    assert got.dtype == np.float32
    assert result["result"]["trace"] == pytest.approx(parts["ifim_trace"].item(), rel=1e-5)


def test_numbers_are_ready_for_json(images):
    import json

    result = Host("ifim_signal_3d").run(images / "left.nii.gz", rank="1")["result"]
    assert json.loads(json.dumps(result)) == result
    assert list(result["probabilities"]) == result["class_names"]
    assert result["predicted_class"] in result["class_names"]
    assert result["rank"] == 1
    assert "Research use only" in result["note"]


def test_the_evaluators_own_prediction_is_as_before(images):
    """``post_transforms`` is an id of its own; ``postprocessing`` still gives probabilities."""
    host = Host("ifim_signal_2d")
    data = host.predict(images / "2d" / "signal_0000.nii.gz")
    post = host.parser.get_parsed_content("postprocessing")
    assert post(data)["pred"].sum().item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"component": "$__import__('os')"}, "expected component from"),
        ({"component": ["high"]}, "expected component from"),
        ({"rank": "1+1"}, "expected rank as a number"),
        ({"rank": 0}, "expected 1 <= rank"),
        ({"rank": 1.5}, "expected rank as a whole number"),
        ({"energy": 2}, "0 < energy <= 1"),
        ({"energy": True}, "expected energy as a number"),
        ({"rank": 1, "energy": 0.5}, "expected rank or energy"),
    ],
)
def test_impossible_requests(images, params, message):
    with pytest.raises(ValueError, match=message):
        Host("ifim_signal_2d").run(images / "2d" / "signal_0000.nii.gz", **params)


def test_no_prediction():
    transform = mi.ComponentOfPredictiond("pred", mi.IFIMInferer())
    with pytest.raises(RuntimeError, match="expected a prediction that IFIMInferer made"):
        transform({"image": torch.zeros(1, 4, 4), "pred": torch.zeros(2)})


def test_threads_do_not_mix(images):
    host = Host("ifim_signal_2d")
    files = [images / "2d" / f"signal_000{i}.nii.gz" for i in range(2)]
    alone = [host.run(file)["result"]["trace"] for file in files]
    meet, found = threading.Barrier(2), {}

    def serve(i):
        data = host.predict(files[i])
        meet.wait(timeout=60)  # both are predicted before either is finished
        found[i] = host.finish(data)["result"]["trace"]

    threads = [threading.Thread(target=serve, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alone[0] != alone[1]
    assert [found[0], found[1]] == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda i: pickle.loads(pickle.dumps(i))])
def test_an_inferer_with_a_graph_can_be_copied(duplicate):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
    inferer, images = mi.IFIMInferer(), torch.rand(1, 1, 4)
    with torch.no_grad():
        inferer(images, network)
        assert duplicate(inferer).take_call() is None
        assert inferer.take_call() is not None
        graph = inferer.keep_graph()
        inferer(images, network)
        duplicate(inferer)
        assert graph.take(images) is not None
