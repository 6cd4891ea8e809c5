"""What OHIF asks of the PACS, passed on: reading alone, below the DICOMweb paths, within a time.

MONAI Label's own proxy drops the query, passes on paths with ``..`` to whatever else the PACS
offers, sends any POST, and blocks the server while it waits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import requests
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response, StreamingResponse
from monailabel.config import settings
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.utils.app import app_instance

from monai_ifim.label.options import refusal, short
from monai_ifim.label.pacs.datastore import PacsDatastore
from monai_ifim.label.pacs.dicomweb import PacsError

router = APIRouter(prefix="/proxy/dicom", include_in_schema=False)
_USER = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
_ANNOTATOR = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
_PATH = re.compile(r"(studies|series|instances)(/[A-Za-z0-9_.,-]+)*/?")
_KEPT = ("content-type", "etag", "last-modified")


@router.get("/{path:path}")
def read(request: Request, path: str, user: User = _USER) -> Response:
    """Pass a search or a retrieval on."""
    store = _store()
    service, _, rest = path.partition("/")
    if service not in ("qido", "wado"):
        service, rest = "", path
    if not _PATH.fullmatch(rest) or ".." in rest.split("/"):
        raise refusal(f"expected a path of DICOMweb below studies, got {short(rest)}")
    if service == "qido" and rest.endswith("metadata"):  # as some versions of OHIF ask
        service = "wado"
    headers = {name: request.headers[name] for name in ("accept",) if name in request.headers}
    answer = store.pacs.open(store.pacs.address(service, rest), headers, request.url.query)
    if answer.status_code >= 500:
        answer.close()
        raise PacsError(
            f"expected an answer of the PACS at {store.pacs.url}, got status "
            f"{answer.status_code} for {short(rest)}; look into the log of the PACS"
        )
    kept = {name: answer.headers[name] for name in _KEPT if name in answer.headers}
    return StreamingResponse(_content(answer), answer.status_code, kept)


@router.post("/{path:path}")
async def write(request: Request, path: str, user: User = _ANNOTATOR) -> Response:
    """Store what a viewer made, where the settings say that the PACS gets it."""
    from starlette.concurrency import run_in_threadpool

    store = _store()
    rest = re.sub(r"^(stow|wado|qido)/", "", path)
    if "viewer" not in store.settings.receives:
        raise refusal(
            "expected nothing to be stored in the PACS, got an object of a viewer; start the "
            "server with --conf pacs_receives=viewer to let it through",
            403,
        )
    if not re.fullmatch(r"studies(/[0-9.]+)?", rest):
        raise refusal(f"expected objects for studies, got {short(rest)}")
    body, kind = await _body(request), request.headers.get("content-type", "")
    address = store.pacs.address("stow", rest)
    answer = await run_in_threadpool(store.pacs.send, address, body, kind)
    return Response(
        answer.content, answer.status_code, media_type=answer.headers.get("content-type")
    )


async def _body(request: Request) -> bytes:
    """Of the size of an image's label at the most: it is held in memory."""
    most, body = app_instance().max_label_bytes, bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise refusal(
                f"expected at most {most} bytes of a viewer, got more; start the server with a "
                "larger --conf max_voxels",
                413,
            )
    return bytes(body)


def _store() -> PacsDatastore:
    store = app_instance().datastore()
    if not isinstance(store, PacsDatastore):
        raise refusal("expected a PACS behind this server, got a folder of images", 404)
    return store


def _content(answer: requests.Response) -> Iterator[bytes]:
    with answer:
        yield from answer.iter_content(2**16)
