"""Components, numbers and label maps of stored images, over HTTP."""

import csv
import gc
import json

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

import nibabel as nib
import numpy as np
import requests
from monailabel.client import MONAILabelClient

from _helpers.foreign_bundles import BY_NAME, command, run_bundle
from _helpers.servers import BUNDLES, OURS, finished, infer, parts, volume

IMAGES = {
    "ifim_signal_2d": "signal2d_0",
    "ifim_signal_3d": "signal3d_0",
    "ifim_mednist_2d": "mednist_0",
    "ifim_hippocampus_3d": "hippocampus_1",
    "softmax_rgb": "softmax_rgb_frame0",
    "sigmoid_labels": "sigmoid_labels_breast1",
    "mask_channel": "mask_channel_nucleus0",
    "one_logit": "one_logit_patch0",
    "oblique_3d": "oblique_3d_scan0",
}


@pytest.fixture(scope="module")
def masked(server):
    """The bundle with a mask gets it as the image's stored label."""
    mask = server.folder / "mask_channel" / "Labels" / "nucleus0.png"
    with mask.open("rb") as file:
        url = f"{server.url}/datastore/label?image=mask_channel_nucleus0&tag=label"
        answer = requests.put(url, files={"label": ("nucleus0.png", file)}, timeout=60)
    assert answer.ok, answer.text


