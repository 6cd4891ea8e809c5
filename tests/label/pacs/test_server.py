"""A server on a PACS, over HTTP, with the requests of stock clients."""

import gc
import json
import time
from pathlib import Path

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

import nibabel as nib
import nrrd
import numpy as np
import psutil
import requests
from monailabel.client import MONAILabelClient

from _helpers.orthanc import OHIF_PARAMS, write_scan
from _helpers.servers import finished, infer, volume

MODEL = "ifim_signal_3d"


@pytest.fixture(scope="module")
def server(pacs, new_server):
    return new_server(pacs)


def test_nothing_is_scored_or_downloaded_at_the_start(server):
    assert server.get("/scoring/?all=true").status_code == 404
    assert not list(server.folder.rglob("*.nii.gz"))
    assert server.get("/info/").json()["datastore"]["total"] == 7


def test_no_program_is_downloaded(server):
    program = psutil.Process(server.process.pid)
    first = Path(program.environ()["PATH"].split(":")[0])
    assert (first / "itkimage2segimage").is_file()
    assert "github" not in server.log()


@pytest.mark.parametrize("name", ["axial", "slanted"])
def test_components_are_on_the_grid_of_the_series(server, series, name):
    _, uid, values = series[name]
    _, high = infer(server, MODEL, uid, component="high")
    _, orth = infer(server, MODEL, uid, component="orth")
    stored = server.get(f"/datastore/image?image={uid}").content
    image = volume(stored)
    for each in (high, orth):
        np.testing.assert_allclose(each.affine, image.affine, atol=1e-5)
    total = high.get_fdata() + orth.get_fdata()
    np.testing.assert_allclose(total, values, atol=1e-4 * np.abs(values).max())


def test_scores_come_where_asked_for_and_go_on_later(server, series):
    before = server.temporary()
    url = f"/scoring/{MODEL}?run_sync=true"
    first = server.post(url, json={"max_samples": 3}).json()
    assert first["scored"] + len(first["unfit"]) + len(first["failed"]) == 3
    assert (first["left_out"], first["waiting"]) == (0, 4)
    second = server.post(url).json()
    assert (second["left_out"], second["waiting"], second["stopped"]) == (3, 0, "")
    unfit = {**first["unfit"], **second["unfit"]}
    assert "slices are missing" in unfit[series["gap"][1]]
    assert first["scored"] + second["scored"] == 2  # the others are no cubes
    assert second["cache_bytes"] == server.get("/info/").json()["datastore"]["cache_bytes"]
    objects = server.get("/datastore/?output=all").json()["objects"]
    scores = {i: o["image"]["info"]["ifim"][MODEL] for i, o in objects.items()}
    assert scores[series["axial"][1]]["trace"] > 0
    assert server.temporary() == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_python_client_overwrites_nothing(server, series, tmp_path):
    client = MONAILabelClient(server.url, tmpdir=str(tmp_path))
    asked = [(series[n][1], c) for n in ("axial", "slanted") for c in ("high", "orth")]
    files = [client.infer(MODEL, uid, {"component": c})[0] for uid, c in asked]
    assert len(set(files)) == 4
    contents = [nib.load(file).get_fdata() for file in files]
    for (uid, component), file in zip(asked, files, strict=True):
        assert Path(file).name == f"{uid}_{MODEL}_ifim_{component}.nii.gz"
    assert all(np.any(a != b) for i, a in enumerate(contents) for b in contents[:i])
    saved = client.download_label(series["axial"][1], f"{MODEL}_ifim_high")
    np.testing.assert_array_equal(nib.load(saved).get_fdata(), contents[0])
    assert client.info()["datastore"]["total"] == 7
    gc.collect()  # the client leaves its sockets to the collector, which complains


