"""Who may ask: other machines only with a password, and tokens of an OpenID server."""

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-test"
)

import jwt
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from _helpers.servers import BUNDLES, start, stop, write_images
from monai_ifim.label.app_folder import check_host, start_server, write_app


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "hospital.example", ""])
def test_no_other_machine_without_a_password(host, tmp_path, monkeypatch):
    monkeypatch.delenv("MONAI_LABEL_AUTH_ENABLE", raising=False)
    with pytest.raises(ValueError, match="MONAI_LABEL_AUTH_ENABLE"):
        start_server(tmp_path, str(tmp_path), host, 8000, [])
    check_host(host, True)
    monkeypatch.setenv("MONAI_LABEL_AUTH_ENABLE", "true")
    check_host(host, False)


def test_no_password_in_the_address_of_a_pacs(tmp_path):
    """MONAI Label would write it into its log, and every answer would show it."""
    address = "http://reader:secret@127.0.0.1:8042/dicom-web"
    with pytest.raises(ValueError, match="MONAI_LABEL_DICOMWEB_PASSWORD") as raised:
        start_server(tmp_path, address, "127.0.0.1", 8000, [])
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_this_machine(host, monkeypatch):
    monkeypatch.delenv("MONAI_LABEL_AUTH_ENABLE", raising=False)
    check_host(host, False)


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def realm(key):
    """What Keycloak says about a realm."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public = key.public_key().public_bytes(serialization.Encoding.DER, form)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            body = json.dumps({"public_key": base64.b64encode(public).decode()}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/realms/monailabel"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def server(realm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("password")
    write_app(folder / "app", [BUNDLES / "ifim_signal_2d"])
    (folder / "studies").mkdir()
    write_images(folder / "studies")
    command = ["monai_ifim", "label-server", "app", "studies"]
    running = start(
        folder,
        command,
        path="/health",
        MONAI_LABEL_AUTO_UPDATE_SCORING="false",
        MONAI_LABEL_AUTH_ENABLE="true",
        MONAI_LABEL_AUTH_REALM_URI=realm,
    )
    yield running
    stop(running)


def header(key, *roles, seconds=600, **options):
    claims = {"preferred_username": "ada", "exp": time.time() + seconds}
    claims |= {"realm_access": {"roles": list(roles)}}
    token = jwt.encode(claims, key, **{"algorithm": "RS256", **options})
    return {"Authorization": f"Bearer {token}"}


GETS = ("/info/", "/datastore/", "/datastore/image?image=signal2d_0", "/proxy/dicom/studies")


def test_without_a_token_nothing_is_told(server, key):
    strange = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for headers in (
        {},
        {"Authorization": "Bearer nonsense"},
        header(strange, "monailabel-user"),
        header(key, "monailabel-user", seconds=-10),
        header("secret" * 10, "monailabel-user", algorithm="HS256"),
        header(None, "monailabel-user", algorithm="none"),
    ):
        for path in GETS:
            assert server.get(path, headers=headers).status_code == 401
    assert server.post("/reload").status_code == 401


def test_roles(server, key):
    user, annotator = header(key, "monailabel-user"), header(key, "monailabel-annotator")
    assert server.get("/info/", headers=user).status_code == 200
    url = "/infer/ifim_signal_2d?image=signal2d_0"
    assert server.post(url, "{}", headers=user).status_code == 200
    assert server.get("/info/", headers=annotator).status_code == 403
    score = f"{server.url}/scoring/ifim_signal_2d?run_sync=true"
    assert requests.post(score, headers=user, timeout=60).status_code == 403
    assert requests.post(score, headers=annotator, timeout=60).status_code == 200
    storing, both = (
        '{"store_in_pacs": true}',
        header(key, "monailabel-user", "monailabel-annotator"),
    )
    refused = server.post(url, storing, headers=user)
    assert (refused.status_code, "role monailabel-annotator" in refused.text) == (403, True)
    refused = server.post(url, storing, headers=both)
    assert (refused.status_code, "expected a server on a PACS" in refused.text) == (400, True)
    assert server.get("/proxy/dicom/studies", headers=user).status_code == 404
    assert server.post("/reload", headers=header(key, "monailabel-admin")).status_code == 403
