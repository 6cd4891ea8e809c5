"""What happens at start and stop, and what the server's settings do."""

import shutil
import time

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

from _helpers.servers import BUNDLES, start, stop, write_images
from monai_ifim.label.app_folder import write_app


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    write_app(folder / "app", [BUNDLES / "ifim_signal_2d", BUNDLES / "ifim_signal_3d"])
    shutil.copytree(BUNDLES / "ifim_mednist_2d" / "docs", folder / "app" / "model" / "no_bundle")
    broken = folder / "app" / "model" / "wrong_weights"
    shutil.copytree(BUNDLES / "ifim_signal_2d", broken)
    shutil.copy(BUNDLES / "ifim_signal_3d" / "models" / "model.pt", broken / "models")
    malformed = folder / "app" / "model" / "malformed"
    shutil.copytree(BUNDLES / "ifim_signal_2d", malformed)
    (malformed / "configs" / "metadata.json").write_text("[]")
    (folder / "studies").mkdir()
    write_images(folder / "studies")
    for file in folder.glob("studies/[!s]*"):
        file.unlink()
    command = ["monai_ifim", "label-server", "app", "studies", "--conf", "max_voxels=5000"]
    server = start(folder, command)
    yield server
    assert stop(server) in (0, -15)


def wait(server):
    for _ in range(160):
        tasks = server.get("/scoring/?all=true").json()
        if not {t["status"] for t in tasks} & {"SUBMITTED", "RUNNING"}:
            break
        time.sleep(0.5)
    return tasks


def test_what_is_no_bundle_is_left_out(small):
    assert small.get("/health").json()["models"] == [
        "ifim_signal_2d",
        "ifim_signal_2d_overlay",
        "ifim_signal_3d",
        "ifim_signal_3d_overlay",
    ]
    assert "no_bundle is left out: ValueError: expected inference.json" in small.log()
    assert "malformed is left out: AttributeError" in small.log()
    assert "wrong_weights is left out: RuntimeError: Error(s) in loading state_dict" in small.log()


def test_a_large_volume_is_refused_before_it_is_read(small):
    answer = small.post("/infer/ifim_signal_3d?image=signal3d_0", "{}")
    assert answer.status_code == 413
    assert "expected at most 5000 voxels, got 32768" in answer.json()["detail"]
    assert small.post("/infer/ifim_signal_2d?image=signal2d_0", "{}").ok


def test_images_are_scored_at_the_start(small):
    for _ in range(160):
        objects = small.get("/datastore/?output=all").json()["objects"]
        scored = [
            o["image"]["info"].get("ifim", {}).get("ifim_signal_2d") for o in objects.values()
        ]
        if all(scored):
            break
        time.sleep(0.5)
    assert len(scored) == 6
    assert all(scored)
    assert sum("trace" in score for score in scored) == 3
    # Images for another bundle, or too large for this server, are no failure of the scoring.
    assert {t["status"] for t in wait(small)} == {"DONE"}
    sample = small.post("/activelearning/ifim_largest_eigenvalue", json={}).json()
    assert sample["images_scored"] == 3
    assert sample["id"].startswith("signal2d")
