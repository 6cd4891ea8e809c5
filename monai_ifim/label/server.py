"""MONAI Label's server with our routes in front of its own.

Start it with ``python -m monai_ifim label-server``, or name it to MONAI Label's own command:
``monailabel start_server --uvicorn_app monai_ifim.label.server:app``.

The stock server runs an inference inside its event loop, where all other requests wait. The routes
here are plain functions, which run in worker threads, and refuse what a client may not choose.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Body, Depends, File, Form, Request, UploadFile
from fastapi.responses import FileResponse, JSONResponse, Response
from monailabel.app import app
from monailabel.config import settings
from monailabel.endpoints import batch_infer, datastore, scoring
from monailabel.endpoints.user.auth import RBAC, User, get_current_user
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.tasks.batch_infer import BatchInferImageType
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.others.generic import get_mime_type
from requests_toolbelt import MultipartEncoder
from starlette.background import BackgroundTask

from monai_ifim.label.options import Options, parse_options, refusal, short
from monai_ifim.label.pacs import proxy
from monai_ifim.label.stored import image_path
from monai_ifim.label.stores.checks import check_tag
from monai_ifim.label.stores.ohif import label_of_bytes
from monai_ifim.label.tokens import user_of_token

router = APIRouter(tags=["iFIM"])
_USER = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
_ANNOTATOR = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR))
_ADMIN = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))


@router.get("/health", summary="Is the server alive")
async def health() -> dict[str, Any]:
    """Answer at once: from the event loop, also when every worker thread waits for a network."""
    return {"status": "ok", "models": app_instance().models}


@router.post("/infer/{model}", summary="One component and the numbers of a stored image")
def infer(
    request: Request,
    model: str,
    image: str = "",
    params: str = Form("{}"),
    file: UploadFile | None = File(None),
    label: UploadFile | None = File(None),
    output: Literal["all", "image", "json"] = "all",
    user: User = _USER,
) -> Response:
    """As MONAI Label's own route: multipart with ``params`` and ``image``, or one of the two."""
    _only(request, "image", "output")
    if file is not None or label is not None:
        raise refusal(
            "expected the id of a stored image, got an uploaded file; PUT /datastore/image first"
        )
    options = _options(params, user)
    answer, files = _run(model, image, options)
    part, content = next(iter(files.items()))
    kind, name = get_mime_type(part), _file_name(image, answer, part)
    if output == "json":
        return JSONResponse(answer)
    if output == "image":
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type=kind, headers=headers)
    return _multipart({"params": _part(answer), "image": (name, content, kind)})


@router.post("/ifim/{model}", summary="High-sensitivity and orthogonal component in one answer")
def both(
    request: Request, model: str, image: str = "", params: str = Form("{}"), user: User = _USER
) -> Response:
    """Multipart with ``params``, ``high`` and ``orth``."""
    _only(request, "image")
    answer, files = _run(model, image, _options(params, user))
    volumes = {n: c for n, c in files.items() if n in ("ifim_high.nii.gz", "ifim_orth.nii.gz")}
    if not volumes:
        raise refusal(
            f"expected a model with components, got {short(model)}, which has a label map"
        )
    parts = {
        n[5:9]: (_file_name(image, answer, n), c, get_mime_type(n))
        for n, c in sorted(volumes.items())
    }
    return _multipart({"params": _part(answer), **parts})


@router.post("/scoring/{method}", summary="Score stored images")
def score(
    method: str,
    params: dict | None = Body(None),
    run_sync: bool = False,
    user: User = _ANNOTATOR,
) -> Any:
    """In the background, or with ``run_sync`` before the answer."""
    if params and "method" in params:
        raise refusal("expected the method in the URL, got it in the parameters; leave it out")
    app_instance().check_method(method)
    return scoring.run_method(method, params, run_sync)


@router.post("/activelearning/{strategy}", summary="The next image to look at")
def sample(strategy: str, params: dict | None = Body(None), user: User = _USER) -> Any:
    """By a strategy of ``/info/``."""
    if params and "strategy" in params:
        raise refusal("expected the strategy in the URL, got it in the parameters; leave it out")
    instance = app_instance()
    params = params or {}
    result = instance.next_sample({"strategy": strategy, **params})
    if result:
        # MONAI Label writes back what it read, and two clients lose one of their marks.
        mark = {"ts": int(time.time()), "client_id": params.get("client_id", user.username)}
        instance.datastore().record(result["id"], "strategy", strategy, mark)
        result.update(instance.datastore().get_image_info(result["id"]))
    return result


