"""A server for one report on this machine, which also hands out the full volumes."""

from __future__ import annotations

import hmac
import json
import secrets
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from nibabel.filebasedimages import ImageFileError

from monai_ifim.messages import reason
from monai_ifim.report.cases.folder import RunFolder
from monai_ifim.report.html.report import FOLDER
from monai_ifim.report.html.volumes import NAMES, BrowserVolumes

HOST = "127.0.0.1"
_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


class ReportServer(ThreadingHTTPServer):
    """Serves ``report/`` and the volumes of a run to this machine alone.

    Every address begins with a random token; requests without it, and those that name another
    host, are refused (403). Nothing outside ``report/`` is read but the volumes of the images of
    the table, which are asked for by their number.

    Args:
        output_dir: of the run, with a report.
        port: 0 for any free one.

    Raises:
        FileNotFoundError: no table, or no report.
    """

    daemon_threads = True

    def __init__(self, output_dir: Path, port: int = 0) -> None:
        self.folder, self.root = RunFolder(output_dir), (output_dir / FOLDER).resolve()
        if not (self.root / "index.html").is_file():
            raise FileNotFoundError(
                f"expected the report {self.root / 'index.html'}, got nothing; run monai-ifim "
                f"report {output_dir} first"
            )
        self.token = secrets.token_urlsafe(24)
        self.volumes = lru_cache(maxsize=2)(self._volumes)
        super().__init__((HOST, port), _Handler)

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{HOST}:{self.server_address[1]}/{self.token}/{FOLDER}/index.html"

    def _volumes(self, index: int) -> BrowserVolumes | None:
        case = self.folder.case(self.folder.rows[index])
        return None if case is None else BrowserVolumes(case, budget=0)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: ReportServer
    server_version, sys_version = "monai-ifim", ""

    def do_GET(self) -> None:
        """Hand out a file of the report, or a volume."""
        try:
            status, kind, content = self._answer()
        except (OSError, EOFError, ValueError, MemoryError, ImageFileError) as error:
            status, kind = HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8"
            content = reason(error).encode("utf-8", "backslashreplace")
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Frame-Options", "DENY"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the address holds the token."""

    def _answer(self) -> tuple[HTTPStatus, str, bytes]:
        token, *parts = unquote(urlsplit(self.path).path).removeprefix("/").split("/")
        known = hmac.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode())
        port = self.server.server_address[1]
        if not known or self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
            return _refused(HTTPStatus.FORBIDDEN)
        if parts[:1] == ["volumes"] and len(parts) == 3:
            return self._volume(parts[1], parts[2])
        if parts[:1] == [FOLDER]:
            return self._file("/".join(parts[1:]))
        return _refused(HTTPStatus.NOT_FOUND)

    def _file(self, name: str) -> tuple[HTTPStatus, str, bytes]:
        root = self.server.root
        if "\0" in name:
            return _refused(HTTPStatus.NOT_FOUND)
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            return _refused(HTTPStatus.FORBIDDEN)
        if path.suffix not in _TYPES or not path.is_file():
            return _refused(HTTPStatus.NOT_FOUND)
        return HTTPStatus.OK, _TYPES[path.suffix], path.read_bytes()

    def _volume(self, number: str, name: str) -> tuple[HTTPStatus, str, bytes]:
        rows = len(self.server.folder.rows)
        if (
            not (number.isascii() and number.isdecimal() and len(number) < 10)
            or int(number) >= rows
        ):
            return _refused(HTTPStatus.NOT_FOUND)
        volumes = self.server.volumes(int(number))
        if volumes is None:
            return _refused(HTTPStatus.NOT_FOUND)
        if name == "settings.json":
            content = json.dumps(volumes.settings()).encode()
            return HTTPStatus.OK, "application/json", content
        stem = name.removesuffix(".nii.gz")
        if stem == name or stem not in NAMES or stem not in volumes.names():
            return _refused(HTTPStatus.NOT_FOUND)
        return HTTPStatus.OK, "application/gzip", volumes.file(stem)


def _refused(status: HTTPStatus) -> tuple[HTTPStatus, str, bytes]:
    return status, "text/plain; charset=utf-8", f"{status.phrase}\n".encode()
