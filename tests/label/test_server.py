"""A real server, driven over HTTP."""

import csv
import gc
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

import nibabel as nib
import numpy as np
import psutil
import requests
import torch
from monailabel.client import MONAILabelClient

import monai_ifim as mi
from _helpers.foreign_bundles import BY_NAME, command, run_bundle
from _helpers.servers import BUNDLES, OURS, parts, volume

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


def infer(server, model, image, **params):
    answer = server.post(f"/infer/{model}?image={image}", json.dumps(params))
    assert answer.status_code == 200, answer.text
    found = parts(answer)
    return json.loads(found["params"]), volume(found["image"])


@pytest.fixture(scope="session")
def masked(server):
    """The bundle with a mask gets it as the image's stored label."""
    mask = server.folder / "mask_channel" / "Labels" / "nucleus0.png"
    with mask.open("rb") as file:
        url = f"{server.url}/datastore/label?image=mask_channel_nucleus0&tag=label"
        answer = requests.put(url, files={"label": ("nucleus0.png", file)}, timeout=60)
    assert answer.ok, answer.text


@pytest.fixture(scope="session", params=IMAGES)
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


def test_only_this_machine_is_listened_to(server):
    addresses = {
        c.laddr.ip
        for c in psutil.Process(server.process.pid).net_connections("tcp")
        if c.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


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


def test_one_bad_image_costs_a_batch_nothing(server):
    answer = server.post("/batch/infer/ifim_mednist_2d?run_sync=true").json()
    assert answer["mednist_0"]["params"]["predicted_class"]
    assert answer["broken"]["status"].startswith("failed: expected")
    assert "mednist_1" in answer


def test_batch_in_the_background(server):
    task = server.post("/batch/infer/ifim_signal_2d?images=unlabeled", json={"max_batch_size": 2})
    assert task.json()["status"] in ("SUBMITTED", "RUNNING")
    assert wait(server, "/batch/infer")["status"] in ("DONE", "ERROR")


def wait(server, path):
    for _ in range(120):
        status = server.get(path).json()
        if status.get("status") not in ("SUBMITTED", "RUNNING"):
            return status
        time.sleep(0.5)
    raise TimeoutError(status)


LONG = "x" * 10_000
NAMES = ["../x", "..%2F..%2Fetc%2Fpasswd", "/etc/passwd", "a%00b", "\u202e\uff0e\uff0e\uff0f", LONG]
INFER = "/infer/ifim_signal_2d?image=signal2d_0"


@pytest.mark.parametrize("name", NAMES, ids=lambda n: ascii(n)[:20])
def test_unknown_ids_and_models(server, name):
    before = server.temporary()
    for path in (f"/infer/ifim_signal_2d?image={name}", f"/ifim/ifim_signal_2d?image={name}"):
        answer = server.post(path, "{}")
        assert answer.status_code == 404, answer.text
        assert answer.json()["detail"].startswith("expected the id of a stored image")
        assert len(answer.text) < 400
    model = server.post(f"/infer/{name}?image=signal2d_0", "{}")
    assert 400 <= model.status_code < 500
    strategy = server.post(f"/activelearning/{name}")
    assert 400 <= strategy.status_code < 500
    scoring = server.post(f"/scoring/{name}")
    assert 400 <= scoring.status_code < 500
    label = server.get(f"/datastore/label?label=signal2d_0&tag={name}")
    assert label.status_code == 404
    assert server.temporary() == before


@pytest.mark.parametrize("name", NAMES, ids=lambda n: ascii(n)[:20])
def test_nothing_is_written_outside_the_studies(server, name):
    before, files = server.temporary(), all_files(server.folder)
    content = ("x.nii.gz", b"content")
    tag = requests.put(
        f"{server.url}/datastore/label?image=signal2d_0&tag={name}",
        files={"label": content},
        timeout=60,
    )
    assert tag.status_code == 400, tag.text
    assert tag.json()["detail"].startswith("expected a tag")
    if "\u202e" not in name:
        added = requests.put(
            f"{server.url}/datastore/image?image={name}", files={"file": content}, timeout=60
        )
        assert added.status_code == 400, added.text
    for upload in (f"{name}.exe", f"{name}.nii.gz/../../x"):
        kind = requests.put(
            f"{server.url}/datastore/image?image=new", files={"file": (upload, b"")}, timeout=60
        )
        assert 400 <= kind.status_code < 500, kind.text
    assert server.temporary() == before
    assert all_files(server.folder) == files


def all_files(folder):
    changing = ("server.log", "app.log")
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in changing)