@pytest.fixture(scope="module", params=IMAGES)
def run(request, server, tmp_path_factory):
    """A bundle's name, and the volumes of a bundle run on the same image."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    if name == "mask_channel":
        request.getfixturevalue("masked")
    image = next(server.studies.glob(IMAGES[name] + ".*"))
    data, output = folder / "data", folder / "output"
    target = data / "Images" if name == "mask_channel" else data
    target.mkdir(parents=True)
    (target / image.name).write_bytes(image.read_bytes())
    if name == "mask_channel":
        mask = server.folder / "mask_channel" / "Labels" / "nucleus0.png"
        (data / "Labels").mkdir()
        (data / "Labels" / "nucleus0.png").write_bytes(mask.read_bytes())
    volumes = ["--ifim_volumes", "['high','orth','sensitivity']"]
    if name in OURS:
        config = BUNDLES / name / "configs" / "inference.json"
        places = ["--dataset_dir", str(data), "--output_dir", str(output)]
        run = ["monai.bundle", "run", "--workflow_type", "infer", "--config_file", str(config)]
        result = command(*run, *places, *volumes, cwd=folder)
    else:
        shape = BY_NAME[name]
        overlay = BUNDLES.parent / "configs" / "ifim.yaml"
        family = ["--ifim_likelihood", shape.likelihood]
        bundle = server.folder / "app" / "model" / name
        result = run_bundle(
            bundle, data, output, *volumes, *family, overlay=overlay, run_id=shape.run_id
        )
    assert result.returncode == 0, result.stdout[-3000:]
    return name, output


def test_info_lists_models_strategies_and_scoring(server):
    info = server.get("/info/").json()
    assert set(info["models"]) == set(IMAGES) | {f"{name}_overlay" for name in IMAGES}
    assert set(info["scoring"]) == set(IMAGES)
    assert {"ifim_trace", "ifim_largest_eigenvalue", "ifim_effective_rank", "ifim_mix"} <= set(
        info["strategies"]
    )
    model = info["models"]["ifim_mednist_2d"]
    assert model["type"] == "others"
    assert model["config"]["component"] == ["high", "orth", "sensitivity"]
    assert model["class_names"][0] == "AbdomenCT"
    assert info["models"]["ifim_mednist_2d_overlay"]["type"] == "segmentation"
    assert "displayable_configs" not in json.dumps(info)


@pytest.mark.parametrize("component", ["high", "orth", "sensitivity"])
def test_volumes_are_those_of_a_bundle_run(server, run, component):
    name, output = run
    params, got = infer(server, name, IMAGES[name], component=component)
    (file,) = output.rglob(f"*_ifim_{component}.nii.gz")
    expected = nib.load(file)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got.affine, expected.affine, atol=1e-6)
    values = expected.get_fdata()
    scale = np.abs(values).max()
    np.testing.assert_allclose(got.get_fdata(), values, atol=1e-5 * max(scale, 1e-300), rtol=0)
    assert got.get_data_dtype() == params["dtypes"][component]
    assert params["component"] == component


def test_numbers_are_those_of_a_bundle_run(server, run):
    name, output = run
    (row,) = csv.DictReader((output / "ifim.csv").read_text().splitlines())
    params, _ = infer(server, name, IMAGES[name])
    for key in ("probability", "trace", "rank", "trace_share", "high_energy_share"):
        assert params[key] == pytest.approx(float(row[key]), rel=1e-5, abs=1e-12)
    eigenvalues = [float(v) for k, v in row.items() if k.startswith("eigenvalue_")]
    assert params["eigenvalues"] == pytest.approx(eigenvalues, rel=1e-5, abs=1e-12)
    assert list(params["probabilities"]) == params["class_names"]
    assert "Research use only" in params["note"]


def test_one_run_serves_all_components(server):
    params, _ = infer(server, "ifim_hippocampus_3d", "hippocampus_0", component="orth")
    for component, tag in params["tags"].items():
        saved = server.get(f"/datastore/label?label=hippocampus_0&tag={tag}")
        _, asked = infer(server, "ifim_hippocampus_3d", "hippocampus_0", component=component)
        np.testing.assert_array_equal(volume(saved.content).get_fdata(), asked.get_fdata())
    info = server.get(f"/datastore/label/info?label=hippocampus_0&tag={params['tags']['high']}")
    assert info.json()["params"]["trace"] == params["trace"]
    # Such tags do not make an image count as labelled.
    assert server.get("/datastore/").json()["completed"] == 0


def test_both_volumes_in_one_answer(server):
    answer = server.post("/ifim/ifim_signal_3d?image=signal3d_1", "{}")
    found = parts(answer)
    assert set(found) == {"params", "high", "orth"}
    high, orth = (volume(found[name]).get_fdata() for name in ("high", "orth"))
    image = nib.load(server.studies / "signal3d_1.nii.gz").get_fdata()
    np.testing.assert_allclose(high + orth, image, atol=1e-4 * np.abs(image).max())
    assert np.abs(high).max() > 0


def test_rank_and_energy(server):
    image = "mednist_0"
    every, _ = infer(server, "ifim_mednist_2d", image)
    one, _ = infer(server, "ifim_mednist_2d", image, rank=1)
    some, _ = infer(server, "ifim_mednist_2d", image, energy="0.5")
    assert (every["rank"], one["rank"]) == (5, 1)
    assert one["eigenvalues"][0] == pytest.approx(every["eigenvalues"][0])
    assert 0.5 <= some["trace_share"] <= every["trace_share"]


def test_outputs_alone(server):
    url = "/infer/ifim_signal_2d?image=signal2d_1&output="
    assert server.post(url + "json", "{}").json()["model"] == "ifim_signal_2d"
    assert volume(server.post(url + "image", "{}").content).shape[:2] == (64, 64)


@pytest.mark.parametrize("extension", [".nrrd", ".nii.gz"])
def test_overlay_for_slicer(server, extension):
    client = {"result_extension": extension, "result_dtype": "uint8", "result_compress": False}
    answer = server.post(
        "/infer/ifim_hippocampus_3d_overlay?image=hippocampus_1", json.dumps(client)
    )
    found = parts(answer)
    names = json.loads(found["params"])["label_names"]
    assert list(names.values()) == [1, 2, 3]
    path = server.folder / f"overlay{extension}"
    path.write_bytes(found["image"])
    from monai.transforms import LoadImage

    levels = LoadImage(image_only=True)(path)
    _, sensitivity = infer(server, "ifim_hippocampus_3d", "hippocampus_1", component="sensitivity")
    values = sensitivity.get_fdata()
    assert levels.shape == values.shape
    np.testing.assert_allclose(levels.affine, sensitivity.affine, atol=1e-4)
    assert set(np.unique(levels)) == {0, 1, 2, 3}
    assert values[levels == 3].min() >= values[levels == 2].max()
    assert np.mean(levels >= 1) == pytest.approx(0.10 * np.mean(values > 0), abs=0.002)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_python_client(server):
    client = MONAILabelClient(server.url, tmpdir=str(server.folder))
    file, params = client.infer("ifim_signal_2d", "signal2d_2", {"component": "orth"})
    assert nib.load(file).shape[:2] == (64, 64)
    assert params["component"] == "orth"
    assert client.next_sample("ifim_trace", {})["id"]
    gc.collect()  # the client leaves its sockets to the collector, which complains


def test_a_batch_goes_on_after_a_bad_image(server):
    answer = server.post("/batch/infer/ifim_mednist_2d?run_sync=true").json()
    assert answer["mednist_0"]["params"]["predicted_class"]
    assert answer["broken"]["status"].startswith("failed: expected")
    assert "mednist_1" in answer


def test_batch_in_the_background(server):
    task = server.post("/batch/infer/ifim_signal_2d?images=unlabeled", json={"max_batch_size": 2})
    assert task.json()["status"] in ("SUBMITTED", "RUNNING")
    assert finished(server, "/batch/infer")["status"] in ("DONE", "ERROR")


def test_an_added_image_is_served(server):
    file = server.studies / "signal2d_0.nii.gz"
    url = f"{server.url}/datastore/image"
    with file.open("rb") as content:
        answer = requests.put(url, files={"file": ("added.nii.gz", content)}, timeout=60)
    assert answer.json() == {"image": "added"}
    added, _ = infer(server, "ifim_signal_2d", "added")
    original, _ = infer(server, "ifim_signal_2d", "signal2d_0")
    assert added["trace"] == original["trace"]
    assert requests.delete(url + "?id=added", timeout=60).ok
    assert server.post("/infer/ifim_signal_2d?image=added", "{}").status_code == 404
