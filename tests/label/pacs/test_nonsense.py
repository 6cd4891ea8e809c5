"""A PACS that answers nonsense, half, or slowly: a sentence with 502 or 504, nothing is kept."""

import json
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

from _helpers.dicom import SHIPPED
from _helpers.orthanc import store_of
from monai_ifim.label.pacs.dicomweb import DicomWeb, PacsError

ROW = {
    "0020000E": {"vr": "UI", "Value": ["1.2.3"]},
    "0020000D": {"vr": "UI", "Value": ["1.2"]},
    "00080060": {"vr": "CS", "Value": ["CT"]},
    "00080018": {"vr": "UI", "Value": ["1.2.3.4"]},
}
CT = (SHIPPED / "CT_small.dcm").read_bytes()
MULTIPART = 'multipart/related; type="application/dicom"; boundary=x'


def part(content):
    return b"--x\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n"


class Fake(ThreadingHTTPServer):
    """Answers searches with ``rows``, and a series with ``status``, ``kind`` and ``body``."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.rows, self.status, self.kind, self.body, self.drip = [ROW], 200, MULTIPART, b"", 0
        self.drops = self.endless = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/dicom-web"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        fake, path = self.server, self.path.split("?")[0]
        if fake.drops:
            fake.drops -= 1
            self.close_connection = True
            return
        search = path.endswith(("/series", "/instances"))
        rows = fake.rows if isinstance(fake.rows, bytes) else json.dumps(fake.rows).encode()
        body = rows if search else fake.body
        if search and fake.endless:
            fake.endless += 1
            uid = {"vr": "UI", "Value": [f"1.2.{fake.endless}"]}
            body = json.dumps([{**ROW, "0020000E": uid}]).encode()
        elif search and "offset=0" not in self.path and "limit=1&" not in self.path + "&":
            body = b"[]"
        self.send_response(200 if search else fake.status)
        self.send_header("Content-Type", "application/dicom+json" if search else fake.kind)
        self.end_headers()
        if not search and fake.drip:
            with suppress(OSError):
                for _ in range(100):
                    self.wfile.write(b"-")
                    time.sleep(fake.drip)
        with suppress(OSError):
            self.wfile.write(body)


@pytest.fixture
def fake():
    server = Fake()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "rows", [b"<html>login</html>", b'{"a": 1}', b"[1]", b"", b'[{"0020000E": 5}]']
)
def test_nonsense_in_the_place_of_a_listing(fake, tmp_path, rows):
    fake.rows = rows
    store = store_of(fake, tmp_path)
    if rows in (b"", b'[{"0020000E": 5}]'):
        assert store.list_images() == []
    else:
        with pytest.raises(PacsError, match="expected DICOM JSON") as raised:
            store.list_images()
        assert raised.value.status_code == 502


@pytest.mark.parametrize("uid", ["../../x", "1.2/3", "", "a" * 10, "1" * 65, None, ["1"], "1.2\n"])
def test_an_id_of_the_pacs_is_no_path(fake, tmp_path, uid):
    fake.rows = [{**ROW, "0020000E": {"vr": "UI", "Value": [uid]}}]
    assert store_of(fake, tmp_path).list_images() == []


@pytest.mark.parametrize(
    ("body", "sentence", "status"),
    [
        (b"", "an empty answer", 502),
        (part(CT), "ends early", 502),  # the mark at the end is missing
        (part(CT)[:-2000], "ends early", 502),
        (b"--x\r\nno header\r\n--x--", "without a header", 502),
        (
            part(CT) + part(CT) + b"--x--",
            "expected 1 objects of studies/1.2/series/1.2.3, got 2",
            502,
        ),
        (part(b"no DICOM at all") + b"--x--", "header cannot be read", 415),
        (part(CT[:20000]) + b"--x--", "expected a readable series", 415),
    ],
)
def test_half_a_series(fake, tmp_path, body, sentence, status):
    fake.body = body
    store = store_of(fake, tmp_path)
    with pytest.raises(Exception, match=sentence) as raised:
        store.get_image_uri("1.2.3")
    assert raised.value.status_code == status
    assert not list(store.folder.glob("*.nii.gz"))
    assert not list(store.folder.glob(".incoming*"))
    fake.body = part(CT) + b"--x--"
    assert store.get_image_uri("1.2.3").endswith("1.2.3.nii.gz")


@pytest.mark.parametrize(
    ("status", "sentence", "away"),
    [(500, "got status 500", False), (401, "DICOMWEB_USERNAME", True), (503, "status 503", True)],
)
def test_errors_of_the_pacs(fake, tmp_path, status, sentence, away):
    store = store_of(fake, tmp_path)
    fake.status = status
    with pytest.raises(PacsError, match=sentence) as raised:
        store.get_image_uri("1.2.3")
    assert (raised.value.status_code, raised.value.away) == (502, away)


def test_a_series_byte_by_byte_ends_at_the_set_time(fake, tmp_path):
    fake.drip = 0.05
    store = store_of(fake, tmp_path, download_seconds=0.5)
    start = time.monotonic()
    with pytest.raises(PacsError, match=r"within 0.5 s") as raised:
        store.get_image_uri("1.2.3")
    assert time.monotonic() - start < 2
    assert raised.value.status_code == 504
    assert not list(store.folder.glob(".incoming*"))


def test_more_bytes_than_an_image_can_have(fake, tmp_path):
    fake.body = part(b"x" * 2**21) + b"--x--"
    store = store_of(fake, tmp_path, max_voxels=10)
    with pytest.raises(PacsError, match="expected at most"):
        store.get_image_uri("1.2.3")


def test_a_connection_that_was_closed_meanwhile(fake):
    """Servers close idle connections, sometimes as the next request is on its way."""
    fake.drops = 1
    client = DicomWeb(fake.url)
    assert len(client.search("series", "SeriesInstanceUID")) == 1
    assert fake.drops == 0
    fake.drops = 5
    with pytest.raises(PacsError, match="got no connection"):
        client.search("series", "SeriesInstanceUID")


@pytest.mark.parametrize(("modality", "listed"), [("CT", ["1.2.3"]), ("OT", [])])
def test_a_series_of_unknown_kind(fake, tmp_path, modality, listed):
    """The PACS does not say: a result of our own would have the modality OT."""
    fake.rows = [{**ROW, "00080060": {"vr": "CS", "Value": [modality]}}]
    assert store_of(fake, tmp_path, modalities=("ALL",)).list_images() == listed


def test_a_listing_without_end(fake):
    fake.endless = 1
    start = time.monotonic()
    with pytest.raises(PacsError, match=r"within 0.5 s") as raised:
        DicomWeb(fake.url, download_seconds=0.5).search("series", "SeriesInstanceUID")
    assert raised.value.status_code == 504
    assert time.monotonic() - start < 2
    assert fake.endless > 3


def test_a_page_is_no_end(fake):
    """Servers give as many rows as they like at once."""
    fake.rows = [ROW]
    assert len(DicomWeb(fake.url).search("series", "SeriesInstanceUID")) == 1
