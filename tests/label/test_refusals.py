"""What a client may not ask gets a status of 4xx and a sentence, and leaves nothing behind."""

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

import psutil
import requests

LONG = "x" * 10_000
NAMES = ["../x", "..%2F..%2Fetc%2Fpasswd", "/etc/passwd", "a%00b", "\u202e\uff0e\uff0e\uff0f", LONG]
INFER = "/infer/ifim_signal_2d?image=signal2d_0"
BIG = "1" + "0" * 400


def test_only_this_machine_is_listened_to(server):
    addresses = {
        c.laddr.ip
        for c in psutil.Process(server.process.pid).net_connections("tcp")
        if c.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


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