def test_an_overlay_as_ohif_asks_for_it(server, series, tmp_path):
    models = server.get("/info/").json()["models"]
    listed = [name for name, model in models.items() if model["type"] == "segmentation"]
    assert listed == ["ifim_signal_2d_overlay", "ifim_signal_3d_overlay"]
    uid = series["axial"][1]
    answer = server.post(
        f"/infer/{MODEL}_overlay?image={uid}&output=image",
        json.dumps(OHIF_PARAMS),
        headers={"accept": "application/json,multipart/form-data"},
    )
    assert answer.status_code == 200, answer.text
    (tmp_path / "overlay.nrrd").write_bytes(answer.content)
    overlay, header = nrrd.read(str(tmp_path / "overlay.nrrd"))
    assert (overlay.dtype, header["encoding"]) == (np.uint8, "gzip")  # OHIF knows no other two
    _, sensitivity = infer(server, MODEL, uid, component="sensitivity")
    values = sensitivity.get_fdata()
    assert values[overlay == 3].min() >= values[overlay == 2].max()
    assert values[overlay == 2].min() >= values[overlay == 1].max()
    assert (overlay == 3).any()

    submit = {"label_info": [{"name": "spleen", "model_name": "x"}]}
    url = f"{server.url}/datastore/label?image={uid}"

    def send(values):
        files = {"label": ("label.bin", values.tobytes(order="F"))}
        return requests.put(url, files=files, data={"params": json.dumps(submit)}, timeout=60)

    refused = send(np.array([0, 4, 2, 9], np.uint8)[overlay])
    assert (refused.status_code, "no annotation" in refused.text) == (422, True)
    assert send(overlay[:9]).status_code == 415
    completed = server.get("/info/").json()["datastore"]["completed"]
    drawn = np.zeros((32, 32, 32), np.uint8)
    drawn[3:9, 5:6, 7:20] = 1
    assert send(drawn).status_code == 200
    assert server.get("/info/").json()["datastore"]["completed"] == completed + 1
    final = server.get(f"/datastore/label?label={uid}&tag=final").content
    np.testing.assert_array_equal(volume(final).get_fdata(), drawn)