@pytest.mark.parametrize(
    ("path", "params", "status", "sentence"),
    [
        (INFER, '{"image": "signal2d_1"}', 400, "model and image belong in the URL"),
        (INFER, '{"model": "ifim_signal_3d"}', 400, "model and image belong in the URL"),
        (INFER, '{"save_label": true}', 400, "model and image belong in the URL"),
        (INFER, '{"label_tag": "final"}', 400, "model and image belong in the URL"),
        (INFER, '{"component": "$__import__(\'os\')"}', 400, "expected component from high"),
        (INFER, '{"component": 7}', 400, "expected text"),
        (INFER, '{"rank": 0}', 400, "expected 1 <= rank"),
        (INFER, '{"rank": "1+1"}', 400, "expected rank as a number"),
        (INFER, '{"rank": 1.5}', 400, "whole number"),
        (INFER, '{"rank": 1e400}', 400, "expected rank as a number"),
        (INFER, '{"rank": 99}', 422, "the largest rank of F"),
        (INFER, '{"energy": 2}', 400, "0 < energy <= 1"),
        (INFER, '{"energy": [1]}', 400, "expected energy as a number"),
        (INFER, '{"rank": 1, "energy": 0.5}', 400, "expected rank or energy"),
        (INFER, '{"device": "tpu"}', 400, "expected device from"),
        (INFER, '{"result_extension": "/../x.py"}', 400, "expected result_extension"),
        (INFER, '{"displayable_configs": "$1"}', 400, "expected parameters from"),
        (INFER, "[1]", 400, "expected params as a JSON object"),
        (INFER, "{", 400, "expected params as JSON"),
        (INFER, "[" * 100_000, 400, "expected params as JSON"),
        (INFER + "&session_id=x", "{}", 400, "in the URL, got 'session_id'"),
        (INFER + "&output=zip", "{}", 422, ""),
        ("/infer/nobody?image=signal2d_0", "{}", 404, "expected a model from"),
        ("/infer/ifim_signal_2d", "{}", 404, "expected the id of a stored image"),
        ("/infer/ifim_signal_2d?image=broken", "{}", 415, "expected"),
        ("/infer/ifim_signal_2d?image=plain", "{}", 415, "expected"),
        ("/infer/ifim_signal_2d?image=signal3d_0", "{}", 422, "expected 1 channel and 2 spatial"),
        ("/infer/mask_channel?image=mask_channel_nucleus1", "{}", 422, "expected a stored label"),
        ("/ifim/ifim_signal_2d_overlay?image=signal2d_0", "{}", 400, "has a label map"),
        ("/infer/wsi/ifim_signal_2d?image=signal2d_0", None, 400, "whole-slide"),
    ],
)
def test_bad_requests_get_a_sentence(server, path, params, status, sentence):
    before = server.temporary()
    answer = server.post(path, params)
    assert answer.status_code == status, answer.text
    assert sentence in answer.text
    assert server.temporary() == before
    assert server.get("/health").json()["status"] == "ok"


def test_uploads_and_weights_are_refused(server):
    upload = server.post("/infer/ifim_signal_2d", files={"file": ("x.nii.gz", b"content")})
    assert upload.status_code == 400
    url = f"{server.url}/model/ifim_signal_2d"
    assert requests.put(url, files={"file": ("x.pt", b"")}, timeout=60).status_code == 403
    assert requests.delete(url, timeout=60).status_code == 403
    session = requests.put(f"{server.url}/session/", files={"files": b"x"}, timeout=60)
    assert 400 <= session.status_code < 500


