"""Requests to a DICOMweb server, each with an end: an answer, or a sentence within a set time.

dicomweb-client, which MONAI Label uses, tries five times for half a minute, sets no limit to the
time or the size of an answer, and holds a whole series in memory.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import requests
from pydicom.datadict import tag_for_keyword
from requests.adapters import HTTPAdapter
from starlette.exceptions import HTTPException
from urllib3.exceptions import ReadTimeoutError
from urllib3.util import Retry

from monai_ifim.label.options import short
from monai_ifim.label.pacs.multipart import UnusableError, parts_of
from monai_ifim.messages import reason

T = TypeVar("T")
Row = Mapping[str, Any]
_DICOM_JSON = "application/dicom+json"
DICOM_PARTS = 'multipart/related; type="application/dicom"'
_CHUNK = 2**18
_PAGE = 1000
_AT_ONCE = 8


class PacsError(HTTPException):
    """The PACS gave no answer, or one that cannot be used.

    Args:
        sentence: for the client.
        status: 502, or 504 where time ran out.
        away: whether another request would meet the same: the PACS is down, slow or locked.
    """

    def __init__(self, sentence: str, status: int = 502, *, away: bool = False) -> None:
        super().__init__(status, sentence)
        self.away = away


class DicomWeb:
    """A DICOMweb server.

    Args:
        url: of its DICOMweb interface, for example ``http://127.0.0.1:8042/dicom-web``.
        login: user and password, None where it asks for none.
        prefixes: of the paths of QIDO, WADO and STOW, mostly empty.
        seconds: within which a search or the start of an answer must be there.
        download_seconds: within which a series must be there, or have been stored.
    """

    def __init__(
        self,
        url: str,
        *,
        login: tuple[str, str] | None = None,
        prefixes: Mapping[str, str] | None = None,
        seconds: float = 20,
        download_seconds: float = 300,
    ) -> None:
        self.url = url.rstrip("/")
        self.seconds = seconds
        self.download_seconds = download_seconds
        self._prefixes = {key: value.strip("/") for key, value in (prefixes or {}).items()}
        self._free = threading.BoundedSemaphore(_AT_ONCE)
        self._session = requests.Session()
        self._session.auth = login
        # A server may close a connection at the moment it is used again; stores are never repeated.
        again = Retry(total=1, connect=0, read=1, status=0, allowed_methods={"GET"})
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=_AT_ONCE, max_retries=again))
        self._session.trust_env = False  # neither proxies nor passwords of the user's .netrc

    def address(self, service: str, path: str) -> str:
        """Where a path of a service is.

        Args:
            service: ``qido``, ``wado`` or ``stow``; empty for none of them.
            path: below it.

        Returns:
            The address.
        """
        prefix = self._prefixes.get(service, "")
        return "/".join(part for part in (self.url, prefix, path.lstrip("/")) if part)

    def search(self, path: str, key: str, filters: Mapping[str, str] | None = None) -> list[Row]:
        """All rows of a search, page by page.

        Args:
            path: ``series``, ``instances`` or one of them below ``studies/...``.
            key: keyword of the attribute that tells rows apart.
            filters: values by keyword.

        Returns:
            DICOM JSON, one row for each value of ``key``.
        """
        rows: dict[str, Row] = {}
        end = time.monotonic() + self.download_seconds
        while time.monotonic() < end:
            query = {**(filters or {}), "limit": str(_PAGE), "offset": str(len(rows))}
            page = self.page(path, query)
            new = {text(row, key): row for row in page if text(row, key) not in rows}
            # A short page is no sign of the last: servers have limits of their own.
            if not new:
                return list(rows.values())
            rows |= new
        raise self._explained(requests.Timeout(), self.download_seconds, path)

    def page(self, path: str, query: Mapping[str, str]) -> list[Row]:
        """One answer to a search.

        Args:
            path: as for ``search``.
            query: filters, ``limit`` and ``offset``.

        Returns:
            DICOM JSON.
        """
        return self._json(path, query)

    def metadata(self, path: str) -> list[Row]:
        """Attributes of the objects of a series.

        Args:
            path: ``studies/.../series/...``.

        Returns:
            DICOM JSON.
        """
        return self._json(f"{path}/metadata", {}, "wado")

    def download(self, path: str, folder: Path, most: int) -> list[Path]:
        """Objects as files.

        Args:
            path: ``studies/.../series/...``.
            folder: where to write them.
            most: bytes that are accepted.

        Returns:
            The files, all of them: an answer that ends early is refused.
        """

        def work(cut: _Cut) -> tuple[str, Path]:
            file = folder / "answer"
            with self._objects(self.address("wado", path)) as response, file.open("wb") as f:
                cut.response = response
                for chunk in response.iter_content(_CHUNK):
                    f.write(chunk)
                    if f.tell() > most:
                        raise PacsError(
                            f"expected at most {most} bytes for {path}, got more from "
                            f"{self.url}; start the server with a larger --conf max_voxels"
                        )
                return response.headers.get("Content-Type", ""), file

        kind, answer = self._in_time(self.download_seconds, path, work)
        try:
            return list(parts_of(answer, kind))
        except UnusableError as error:
            raise PacsError(
                f"expected the DICOM objects of {path} from {self.url}, got {error}; ask again, or "
                "look into the log of the PACS"
            ) from error
        finally:
            answer.unlink(missing_ok=True)

    def send(self, address: str, body: bytes | BinaryIO, kind: str) -> requests.Response:
        """Post something, once.

        Args:
            address: complete.
            body: of the request, or a file with it.
            kind: its content type.

        Returns:
            The response, whatever its status.
        """
        headers = {"Content-Type": kind, "Accept": _DICOM_JSON}
        return self._in_time(
            self.download_seconds,
            address,
            lambda cut: self._session.post(
                # It answers when it has stored everything.
                address,
                data=body,
                headers=headers,
                timeout=(self.seconds, self.download_seconds),
            ),
        )

    def open(self, address: str, headers: Mapping[str, str], query: str) -> requests.Response:
        """The start of an answer, whose content the caller reads and closes.

        Args:
            address: complete.
            headers: of the request.
            query: after the question mark.

        Returns:
            The response, whatever its status.
        """
        return self._in_time(
            self.seconds,
            address,
            lambda cut: self._session.get(
                address, headers=headers, params=query, timeout=self.seconds, stream=True
            ),
        )

    def _json(self, path: str, query: Mapping[str, str], service: str = "qido") -> list[Row]:
        def work(cut: _Cut) -> Any:
            headers = {"Accept": _DICOM_JSON}
            with self._get(self.address(service, path), headers, query) as response:
                cut.response = response
                if response.status_code == 204 or not response.content:
                    return []
                return response.json()

        rows = self._in_time(self.seconds, path, work)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise PacsError(
                f"expected DICOM JSON from {self.url}/{path}, got {short(rows)}; is this the "
                "address of a DICOMweb interface?"
            )
        return rows

    def _objects(self, address: str) -> requests.Response:
        """Uncompressed; of a PACS that cannot do that, as it has them."""
        try:
            return self._get(address, {"Accept": DICOM_PARTS}, {})
        except PacsError as error:
            if error.away:
                raise
            return self._get(address, {"Accept": f"{DICOM_PARTS}; transfer-syntax=*"}, {})

    def _get(
        self, address: str, headers: Mapping[str, str], query: Mapping[str, str]
    ) -> requests.Response:
        response = self._session.get(
            address, headers=headers, params=query, timeout=self.seconds, stream=True
        )
        try:
            self.check(response)
        except PacsError:
            response.close()
            raise
        return response

    def check(self, response: requests.Response) -> None:
        """Refuse an answer that tells of an error.

        Args:
            response: of the PACS.

        Raises:
            PacsError: it is one.
        """
        status = response.status_code
        if status in (401, 403):
            raise PacsError(
                f"expected access to the PACS at {self.url}, got status {status}; set "
                "MONAI_LABEL_DICOMWEB_USERNAME and MONAI_LABEL_DICOMWEB_PASSWORD",
                away=True,
            )
        if status >= 400:
            raise PacsError(
                f"expected an answer of the PACS at {self.url}, got status {status} for "
                f"{short(response.request.path_url)}; look into the log of the PACS",
                away=status == 503,
            )

    def _in_time(self, seconds: float, what: str, work: Callable[[_Cut], T]) -> T:
        """Wait for work in a thread: the timeout of a socket starts anew with every byte."""
        answers: queue.Queue[tuple[T | None, Exception | None]] = queue.Queue(1)
        cut = _Cut()

        def run() -> None:
            with self._free:
                try:
                    answers.put((work(cut), None))
                except Exception as error:
                    answers.put((None, error))

        threading.Thread(target=run, daemon=True).start()
        try:
            answer, error = answers.get(timeout=seconds)
        except queue.Empty:
            cut.now()
            error = requests.Timeout()
        if error is not None:
            raise self._explained(error, seconds, what) from error
        return answer  # type: ignore[return-value]

    def _explained(self, error: Exception, seconds: float, what: str) -> Exception:
        if _ran_out_of_time(error):
            return PacsError(
                f"expected an answer of the PACS at {self.url} within {seconds:g} s, got none for "
                f"{short(what)}; ask again when it is less busy, or start the server with a larger "
                "--conf pacs_seconds or pacs_download_seconds",
                504,
                away=True,
            )
        if isinstance(error, requests.exceptions.JSONDecodeError):
            return PacsError(
                f"expected DICOM JSON from {self.url}, got something else for {short(what)}; is "
                "this the address of a DICOMweb interface?"
            )
        if isinstance(error, requests.ConnectionError):
            return PacsError(
                f"expected the PACS at {self.url} to answer, got no connection; ask again once it "
                "runs",
                away=True,
            )
        if isinstance(error, requests.RequestException):
            return PacsError(f"expected an answer of the PACS at {self.url}, got {reason(error)}")
        return error


def _ran_out_of_time(error: Exception) -> bool:
    """A stalled answer too, which requests reports as a lost connection."""
    cause = error.args[0] if error.args else None
    cause = getattr(cause, "reason", cause)
    return isinstance(error, requests.Timeout) or isinstance(cause, ReadTimeoutError)


class _Cut:
    """Ends the reading of an answer from another thread.

    Attributes:
        response: that is read.
    """

    response: requests.Response | None = None

    def now(self) -> None:
        """The reader meets the end, and its thread goes."""
        if self.response is not None:
            with suppress(RuntimeError, OSError):  # it has ended by itself
                self.response.raw.shutdown()


def text(row: Row, keyword: str) -> str:
    """First value of an attribute in DICOM JSON.

    Args:
        row: of a search.
        keyword: of the attribute.

    Returns:
        Text; empty where there is none.

    >>> text({"00080060": {"vr": "CS", "Value": ["CT"]}}, "Modality"), text({}, "Modality")
    ('CT', '')
    """
    tag = tag_for_keyword(keyword)
    entry = row.get(f"{tag:08X}")
    values = entry.get("Value") if isinstance(entry, dict) else None
    value = values[0] if isinstance(values, list) and values else ""
    return str(value) if isinstance(value, str | int | float) else ""