@router.post("/batch/infer/{model}", summary="Components of all stored images")
def batch(
    model: str,
    images: BatchInferImageType = BatchInferImageType.IMAGES_ALL,
    params: dict | None = Body(None),
    run_sync: bool = False,
    user: User = _ADMIN,
) -> Any:
    """In the background, or with ``run_sync`` before the answer."""
    app_instance().task(model)
    # Of the stock defaults, which clients send back, those that have no effect here are ignored.
    ignored = ("gpus", "label_tag", "logging", "max_workers", "multi_gpu", "save_label")
    chosen = {k: v for k, v in (params or {}).items() if k not in ignored}
    most = chosen.pop("max_batch_size", 0)
    if not isinstance(most, int) or isinstance(most, bool) or most < 0:
        raise refusal(f"expected max_batch_size as a whole number >= 0 (0: all), got {short(most)}")
    parse_options(chosen)
    return batch_infer.run(model, images, {**chosen, "max_batch_size": most}, run_sync)


@router.put("/datastore/", include_in_schema=False)
@router.put("/datastore/image", summary="Add an image")
def add_image(
    image: str | None = None,
    params: str = Form("{}"),
    file: UploadFile = File(...),
    user: User = _ANNOTATOR,
) -> dict[str, str]:
    """As MONAI Label's own route, but nothing is left behind when it fails."""
    info = _json(params)
    with tempfile.TemporaryDirectory(prefix="monai_ifim_") as folder:
        path = _receive(file, Path(folder))
        name = image or Path(file.filename or "").name.removesuffix("".join(path.suffixes))
        return {"image": app_instance().datastore().add_image(name, str(path), info)}


@router.put("/datastore/label", summary="Save a label")
def save_label(
    image: str,
    params: str = Form("{}"),
    tag: str = "final",
    label: UploadFile = File(...),
    user: User = _ANNOTATOR,
) -> dict[str, str]:
    """As MONAI Label's own route; results of this app are no final labels."""
    info = _json(params)
    check_tag(tag or "final")
    with tempfile.TemporaryDirectory(prefix="monai_ifim_") as folder:
        instance = app_instance()
        path = _receive(label, Path(folder), instance.max_label_bytes)
        if path.suffix == ".bin":
            path = label_of_bytes(path, image_path(instance.datastore(), image))
        saved = instance.datastore().save_label(image, str(path), tag or "final", info)
        instance.on_save_label(image, saved)
        return {"image": image, "label": saved}


@router.put("/datastore/image/info", summary="Add to an image's info")
def update_image_info(image: str, info: str = Form("{}"), user: User = _ANNOTATOR) -> Any:
    """As MONAI Label's own route; scores are the server's."""
    value = dict(_json(info))
    for key in ("ifim", "strategy"):
        if key in value:
            raise refusal(f"expected info of your own, got {key!r}, which the server writes")
    return datastore.update_image_info(image, json.dumps(value), user.username)


@router.get("/info/", summary="Models, strategies, scoring methods, numbers of images")
def info(user: User = _USER) -> Any:
    """As MONAI Label's own route, but from a thread: a PACS may take its time."""
    return app_instance().info()


@router.get("/datastore/", summary="Images, labels and scores")
def images(output: datastore.ResultType | None = None, user: User = _USER) -> Any:
    """As MONAI Label's own route, from a thread."""
    return datastore.datastore(output)


@router.head("/datastore/image", summary="Is the image there")
def check_image(image: str, check_sum: str | None = None, user: User = _USER) -> Any:
    """As MONAI Label's own route, from a thread."""
    image_path(app_instance().datastore(), image)
    return datastore.download_image(image, check_only=True, check_sum=check_sum)


@router.get("/datastore/image", summary="An image")
def image_file(image: str, user: User = _USER) -> Any:
    """As MONAI Label's own route, from a thread."""
    image_path(app_instance().datastore(), image)
    return datastore.download_image(image)


@router.get("/datastore/dataset", summary="Labelled images as a ZIP archive")
def dataset(limit_cases: int | None = None, user: User = _ANNOTATOR) -> Response:
    """As MONAI Label's own route, but the archive does not stay in the temporary folder."""
    instance = app_instance()
    if not instance.datastore().get_labeled_images():
        raise refusal("expected an image with a label tagged final, got none; save one first", 404)
    path = instance.datastore().get_dataset_archive(limit_cases)
    remove = BackgroundTask(Path(path).unlink, missing_ok=True)
    return FileResponse(path, filename="dataset.zip", background=remove)


