"""Scores of stored images, and the next image to look at."""

import time

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

import nibabel as nib
import torch

import monai_ifim as mi
from _helpers.servers import BUNDLES, finished


def test_a_random_sample_again_and_again(server):
    total = server.get("/datastore/").json()["total"]
    for _ in range(total + 3):
        assert server.post("/activelearning/random").json()["id"]


def test_the_method_and_large_numbers(server):
    body = server.post("/scoring/ifim_signal_2d?run_sync=true", json={"method": ["a"]})
    assert body.status_code == 400
    assert server.post("/activelearning/ifim_trace", json={"reset": 10**400}).ok


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
    assert finished(server, "/scoring/")["status"] == "ERROR"
    for _ in range(40):
        info = server.get("/datastore/image/info?image=hippocampus_0").json()
        if "ifim_hippocampus_3d" in info.get("ifim", {}):
            break
        time.sleep(0.25)
    assert info["ifim"]["ifim_hippocampus_3d"]["trace"] > 0
