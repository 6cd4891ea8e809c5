"""A PACS as MONAI Label's datastore: images there, results, labels and scores in a folder here."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from monailabel.datastore.local import DataModel, ImageLabelModel, LocalDatastore
from monailabel.interfaces.exception import LabelNotFoundException

from monai_ifim.label.bundle import Components
from monai_ifim.label.options import Options, refusal, short
from monai_ifim.label.pacs.dicomweb import DicomWeb, PacsError
from monai_ifim.label.pacs.listing import FIELDS, Listing, Series
from monai_ifim.label.pacs.segmentation import send_label
from monai_ifim.label.pacs.series import fetch_series, remove_leftovers
from monai_ifim.label.pacs.settings import PacsSettings
from monai_ifim.label.scoring import KEY
from monai_ifim.label.stores.checked import CheckedDatastore
from monai_ifim.label.stores.checks import FINAL, check_info, check_tag

logger = logging.getLogger(__name__)
_OBJECTS = "objects_converted"  # of an image's info: how many there were at that time
_IN_USE = 600  # seconds after its last use in which an image is not removed from the cache
_LOCKS = 64


class PacsDatastore(CheckedDatastore):
    """Series of a PACS, each an image with its SeriesInstanceUID as id.

    Every check of the folder's datastore holds here. Nothing is written to the PACS, except for
    final labels and results where the settings say so.

    Args:
        pacs: the server.
        settings: which series, for how long, what the PACS gets.
        max_voxels: of an image.
    """

    def __init__(self, pacs: DicomWeb, settings: PacsSettings, max_voxels: int) -> None:
        self.pacs = pacs
        self.settings = settings
        self.max_voxels = max_voxels
        folder = settings.cache / hashlib.sha256(pacs.url.encode()).hexdigest()[:16]
        super().__init__(str(folder), extensions=("*.nii.gz", "*.nii", "*.nrrd"))
        self.folder = folder
        remove_leftovers(folder)
        infos = {i: o.image.info for i, o in self._datastore.objects.items()}
        kinds = {i: str(info["SOPClassUID"]) for i, info in infos.items() if "SOPClassUID" in info}
        self._listing = Listing(pacs, settings, kinds)
        try:
            found = len(self.list_images())
            logger.info("%s: %d images; results in %s", pacs.url, found, folder)
        except PacsError as error:
            logger.error("the server starts without the PACS: %s", error.detail)

    def name(self) -> str:
        """Address of the PACS."""
        return self.pacs.url

    def _reconcile_datastore(self) -> None:
        """Nothing: images are in the PACS, the folder holds copies of some."""

    def list_images(self) -> list[str]:
        """Series of the PACS that are images.

        Returns:
            Their ids.
        """
        listed = self._listing.series()
        with self._present():
            known = self._datastore.objects
            is_new = any(i not in known or not _told(known[i], s) for i, s in listed.items())
        if is_new:
            self._note(listed)
        return list(listed)

    def _note(self, listed: dict[str, Series]) -> None:
        with self._exclusive():
            for image_id, series in listed.items():
                objects = self._datastore.objects
                if image_id not in objects:
                    objects[image_id] = ImageLabelModel(image=DataModel(ext=".nii.gz"))
                info = objects[image_id].image.info
                if info and _count(info) != _count(series):
                    info.pop(KEY, None)  # scores of the series as it was
                kind = self._listing.kinds.get(image_id)
                info |= series | ({"SOPClassUID": kind} if kind else {})
            self._update_datastore_file()

    def holds(self, image_id: Any) -> bool:
        """Whether a series is there; of a PACS that does not answer, whether a copy is here.

        Args:
            image_id: as a client sent it.

        Returns:
            Yes or no.
        """
        if not isinstance(image_id, str):
            return False
        try:
            return image_id in self.list_images()
        except PacsError:
            with self._present():
                if image_id in self._datastore.objects and self._file(image_id).is_file():
                    return True
            raise

    def answers(self) -> bool:
        """Whether the PACS answers a small search."""
        try:
            self.pacs.page("series", {"limit": "1"})
        except PacsError:
            return False
        return True

    def get_image_uri(self, image_id: str) -> str:
        """Path of a series as NIfTI, which is downloaded unless it is here already.

        Args:
            image_id: of a series.

        Returns:
            The path; empty for an unknown id.
        """
        if not self.holds(image_id):
            return ""
        path = self._file(image_id)
        with self._one_at_a_time(image_id):
            with self._present():
                info = copy.deepcopy(self._datastore.objects[image_id].image.info)
            if not path.is_file() or not _is_current(info):
                fetch_series(self.pacs, info, path, self.max_voxels)
                self._converted(image_id, info)
            os.utime(path)
        self._make_room()
        return str(path)

    def path_here(self, image_id: str) -> str:
        """Path of a series that has been converted.

        Args:
            image_id: of a series.

        Returns:
            The path; empty where it has not.
        """
        path = self._file(image_id)
        return str(path) if path.is_file() else ""

    def _file(self, image_id: str) -> Path:
        return self.folder / f"{image_id}.nii.gz"

    def _converted(self, image_id: str, listed: dict[str, Any]) -> None:
        made = {"ts": int(time.time()), "name": f"{image_id}.nii.gz", _OBJECTS: _count(listed)}
        with self._exclusive():
            self._datastore.objects[image_id].image.info |= made
            self._update_datastore_file()

    @contextmanager
    def _one_at_a_time(self, image_id: str) -> Iterator[None]:
        """Of several clients and processes that ask for a series, the first one downloads it."""
        number = zlib.crc32(image_id.encode()) % _LOCKS
        seconds = self.settings.seconds + self.settings.download_seconds
        try:
            with FileLock(self.folder / f".series-{number}.lock", timeout=seconds):
                yield
        except Timeout as error:
            raise PacsError(
                f"expected what another client does with {image_id} to end within {seconds:g} s; "
                "ask again later",
                504,
            ) from error

    def _make_room(self) -> None:
        """Remove the images that were used least recently; labels and scores stay."""
        found = [(path, stat) for path, stat in _files(self.folder) if path.parent == self.folder]
        images = [(p, stat) for p, stat in found if p.name.endswith(".nii.gz") and p.name[0] != "."]
        excess = sum(stat.st_size for _, stat in images) - self.settings.cache_bytes
        for path, stat in sorted(images, key=lambda image: image[1].st_mtime):
            if excess <= 0 or time.time() - stat.st_mtime < _IN_USE:
                return
            excess -= stat.st_size
            path.unlink(missing_ok=True)

    def get_labeled_images(self, label_tag: Any = None, labels: Any = None) -> list[str]:
        """Series with a final label here or a segmentation in the PACS.

        Args:
            label_tag: ignored, as by MONAI Label.
            labels: ignored, as by MONAI Label.

        Returns:
            Their ids.
        """
        listed = self.list_images()
        remote = self._listing.labelled()
        with self._present():
            here = {i for i, o in self._datastore.objects.items() if FINAL in o.labels}
        return [image_id for image_id in listed if image_id in here | remote]

    def get_unlabeled_images(self, label_tag: Any = None, labels: Any = None) -> list[str]:
        """The other series.

        Args:
            label_tag: ignored, as by MONAI Label.
            labels: ignored, as by MONAI Label.

        Returns:
            Their ids.
        """
        labelled = set(self.get_labeled_images())
        return [image_id for image_id in self.list_images() if image_id not in labelled]

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Refuse: images come from the PACS.

        Args:
            image_id: ignored.
            image_filename: ignored.
            image_info: ignored.

        Raises:
            HTTPException: 403.
        """
        raise refusal(
            f"expected images to be sent to the PACS at {self.pacs.url}, got one over HTTP", 403
        )

    def remove_image(self, image_id: str) -> None:
        """Refuse: nothing is removed from the PACS.

        Args:
            image_id: ignored.

        Raises:
            HTTPException: 403.
        """
        raise refusal(
            f"expected images to be removed in the PACS at {self.pacs.url}, got {short(image_id)}",
            403,
        )

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]
    ) -> str:
        """Store a label here; a final one in the PACS too, as a segmentation, where so set.

        Args:
            image_id: of a series.
            label_filename: the file.
            label_tag: of the label.
            label_info: kept with it.

        Returns:
            The label's id, which is the image's.
        """
        info = dict(label_info or {})
        if not self.holds(image_id):
            raise refusal(f"expected the id of a stored image, got {short(image_id)}", 404)
        if label_tag == FINAL and "labels" in self.settings.receives:
            check_tag(label_tag)
            check_info(info)
            with self._present():
                self._check_annotation(image_id, label_filename, info)
                series = copy.deepcopy(self._datastore.objects[image_id].image.info)
            uid = send_label(self.pacs, series, Path(label_filename), info, self.max_voxels)
            info["SeriesInstanceUID"] = uid
        return str(super().save_label(image_id, label_filename, label_tag, info))

    def check_stores_results(self) -> None:
        """Refuse where the settings do not say that the PACS gets results.

        Raises:
            HTTPException: 403.
        """
        if "results" not in self.settings.receives:
            raise refusal(
                "expected nothing to be stored in the PACS, got store_in_pacs; leave it out, or "
                "start the server with --conf pacs_receives=results",
                403,
            )

    def store_results(self, image_id: str, found: Components, options: Options) -> dict[str, Any]:
        """Store the result of a series in the PACS.

        Args:
            image_id: of the series.
            found: its result.
            options: that it was asked for with.

        Returns:
            What is stored.
        """
        from monai_ifim.label.pacs.results import store_results  # loads highdicom and matplotlib

        with self._present():
            series = copy.deepcopy(self._datastore.objects[image_id].image.info)
        with self._one_at_a_time(image_id):
            stored = store_results(self.pacs, series, found, options, self.max_voxels)
        for each in stored["objects"].values():
            self._listing.kinds[each["series"]] = each["class"]
        told = image_id, len(stored["new"]), len(stored["objects"])
        logger.info("result of %s: %d of %d objects are new in the PACS", *told)
        return stored

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Remove a label here; nothing is removed from the PACS.

        Args:
            label_id: of the image.
            label_tag: of the label.

        Raises:
            LabelNotFoundException: there is none.
        """
        with self._exclusive():
            stored = self._datastore.objects.get(label_id)
            if stored is None or label_tag not in stored.labels:
                raise LabelNotFoundException(
                    f"expected a stored label, got {short(label_tag)} of {short(label_id)}; GET "
                    "/datastore/?output=all lists them"
                )
            Path(LocalDatastore.get_label_uri(self, label_id, label_tag)).unlink(missing_ok=True)
            del stored.labels[label_tag]
            self._update_datastore_file()

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Images and final labels, of which both are here.

        Args:
            full_path: as for MONAI Label.

        Returns:
            Their paths.
        """
        pairs = super().datalist(full_path)
        return [pair for pair in pairs if Path(pair["image"]).is_file()]

    def status(self) -> dict[str, Any]:
        """Counts and the disk used; where the PACS does not answer, the reason.

        Returns:
            For ``/info/`` and ``/datastore/``.
        """
        used = sum(stat.st_size for _, stat in _files(self.folder))
        here = {"cache": str(self.folder), "cache_bytes": used}
        try:
            return {**super().status(), **here}
        except PacsError as error:
            return {"total": 0, "completed": 0, "label_tags": {}, **here, "pacs": error.detail}

    def json(self) -> dict[str, Any]:
        """Listed series with their labels and scores.

        Returns:
            As MONAI Label gives it.
        """
        listed = self.list_images()
        with self._present():
            content = self._datastore.model_dump(exclude={"base_path"})
        objects = content["objects"]
        return {**content, "objects": {i: objects[i] for i in listed if i in objects}}


def _told(stored: ImageLabelModel, series: Series) -> bool:
    return all(stored.image.info.get(field) == series[field] for field in FIELDS)


def _is_current(info: dict[str, Any]) -> bool:
    """Whether the PACS still has as many objects of the series as when it was converted."""
    return info.get(_OBJECTS) == _count(info)


def _count(info: dict[str, Any]) -> str:
    """Empty where the PACS does not say."""
    return str(info.get("NumberOfSeriesRelatedInstances") or "")


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Files below a folder; those that go meanwhile, as downloads do, are passed over."""
    for top, _, names in os.walk(folder):
        for name in names:
            path = Path(top, name)
            with suppress(FileNotFoundError):
                yield path, path.stat()