@router.put("/model/{model}", summary="Replace weights", include_in_schema=False)
@router.delete("/model/{model}", summary="Delete weights", include_in_schema=False)
def keep_model(model: str, user: User = _ADMIN) -> None:
    """Weights are files of the person who runs the server."""
    raise refusal(
        "expected weights to be changed in the app's model folder, got a request over HTTP; "
        "replace the file there",
        403,
    )


@app.exception_handler(MONAILabelException)
def explain(request: Request, error: MONAILabelException) -> JSONResponse:
    """A sentence instead of "Internal Server Error"."""
    return JSONResponse({"detail": str(error.msg)}, status_code=404)


@app.exception_handler(json.JSONDecodeError)
def explain_json(request: Request, error: json.JSONDecodeError) -> JSONResponse:
    """The same for the stock routes that take JSON in a form."""
    return JSONResponse({"detail": f"expected JSON, got something else: {error}"}, status_code=400)


def _run(model: str, image: str, options: Options) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The answer and the files' content by name, the chosen one first."""
    with tempfile.TemporaryDirectory(prefix="monai_ifim_") as folder:
        answer, files = app_instance().run(model, image, options, Path(folder))
        return answer, {path.name: path.read_bytes() for path in files.values()}


def _options(params: str, user: User) -> Options:
    """The options of a request, of which those that change the PACS are an annotator's."""
    options = parse_options(_json(params))
    role = settings.MONAI_LABEL_AUTH_ROLE_ANNOTATOR
    if options.store_in_pacs and settings.MONAI_LABEL_AUTH_ENABLE and role not in user.roles:
        raise refusal(f"expected the role {role} for store_in_pacs, got a user without", 403)
    return options


def _only(request: Request, *names: str) -> None:
    for name in request.query_params:
        if name not in names:
            raise refusal(f"expected {' and '.join(names)} in the URL, got {short(name)}")


def _json(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise refusal(f"expected params as JSON, got {short(text)}") from error
    if not isinstance(value, dict):
        raise refusal(f"expected params as a JSON object, got {short(text)}")
    return value


def _receive(file: UploadFile, folder: Path, most: int | None = None) -> Path:
    """The upload under a name of ours; only the extension is the client's."""
    name = (file.filename or "").lower()
    if most is not None and (file.size or 0) > most:
        raise refusal(
            f"expected a label of at most {most} bytes, got {file.size}; crop it, or start the "
            "server with --conf max_voxels",
            413,
        )
    known = [pattern.lstrip("*") for pattern in settings.MONAI_LABEL_DATASTORE_FILE_EXT]
    known += [] if most is None else [".bin"]  # OHIF's labels
    extension = next((e for e in sorted(known, key=len, reverse=True) if name.endswith(e)), None)
    if extension is None:
        raise refusal(f"expected a file ending in {', '.join(known)}, got {short(name)}", 415)
    path = folder / f"upload{extension}"
    with path.open("wb") as target:
        shutil.copyfileobj(file.file, target)
    return path


def _file_name(image: str, answer: Mapping[str, Any], part: str) -> str:
    """Of one image, model and component: MONAI Label's client overwrites files of one name."""
    component = part.split(".")[0].removeprefix("ifim_")
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", image).lstrip(".")
    if plain != image or len(plain) > 100:
        plain = f"{plain[:90]}-{zlib.crc32(image.encode()):08x}"
    return f"{plain}_{answer['tags'][component]}{part[part.index('.') :]}"


def _part(answer: Mapping[str, Any]) -> tuple[None, str, str]:
    return None, json.dumps(answer), "application/json"


def _multipart(fields: Mapping[str, Any]) -> Response:
    message = MultipartEncoder(fields=dict(fields))
    return Response(message.to_string(), media_type=message.content_type)


@router.post("/reload", include_in_schema=False)
def reload(user: User = _ADMIN) -> None:
    """MONAI Label would begin anew with a second app, for whoever asks."""
    raise refusal("expected the server to be restarted by whoever runs it, got a request", 403)


router.include_router(proxy.router)
app.dependency_overrides[get_current_user] = user_of_token
# In front: the first route that fits is taken.
count = len(app.router.routes)
app.include_router(router, prefix=settings.MONAI_LABEL_API_STR)
app.router.routes[:] = app.router.routes[count:] + app.router.routes[:count]