def test_stock_routes_answer_with_a_sentence_too(server):
    url = f"{server.url}/datastore/label/info?label=signal2d_0&tag=final"
    garbage = requests.put(url, data={"info": "garbage"}, timeout=60)
    assert (garbage.status_code, garbage.json()["detail"][:13]) == (400, "expected JSON")
    unknown = requests.delete(f"{server.url}/datastore/image?id=../x", timeout=60)
    assert (unknown.status_code, unknown.json()["detail"]) == (404, "Image ../x not found")


BIG = "1" + "0" * 400


@pytest.mark.parametrize(
    ("method", "path", "data", "status"),
    [
        ("put", "/datastore/image/info?image=signal2d_0", {"info": '{"a": NaN}'}, 400),
        ("put", "/datastore/image/info?image=signal2d_0", {"info": '{"a": "\\ud800"}'}, 400),
        ("put", "/datastore/image/info?image=signal2d_0", {"info": '{"ifim": 5}'}, 400),
        ("put", "/datastore/image/info?image=signal2d_0", {"info": "[1]"}, 400),
        ("post", "/infer/ifim_signal_2d?image=signal2d_0", {"params": f'{{"rank": {BIG}}}'}, 400),
        ("post", "/infer/ifim_signal_2d?image=signal2d_0", {"params": f'{{"energy": {BIG}}}'}, 400),
        ("get", "/datastore/dataset", {}, 404),
    ],
)
def test_what_would_break_others(server, method, path, data, status):
    answer = getattr(requests, method)(server.url + path, data=data, timeout=60)
    assert answer.status_code == status, answer.text
    assert server.get("/datastore/?output=all").ok
    assert server.get("/datastore/image/info?image=signal2d_0").ok


def test_files_of_the_deprecated_route_and_labels(server):
    before = server.temporary()
    files = {"file": ("x.nii.gz", b"content")}
    for query, data in (("?image=../q", {}), ("?image=q", {"params": "[1]"})):
        url = f"{server.url}/datastore/{query}"
        assert requests.put(url, files=files, data=data, timeout=60).status_code == 400
    url = f"{server.url}/datastore/label?image=signal2d_0&tag=y"
    label = {"label": ("x.nii.gz", b"content")}
    surrogate = requests.put(url, files=label, data={"params": '{"a": "\\ud800"}'}, timeout=60)
    assert surrogate.status_code == 400
    other = f"{server.url}/datastore/image?image=signal2d_0"
    png = requests.put(other, files={"file": ("x.png", b"content")}, timeout=60)
    assert png.status_code == 409
    assert server.temporary() == before


def test_a_random_sample_again_and_again(server):
    total = server.get("/datastore/").json()["total"]
    for _ in range(total + 3):
        assert server.post("/activelearning/random").json()["id"]


def test_the_method_and_large_numbers(server):
    body = server.post("/scoring/ifim_signal_2d?run_sync=true", json={"method": ["a"]})
    assert body.status_code == 400
    assert server.post("/activelearning/ifim_trace", json={"reset": int(BIG)}).ok


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


