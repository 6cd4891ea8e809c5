"""MONAI Label's local datastore, with names checked and changes one at a time."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

from filelock import FileLock
from monailabel.datastore.local import DataModel, LocalDatastore, LocalDatastoreModel
from monailabel.interfaces.exception import ImageNotFoundException

from monai_ifim.data.atomic import complete_file
from monai_ifim.label.bundle import Components
from monai_ifim.label.options import Options, refusal, short
from monai_ifim.label.stores.checks import (
    FINAL,
    OVERLAY,
    check_annotation,
    check_info,
    check_new_id,
    check_tag,
)
from monai_ifim.messages import reason

logger = logging.getLogger(__name__)


def _locked(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def wrapper(self: CheckedDatastore, *args: Any, **kwargs: Any) -> Any:
        with self._present():
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
    holds a lock; one that changes something first reads the state anew. The stock one tells by the
    file's time whether it has changed, which stands still for some milliseconds; here by its bytes.

    Args:
        path: of the folder.
        options: of ``LocalDatastore``.
    """

    def __init__(self, path: str, **options: Any) -> None:
        self._mutex = threading.RLock()
        self._state, self._seen = b"", (0, 0, 0)
        os.makedirs(path, exist_ok=True)
        # A lock of our own around theirs, which is taken anew inside and does not nest.
        self._process_lock = FileLock(os.path.join(path, ".ifim.lock"))
        super().__init__(path, **options)

    @contextmanager
    def _present(self) -> Iterator[None]:
        """The state as any process left it, to read from."""
        with self._mutex:
            if self._stamp() != self._seen:
                self._init_from_datastore_file()
            yield

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._mutex, self._process_lock:
            self._init_from_datastore_file()
            yield

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        stamp = self._stamp()
        try:
            state = Path(self._datastore_config_path).read_bytes()
            if state != self._state:
                self._datastore = LocalDatastoreModel.model_validate_json(state)
                self._datastore.base_path = self._datastore_path
        except FileNotFoundError:
            return
        except ValueError as error:  # changed by hand
            if throw_exception:
                raise
            logger.error("%s is left as it was: %s", self._datastore_config_path, reason(error))
            return
        self._state, self._seen = state, stamp

    def _stamp(self) -> tuple[int, int, int]:
        try:
            stat = os.stat(self._datastore_config_path)
        except FileNotFoundError:
            return 0, 0, 0
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def _update_datastore_file(self, lock: bool = True) -> None:
        content = self._datastore.model_dump(exclude={"base_path"})
        state = json.dumps(content, indent=2, default=str).encode()
        self._ignore_event_config = True
        with complete_file(self._datastore_config_path) as partial:
            partial.write_bytes(state)
        self._state, self._seen = state, self._stamp()

    def holds(self, image_id: Any) -> bool:
        """Whether an image is stored.

        Args:
            image_id: as a client sent it.

        Returns:
            Yes or no.
        """
        return isinstance(image_id, str) and image_id in self.list_images()

    def answers(self) -> bool:
        """Whether the place of the images answers; a folder always does."""
        return True

    def check_stores_results(self) -> None:
        """Refuse: there is no PACS.

        Raises:
            HTTPException: 400.
        """
        raise refusal(
            "expected a server on a PACS for store_in_pacs, got a folder of images; leave it out"
        )

    def store_results(self, image_id: str, found: Components, options: Options) -> dict[str, Any]:
        """Store an image's result in the PACS, where there is one.

        Args:
            image_id: of a stored image.
            found: its result.
            options: that it was asked for with.

        Returns:
            What is stored.
        """
        self.check_stores_results()
        return {}

    def path_here(self, image_id: str) -> str:
        """Path of an image's file on this machine.

        Args:
            image_id: of a stored image.

        Returns:
            The path.
        """
        return str(self.get_image_uri(image_id))

    @_changing
    def record(self, image_id: str, key: str, name: str, value: dict[str, Any]) -> None:
        """Set one entry of a table in an image's info, and leave its other entries as they are.

        Args:
            image_id: of a stored image.
            key: of the table, for example ``ifim``.
            name: of the entry.
            value: plain JSON.

        Raises:
            ImageNotFoundException: the image has been removed meanwhile.
        """
        check_info(value)
        stored = self._datastore.objects.get(image_id)
        if stored is None:
            raise ImageNotFoundException(
                f"expected a stored image, got {short(image_id)}, which is gone; list them anew"
            )
        table = stored.image.info.get(key)
        stored.image.info[key] = {**(table if isinstance(table, dict) else {}), name: value}
        self._update_datastore_file()

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
            HTTPException: 400, a tag that is no plain name; 404, an unknown id; 422, a component,
                sensitivity map or overlay as final label.
        """
        check_tag(label_tag)
        check_info(label_info or {})
        stored = self._datastore.objects.get(image_id)
        if stored is None:
            raise refusal(f"expected the id of a stored image, got {short(image_id)}", 404)
        if label_tag == FINAL:
            self._check_annotation(image_id, label_filename, label_info or {})
        _, extension = self._to_id(os.path.basename(label_filename))
        folder = Path(self._datastore.label_path(label_tag))
        name = self._filename(image_id, extension)
        with complete_file(folder / name) as partial:
            shutil.copyfile(label_filename, partial)
        info = {**(label_info or {}), "ts": int(time.time()), "name": name}
        stored.labels[label_tag] = DataModel(info=info, ext=extension)
        self._update_datastore_file()
        return image_id

    def _check_annotation(self, image_id: str, file: str, info: dict[str, Any]) -> None:
        tags = [t for t in self._datastore.objects[image_id].labels if t.endswith(OVERLAY)]
        uris = [LocalDatastore.get_label_uri(self, image_id, tag) for tag in tags]
        check_annotation(Path(file), info, [Path(uri) for uri in uris if os.path.isfile(uri)])

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
