"""MONAI Label's local datastore, with names checked and changes one at a time."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, LocalDatastore

from monai_ifim.data.atomic import complete_file
from monai_ifim.label.options import refusal, short

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def check_tag(tag: str) -> None:
    """Refuse a label tag that could leave its folder.

    Args:
        tag: name of a folder below ``labels``.

    Raises:
        HTTPException: 400.

    >>> check_tag("../final")
    Traceback (most recent call last):
        ...
    starlette.exceptions.HTTPException: 400: expected a tag of letters, digits, '_', '-' and '.', \
got '../final'; choose another
    """
    if not _TAG.fullmatch(tag):
        raise refusal(
            f"expected a tag of letters, digits, '_', '-' and '.', got {short(tag)}; choose another"
        )


def check_new_id(image_id: str) -> None:
    """Refuse an id for a new image that is not a plain file name.

    Args:
        image_id: as the client sent it.

    Raises:
        HTTPException: 400.
    """
    plain = image_id.isprintable() and not set(image_id) & set('/\\:*?"<>|')
    if not plain or image_id.startswith(".") or not 0 < len(image_id.encode()) <= 200:
        raise refusal(
            f"expected an image id that is a plain file name, got {short(image_id)}; use letters, "
            "digits, '_' and '-'"
        )


def check_info(info: Any) -> None:
    """Refuse info that the datastore's file could not hold.

    MONAI Label writes it with Python's JSON and reads it with a strict one: a NaN or half a
    surrogate pair, and the server would not start again.

    Args:
        info: as the client sent it.

    Raises:
        HTTPException: 400.

    >>> check_info({"a": float("nan")})
    Traceback (most recent call last):
        ...
    starlette.exceptions.HTTPException: 400: expected a JSON object without NaN, infinity and \
broken text, got {'a': nan}; leave it out
    """
    try:
        if not isinstance(info, dict):
            raise ValueError
        json.dumps(info, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise refusal(
            "expected a JSON object without NaN, infinity and broken text, got "
            f"{short(info)}; leave it out"
        ) from error


def _locked(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def wrapper(self: CheckedDatastore, *args: Any, **kwargs: Any) -> Any:
        with self._mutex:
            return method(self, *args, **kwargs)

    return wrapper


def _changing(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def wrapper(self: CheckedDatastore, *args: Any, **kwargs: Any) -> Any:
        with self._exclusive():
            return method(self, *args, **kwargs)

    return wrapper


class CheckedDatastore(LocalDatastore):
    """A folder of images and labels, safe for many threads and for a second process.

    The stock datastore empties and refills its list of images whenever a file appears, and writes
    its whole state without reading what the scoring process wrote meanwhile. Here every call
    holds a lock; one that changes something first reads the state anew.

    Args:
        path: of the folder.
        options: of ``LocalDatastore``.
    """

    def __init__(self, path: str, **options: Any) -> None:
        self._mutex = threading.RLock()
        os.makedirs(path, exist_ok=True)
        # A lock of our own around theirs, which is taken anew inside and does not nest.
        self._process_lock = FileLock(os.path.join(path, ".ifim.lock"))
        super().__init__(path, **options)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._mutex, self._process_lock:
            self._init_from_datastore_file()
            yield

    @_changing
    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Store a new image.

        Args:
            image_id: a plain file name without its extension; taken from the file when empty.
            image_filename: the file.
            image_info: kept with it.

        Returns:
            The id.

        Raises:
            HTTPException: 400, an id that is not a plain file name, a file of another kind, or
                info that is no plain JSON; 409, the id belongs to a file of another kind.
        """
        name = os.path.basename(image_filename)
        check_new_id(image_id or name)
        check_info(image_info)
        extensions = [pattern.lstrip("*") for pattern in self._extensions]
        if not name.endswith(tuple(extensions)):
            raise refusal(
                f"expected a file ending in {', '.join(extensions)}, got {short(name)}; convert it"
            )
        stored = self._datastore.objects.get(image_id)
        if stored is not None and self._to_id(name)[1] != stored.image.ext:
            raise refusal(
                f"expected a new id or a file ending in {stored.image.ext}, got {short(name)} for "
                f"{short(image_id)}, which is stored already; remove that image first",
                409,
            )
        return str(super().add_image(image_id, image_filename, image_info))

    @_changing
    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        """Store a label; the file appears under its name only when complete.

        Args:
            image_id: of a stored image.
            label_filename: the file.
            label_tag: of the label.
            label_info: kept with it.

        Returns:
            The label's id, which is the image's.

        Raises:
            HTTPException: 400, a tag that is no plain name; 404, an unknown id.
        """
        check_tag(label_tag)
        check_info(label_info or {})
        stored = self._datastore.objects.get(image_id)
        if stored is None:
            raise refusal(f"expected the id of a stored image, got {short(image_id)}", 404)
        _, extension = self._to_id(os.path.basename(label_filename))
        folder = Path(self._datastore.label_path(label_tag))
        name = self._filename(image_id, extension)
        with complete_file(folder / name) as partial:
            shutil.copyfile(label_filename, partial)
        info = {**(label_info or {}), "ts": int(time.time()), "name": name}
        stored.labels[label_tag] = DataModel(info=info, ext=extension)
        self._update_datastore_file()
        return image_id

    @_changing
    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to an image's info.

        Args:
            image_id: of a stored image.
            info: plain JSON.

        Raises:
            HTTPException: 400, info that is no plain JSON.
        """
        check_info(info)
        super().update_image_info(image_id, info)

    @_changing
    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to a label's info.

        Args:
            label_id: of the image.
            label_tag: of the label.
            info: plain JSON.

        Raises:
            HTTPException: 400, info that is no plain JSON.
        """
        check_info(info)
        super().update_label_info(label_id, label_tag, info)

    remove_image = _changing(LocalDatastore.remove_image)
    remove_label = _changing(LocalDatastore.remove_label)
    _reconcile_datastore = _changing(LocalDatastore._reconcile_datastore)
    _on_modify_event = _locked(LocalDatastore._on_modify_event)
    datalist = _locked(LocalDatastore.datalist)
    get_image_uri = _locked(LocalDatastore.get_image_uri)
    get_image_info = _locked(LocalDatastore.get_image_info)
    get_label_uri = _locked(LocalDatastore.get_label_uri)
    get_label_info = _locked(LocalDatastore.get_label_info)
    get_labels_by_image_id = _locked(LocalDatastore.get_labels_by_image_id)
    get_labeled_images = _locked(LocalDatastore.get_labeled_images)
    get_unlabeled_images = _locked(LocalDatastore.get_unlabeled_images)
    list_images = _locked(LocalDatastore.list_images)
    status = _locked(LocalDatastore.status)
    json = _locked(LocalDatastore.json)