def test_scores_and_the_next_sample(server):
    first = server.post("/scoring/ifim_signal_2d?run_sync=true", json={"max_samples": 2}).json()
    assert first["scored"] + len(first["unfit"]) + len(first["failed"]) == 2
    second = server.post("/scoring/ifim_signal_2d?run_sync=true").json()
    again = server.post("/scoring/ifim_signal_2d?run_sync=true").json()
    assert (again["scored"], again["unfit"], again["failed"]) == (0, {}, {})
    assert second["scored"] > 0
    objects = server.get("/datastore/?output=all").json()["objects"]
    scores = {i: o["image"]["info"]["ifim"]["ifim_signal_2d"] for i, o in objects.items()}
    good = {i: s for i, s in scores.items() if "trace" in s}
    assert {"signal2d_0", "signal2d_1", "signal2d_2"} <= set(good)
    assert scores["signal3d_0"]["status"].startswith("unfit: expected")
    assert scores["broken"]["status"].startswith("failed: expected")
    version = server.get("/info/").json()["models"]["ifim_signal_2d"]["model_version"]
    assert {s["model_version"] for s in scores.values()} == {version}

    image = torch.as_tensor(nib.load(server.studies / "signal2d_0.nii.gz").get_fdata()).float()
    network = network_of("ifim_signal_2d")
    space = mi.eigenspace(network, image.reshape(1, 1, 64, 64))
    assert good["signal2d_0"]["trace"] == pytest.approx(space.trace.item(), rel=1e-4)

    best = max(good, key=lambda i: good[i]["trace"])
    sample = server.post("/activelearning/ifim_trace", json={"model": "ifim_signal_2d"}).json()
    assert (sample["id"], sample["score"]) == (best, good[best]["trace"])
    # What was served today comes last; a reset of 0 seconds starts anew.
    other = server.post("/activelearning/ifim_trace", json={"model": "ifim_signal_2d"}).json()
    assert other["id"] != best
    anew = {"model": "ifim_signal_2d", "reset": 0}
    assert server.post("/activelearning/ifim_trace", json=anew).json()["id"] == best
    uncertain = max(good, key=lambda i: good[i]["entropy"])
    mix = {**anew, "weight": 0.0}
    assert server.post("/activelearning/ifim_mix", json=mix).json()["id"] == uncertain
    bad = server.post("/activelearning/ifim_mix", json={"weight": "$1"})
    assert bad.status_code == 400


def network_of(name):
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(str(BUNDLES / name / "configs" / "inference.json"))
    network = parser.get_parsed_content("network_def")
    weights = torch.load(BUNDLES / name / "models" / "model.pt", weights_only=True)
    network.load_state_dict(weights)
    return network.eval()


def test_scoring_in_the_background(server):
    task = server.post("/scoring/ifim_hippocampus_3d").json()
    assert task["status"] in ("SUBMITTED", "RUNNING")
    # The broken files have no score, which the task's status says.
    assert wait(server, "/scoring/")["status"] == "ERROR"
    for _ in range(40):
        info = server.get("/datastore/image/info?image=hippocampus_0").json()
        if "ifim_hippocampus_3d" in info.get("ifim", {}):
            break
        time.sleep(0.25)
    assert info["ifim"]["ifim_hippocampus_3d"]["trace"] > 0


def test_fifty_requests_of_four_clients(server):
    before = server.temporary()
    wishes = [
        ("ifim_signal_2d", f"signal2d_{i % 3}", ("high", "orth", "sensitivity")[i % 3], 1)
        if i % 2
        else ("ifim_hippocampus_3d", f"hippocampus_{i % 2}", ("high", "orth")[i % 2], 1 + i % 2)
        for i in range(50)
    ]

    def ask(wish):
        model, image, component, rank = wish
        params, got = infer(server, model, image, component=component, rank=rank)
        return params["trace"], params["eigenvalues"], got.get_fdata()

    serial = {wish: ask(wish) for wish in set(wishes)}
    waits, done = [], threading.Event()

    def watch():
        while not done.is_set():
            start = time.monotonic()
            assert server.get("/health").ok
            assert server.get("/info/").ok
            waits.append(time.monotonic() - start)
            time.sleep(0.05)

    with ThreadPoolExecutor(5) as pool:
        watcher = pool.submit(watch)
        answers = list(pool.map(ask, wishes))
        done.set()
        watcher.result()
    for wish, (trace, eigenvalues, values) in zip(wishes, answers, strict=True):
        assert trace == pytest.approx(serial[wish][0], rel=1e-6)
        assert eigenvalues == pytest.approx(serial[wish][1], rel=1e-6)
        scale = np.abs(serial[wish][2]).max()
        np.testing.assert_allclose(values, serial[wish][2], atol=1e-6 * scale)
    assert len(waits) >= 3
    print(f"{len(waits)} health checks meanwhile, the slowest {max(waits):.2f} s")
    assert server.temporary() == before


def test_nothing_is_left_behind(server):
    """Last: after all of the above, only what MONAI Label keeps of its own start."""
    left = [p for p in server.temporary() if "inductor" not in str(p)]
    assert [p.suffix for p in left] in ([], [".json"])  # the logging configuration
    assert not list(server.studies.rglob(".partial*"))
