"""Scores of stored images: how easily small changes move the prediction."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import torch
from monailabel.interfaces.tasks.scoring import ScoringMethod
from starlette.exceptions import HTTPException

from monai_ifim.label.bundle import ClassificationBundle
from monai_ifim.label.options import Options, refusal, short
from monai_ifim.label.pacs.dicomweb import PacsError
from monai_ifim.label.stored import further_files, image_path
from monai_ifim.label.stores.checked import CheckedDatastore
from monai_ifim.messages import reason
from monai_ifim.metrics import effective_rank

logger = logging.getLogger(__name__)
KEY = "ifim"  # of an image's info: scores by bundle
_PARAMETERS = ("method", "max_samples", "force", "client_id", "gpus", "bundle_path")


class IFIMScoring(ScoringMethod):
    """Trace, largest eigenvalue, effective rank and predictive entropy of each stored image.

    Kept in the image's info under ``ifim`` and the bundle's name, with the version of the model.
    Images that have a score (or a reason for having none) of this version are left out.

    Args:
        bundle: to run.
    """

    def __init__(self, bundle: ClassificationBundle) -> None:
        super().__init__(f"Local sensitivity of {bundle.name}")
        self.bundle = bundle

    def waiting(self, datastore: CheckedDatastore) -> list[str]:
        """Images without a score of the present model.

        Args:
            datastore: with the images.

        Returns:
            Their ids.
        """
        version = self.bundle.model_version
        return [
            image_id
            for image_id in datastore.list_images()
            if score_of(datastore.get_image_info(image_id), self.bundle.name).get("model_version")
            != version
        ]

    def __call__(self, request: Mapping[str, Any], datastore: CheckedDatastore) -> dict[str, Any]:
        """Score.

        Args:
            request: ``max_samples`` (0: all) and ``force`` (score anew).
            datastore: with the images.

        Returns:
            ``scored``, ``left_out`` (they have a score) and ``waiting`` (for the next call) as
            counts; as reasons by id ``unfit``, images that this bundle cannot take (of a mixed
            folder), and ``failed``, files that cannot be read; ``stopped``, the reason why a PACS
            gave no further images; and ``cache_bytes``, the disk used for images of a PACS.

        Raises:
            HTTPException: 400, an unknown or impossible parameter.
        """
        most, force = _read(request, self.bundle.name)
        images = datastore.list_images()
        todo = images if force else self.waiting(datastore)
        scored, left_out = 0, len(images) - len(todo)
        unfit, failed, stopped = {}, {}, ""
        for number, image_id in enumerate(todo[:most] if most else todo, start=1):
            try:
                score = self._score(image_id, datastore)
            except PacsError as error:
                stopped = str(error.detail)
                logger.error("scoring by %s stops: %s", self.bundle.name, stopped)
                break
            status = score.get("status", "")
            scored += not status
            if status.startswith("unfit"):
                unfit[image_id] = status
                logger.warning("%s %s", image_id, status)
            elif status:
                failed[image_id] = status
                logger.error("%s %s", image_id, status)
            logger.info("%s: %d of %d scored", self.bundle.name, number, len(todo))
            datastore.record(image_id, KEY, self.bundle.name, score)
        return {
            "scored": scored,
            "left_out": left_out,
            "waiting": len(todo) - scored - len(unfit) - len(failed),
            "unfit": unfit,
            "failed": failed,
            "stopped": stopped,
            "cache_bytes": datastore.status().get("cache_bytes", 0),
        }

    def _score(self, image_id: str, datastore: CheckedDatastore) -> dict[str, Any]:
        score: dict[str, Any] = {
            "model_version": self.bundle.model_version,
            "time": int(time.time()),
        }
        try:
            path = image_path(datastore, image_id)
            files = further_files(datastore, self.bundle, image_id)
            result = self.bundle.run(path, Options(), files)
        except HTTPException as error:
            if isinstance(error, PacsError) and error.away and not datastore.answers():
                raise  # this image and all others can be scored later
            kind = "unfit" if error.status_code in (413, 422) else "failed"
            return {**score, "status": f"{kind}: {error.detail}"}
        except Exception as error:  # the other images are still scored
            logger.debug("scoring of %s", image_id, exc_info=True)
            return {**score, "status": f"failed: {reason(error)}"}
        eigenvalues = torch.tensor(result.numbers["eigenvalues"], dtype=torch.float64)
        return {
            **score,
            "trace": result.numbers["trace"],
            "largest_eigenvalue": float(eigenvalues[0]),
            "effective_rank": float(effective_rank(eigenvalues)),
            "entropy": result.entropy,
            "predicted_class": result.numbers["predicted_class"],
        }


def score_of(info: Mapping[str, Any], bundle: str) -> dict[str, Any]:
    """An image's score by a bundle.

    Args:
        info: of the image; clients can write it too, so it may hold anything.
        bundle: its name.

    Returns:
        The score, empty when there is none.
    """
    scores = info.get(KEY)
    score = scores.get(bundle) if isinstance(scores, dict) else None
    return score if isinstance(score, dict) else {}


def _read(request: Mapping[str, Any], name: str) -> tuple[int, bool]:
    for key in request:
        # MONAI Label sends the parameters of all methods along, each under the method's name.
        if key not in _PARAMETERS and not isinstance(request[key], dict):
            raise refusal(
                f"expected parameters from max_samples, force for {name}, got {short(key)}"
            )
    most, force = request.get("max_samples", 0), request.get("force", False)
    if not isinstance(most, int) or isinstance(most, bool) or most < 0:
        raise refusal(f"expected max_samples as a whole number >= 0 (0: all), got {short(most)}")
    if not isinstance(force, bool):
        raise refusal(f"expected force as true or false, got {short(force)}")
    return most, force