def test_the_next_sample_as_ohif_and_slicer_ask_for_it(server):
    strategies = server.get("/info/").json()["strategies"]
    assert strategies["ifim_trace"]["config"]["model"] == ["ifim_signal_2d", MODEL]
    sample = server.post("/activelearning/ifim_trace", json={"model": MODEL, "client_id": "x"})
    shown = sample.json()
    for field in ("Modality", "StudyDate", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"):
        assert shown[field], field
    assert shown["strategy"]["ifim_trace"]["client_id"] == "x"


def test_what_ohif_reads_through_the_proxy(server, pacs, series):
    _, uid, _ = series["axial"]
    studies = server.get("/proxy/dicom/qido/studies?limit=2&offset=0&includefield=00081030").json()
    assert len(studies) == 2  # MONAI Label's own proxy drops the query
    study = server.get(f"/datastore/image/info?image={uid}").json()["StudyInstanceUID"]
    path = f"studies/{study}/series/{uid}"
    rows = server.get(f"/proxy/dicom/qido/{path}/metadata").json()
    assert len(rows) == 32
    instance = rows[0]["00080018"]["Value"][0]
    frame = server.get(
        f"/proxy/dicom/wado/{path}/instances/{instance}/frames/1",
        headers={"Accept": 'multipart/related; type="application/octet-stream"'},
    )
    direct = requests.get(f"{pacs.url}/{path}/instances/{instance}/frames/1", timeout=60)
    assert len(frame.content) > 32 * 32 * 2
    assert frame.status_code == direct.status_code == 200
    assert server.get(f"/proxy/dicom/{path}/metadata").json() == rows


@pytest.mark.parametrize(
    "path", ["wado/..%2f..%2fsystem", "../../tools/now", "system", "wado/tools/now", "qido/x"]
)
def test_the_proxy_leads_nowhere_else(server, path):
    connection = requests.Request("GET", f"{server.url}/proxy/dicom/x").prepare()
    connection.url = f"{server.url}/proxy/dicom/{path}"
    answer = requests.Session().send(connection, timeout=60)
    assert answer.status_code in (400, 404), answer.text


def test_nothing_is_sent_to_the_pacs(server, pacs, series):
    count = pacs.count()
    content = (series["axial"][0] / "0000.dcm").read_bytes()
    body = {"file": ("x.dcm", content)}
    for path in ("/proxy/dicom/stow/studies", "/proxy/dicom/wado/studies", "/proxy/dicom/studies"):
        answer = server.post(path, files=body)
        assert (answer.status_code, "pacs_receives" in answer.text) == (403, True)
    url = f"{server.url}/datastore/image?image=new"
    added = requests.put(url, files={"file": ("x.nii.gz", b"x")}, timeout=60)
    assert (added.status_code, "sent to the PACS" in added.text) == (403, True)
    gone = requests.delete(f"{server.url}/datastore/image?id={series['axial'][1]}", timeout=60)
    assert (gone.status_code, "removed in the PACS" in gone.text) == (403, True)
    assert pacs.count() == count


def test_what_a_viewer_stores(new_pacs, new_server, series):
    """Where it is allowed: unchanged, below studies alone, of a size that memory can hold."""
    pacs = new_pacs()
    server = new_server(pacs, "pacs_receives=viewer", "max_voxels=1000")
    content = (series["axial"][0] / "0000.dcm").read_bytes()
    kind = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'}
    head = b"--x\r\nContent-Type: application/dicom\r\n\r\n"
    body = head + content + b"\r\n--x--\r\n"

    def send(path, body):
        url = f"{server.url}/proxy/dicom/{path}"
        return requests.post(url, data=body, headers=kind, timeout=60)

    assert send("tools/now", body).status_code == 400
    large = send("stow/studies", iter([head, bytes(2**20), bytes(2**20)]))  # no size beforehand
    assert (large.status_code, "max_voxels" in large.text) == (413, True)
    assert pacs.count() == 0
    assert send("stow/studies", body).ok
    assert list(pacs.series()) == [series["axial"][1]]


@pytest.mark.parametrize("tag", ["../../../../../escaped", "a/b"])
def test_tags_and_info(server, series, tag):
    uid, before = series["axial"][1], set(server.folder.rglob("*"))
    url = f"{server.url}/datastore/label?image={uid}&tag={tag}"
    label = requests.put(url, files={"label": ("x.nii.gz", b"x")}, timeout=60)
    assert (label.status_code, "expected a tag" in label.text) == (400, True)
    url = f"{server.url}/datastore/image/info?image={uid}"
    info = requests.put(url, data={"info": '{"a": NaN}'}, timeout=60)
    assert (info.status_code, "without NaN" in info.text) == (400, True)
    assert server.get("/datastore/?output=all").ok
    assert set(server.folder.rglob("*")) == before


def test_a_new_series_is_listed_and_scored_in_the_background(server, pacs, tmp_path):
    uid, _ = write_scan(tmp_path / "scan", (32, 32, 32), modality="MR")
    pacs.send_folder(tmp_path / "scan")
    time.sleep(1.1)
    assert server.get("/info/").json()["datastore"]["total"] == 8
    server.post(f"/scoring/{MODEL}")
    assert finished(server, "/scoring/")["status"] == "DONE"
    assert server.get(f"/datastore/image/info?image={uid}").json()["ifim"][MODEL]["trace"] > 0
    pacs.remove(uid)
    time.sleep(1.1)
    assert server.get("/info/").json()["datastore"]["total"] == 7
    assert server.post(f"/infer/{MODEL}?image={uid}", "{}").status_code == 404


def test_the_pacs_stops_and_starts(new_pacs, new_server, series):
    pacs = new_pacs()
    for name in ("axial", "slanted"):
        pacs.send_folder(series[name][0])
    here, there = series["axial"][1], series["slanted"][1]
    pacs.stop()
    server = new_server(pacs, "pacs_scoring=1")  # it starts without
    assert "the server starts without the PACS" in server.log()
    assert "no connection" in server.get("/info/").json()["datastore"]["pacs"]
    pacs.start()
    time.sleep(2.1)
    infer(server, MODEL, here)
    pacs.freeze()
    start = time.monotonic()
    answer = server.post(f"/infer/{MODEL}?image={there}", "{}")
    assert answer.status_code == 504, answer.text
    assert "within 5 s" in answer.json()["detail"]
    assert time.monotonic() - start < 15
    assert server.get("/health").ok
    pacs.thaw()
    pacs.stop()
    time.sleep(2.1)
    scoring = server.post(f"/scoring/{MODEL}?run_sync=true")
    assert scoring.status_code == 502
    for path in (f"/infer/{MODEL}?image={there}", "/activelearning/ifim_trace"):
        answer = server.post(path, "{}" if "infer" in path else None)
        assert (answer.status_code, "no connection" in answer.text) == (502, True)
    proxy = server.get("/proxy/dicom/qido/studies")
    assert (proxy.status_code, "no connection" in proxy.text) == (502, True)
    infer(server, MODEL, here)  # what has been downloaded can still be looked at
    pacs.start()
    time.sleep(2.1)
    infer(server, MODEL, there)
    assert not list((server.folder / "cache").rglob(".incoming*"))
