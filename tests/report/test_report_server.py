"""`monai-ifim view`: this machine alone, with the token, and nothing outside the report."""

import gzip
import http.client
import json
import threading
from urllib.parse import quote, urlsplit

import nibabel as nib
import numpy as np
import pytest

from _helpers.run_folders import components, write_run
from monai_ifim.report.html import ReportServer, write_report

PARTS = components((1, 12, 9, 7), (0, 3, 4, 2))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(folder, [("/in/a.nii.gz", PARTS), ("/in/b.nii.gz", None), ("/in/c.nii.gz", PARTS)])
    write_report(folder, most=0)
    (folder / "report" / "link.html").symlink_to(folder / "ifim.csv")
    (folder / "c_ifim_high.nii.gz").write_bytes(b"nonsense")
    with ReportServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server, path, **headers):
    port = server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer, content


def test_it_listens_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    assert len(server.token) >= 32
    answer, content = get(server, urlsplit(server.address).path)
    assert answer.status == 200
    assert b"Content-Security-Policy" in content
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("token", ["", "wrong", "%00", "\u00e9", "TOKEN%20", "report"])
def test_without_the_token_nothing_is_served(server, token):
    token = token.replace("TOKEN", server.token)
    for path in ("report/index.html", "volumes/0/image.nii.gz", ""):
        assert get(server, quote(f"/{token}/{path}", safe="/%"))[0].status == 403
    assert get(server, "/report/index.html")[0].status == 403


def test_another_hosts_name_is_refused(server):
    path = urlsplit(server.address).path
    assert get(server, path, Host="evil.example")[0].status == 403
    assert get(server, path, Host=f"localhost:{server.server_address[1]}")[0].status == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("report/../ifim.csv", 403),
        ("report/%2e%2e/ifim.csv", 403),
        ("report/..%2f..%2f..%2fetc/passwd", 403),
        ("report//etc/passwd", 403),
        ("report/link.html", 403),
        ("report/none.html", 404),
        ("report/", 404),
        ("report/index.html%00", 404),
        ("ifim.csv", 404),
        ("volumes/0/..%2fifim.csv", 404),
        ("volumes/9/image.nii.gz", 404),
        ("volumes/-1/image.nii.gz", 404),
        ("volumes/0/secret.nii.gz", 404),
        ("volumes/1/image.nii.gz", 404),
        ("volumes/%c2%b2/image.nii.gz", 404),
    ],
)
def test_nothing_else_is_read(server, path, status):
    assert get(server, f"/{server.token}/{path}")[0].status == status


def test_full_volumes(server):
    settings = json.loads(get(server, f"/{server.token}/volumes/0/settings.json")[1])
    assert settings["factors"] == [1, 1, 1]
    answer, content = get(server, f"/{server.token}/volumes/0/image.nii.gz")
    assert answer.status == 200
    image = nib.Nifti1Image.from_bytes(gzip.decompress(content)).get_fdata()
    assert np.abs(image - (PARTS["high"] + PARTS["orth"])[0]).max() < 0.01


def test_a_damaged_volume_is_told_and_the_next_one_is_served(server):
    answer, content = get(server, f"/{server.token}/volumes/2/image.nii.gz")
    assert answer.status == 500
    assert b"Error" in content
    assert get(server, f"/{server.token}/volumes/0/high.nii.gz")[0].status == 200


def test_without_a_report(tmp_path):
    write_run(tmp_path, [("/in/a.nii.gz", None)])
    with pytest.raises(FileNotFoundError, match="monai-ifim report"):
        ReportServer(tmp_path)
