"""The MONAI Label app: any classification bundle in its ``model`` folder."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from starlette.exceptions import HTTPException

from monai_ifim.label.app_folder import check_address
from monai_ifim.label.bundle import MAX_VOXELS, find_bundles
from monai_ifim.label.infer import BundleTask, ComponentTask, OverlayTask
from monai_ifim.label.options import Options, parse_options, refusal, short
from monai_ifim.label.pacs.datastore import PacsDatastore
from monai_ifim.label.pacs.dicomweb import DicomWeb, PacsError
from monai_ifim.label.pacs.settings import read_settings
from monai_ifim.label.scoring import IFIMScoring
from monai_ifim.label.stored import run_stored
from monai_ifim.label.stores.checked import CheckedDatastore
from monai_ifim.label.strategy import IFIMStrategy, UnlabelledAtRandom
from monai_ifim.messages import RESEARCH_ONLY, reason

logger = logging.getLogger(__name__)
# What MONAI Label itself adds to a request on its way to ``infer``.
_BY_SERVER = ("model", "image", "description", "label_tag", "save_label", "gpus", "multi_gpu")
_BY_BATCH = ("images", "max_workers", "max_batch_size", "_id", "_image_id")


class IFIMApp(MONAILabelApp):
    """Serves components, numbers and rankings of the bundles in ``model/``.

    Settings, each as ``--conf NAME VALUE``: ``models`` (names of bundles, with commas between; all
    by default), ``device``, ``max_voxels``, ``likelihood.BUNDLE`` (``categorical`` or
    ``bernoulli``, where it is not recognised), ``space.BUNDLE`` (a file of a pooled eigenspace),
    ``overlay`` (``false``: no label maps for 3D Slicer), and those of a PACS (``PacsSettings``).

    Args:
        app_dir: folder of the app.
        studies: folder of the images, or address of a DICOMweb server.
        conf: settings.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.bundles = find_bundles(Path(app_dir) / "model", conf)
        pictures = any(bundle.dimension == 2 for bundle in self.bundles)
        self.pacs_settings = read_settings(conf, pictures=pictures)
        super().__init__(
            app_dir,
            studies,
            conf,
            name="monai_ifim",
            description=f"Local sensitivity of image classifiers. {RESEARCH_ONLY}",
        )

    @property
    def remote(self) -> bool:
        """Whether the images are in a PACS."""
        return self.studies.startswith(("http://", "https://"))

    def init_datastore(self) -> CheckedDatastore:
        """A folder or a PACS, with the same checks.

        Returns:
            The datastore.

        Raises:
            ValueError: a setting of the PACS that cannot be.
        """
        if self.remote:
            return self._pacs()
        return CheckedDatastore(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def _pacs(self) -> PacsDatastore:
        if settings.MONAI_LABEL_DATASTORE:
            raise ValueError(
                "expected a folder or the address of a DICOMweb server as studies, got "
                f"MONAI_LABEL_DATASTORE={settings.MONAI_LABEL_DATASTORE}; unset it"
            )
        user, password = (
            settings.MONAI_LABEL_DICOMWEB_USERNAME,
            settings.MONAI_LABEL_DICOMWEB_PASSWORD,
        )
        chosen = self.pacs_settings
        check_address(self.studies)
        pacs = DicomWeb(
            self.studies,
            login=(user, password) if user else None,
            prefixes={
                "qido": settings.MONAI_LABEL_QIDO_PREFIX or "",
                "wado": settings.MONAI_LABEL_WADO_PREFIX or "",
                "stow": settings.MONAI_LABEL_STOW_PREFIX or "",
            },
            seconds=chosen.seconds,
            download_seconds=chosen.download_seconds,
        )
        return PacsDatastore(pacs, chosen, int(self.conf.get("max_voxels", MAX_VOXELS)))

    def init_infers(self) -> dict[str, InferTask]:
        """Two tasks for each bundle.

        Returns:
            Tasks by name.
        """
        stores = self.remote and "results" in self.pacs_settings.receives
        tasks: list[BundleTask] = [ComponentTask(each, stores=stores) for each in self.bundles]
        if str(self.conf.get("overlay", "true")).lower() != "false":
            tasks += [OverlayTask(bundle, stores=stores) for bundle in self.bundles]
        return {task.name: task for task in tasks}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """One method for each bundle.

        Returns:
            Methods by the bundle's name.
        """
        return {bundle.name: IFIMScoring(bundle) for bundle in self.bundles}

    def init_strategies(self) -> dict[str, Strategy]:
        """Rankings by each quantity and by the mix with entropy.

        Returns:
            Strategies by name.
        """
        quantities = ("trace", "largest_eigenvalue", "effective_rank", "mix")
        ours = {f"ifim_{q}": IFIMStrategy(q, self.bundles) for q in quantities}
        return {"random": UnlabelledAtRandom(), **ours}

    def _load_sessions(self, load: bool = False) -> None:
        """No sessions: they would let in images from outside the datastore."""
        return

    def on_init_complete(self) -> None:
        """Load the networks before the first request; a bundle that cannot be is left out."""
        for bundle in list(self.bundles):
            try:
                bundle.load()
            except Exception as error:  # a configuration can run any code
                logger.exception("%s is left out: %s", bundle.name, reason(error))
                self.bundles.remove(bundle)
                for name in [n for n, task in self._infers.items() if task.bundle is bundle]:
                    del self._infers[name]
                self._scoring_methods.pop(bundle.name, None)
        super().on_init_complete()

    @property
    def max_label_bytes(self) -> int:
        """Of a label that a client sends: eight for each voxel of the largest image."""
        return 8 * int(self.conf.get("max_voxels", MAX_VOXELS)) + 2**20

    @property
    def models(self) -> list[str]:
        """Names of the tasks."""
        return sorted(self._infers)

    def task(self, model: str) -> BundleTask:
        """Task of that name.

        Args:
            model: as the client sent it.

        Returns:
            The task.

        Raises:
            HTTPException: 404.
        """
        if model not in self._infers:
            raise refusal(
                f"expected a model from {', '.join(self._infers)}, got {short(model)}; put its "
                "bundle into the app's model folder and restart",
                404,
            )
        return self._infers[model]

    def run(
        self, model: str, image_id: Any, options: Options, folder: Path
    ) -> tuple[dict[str, Any], dict[str, Path]]:
        """Compute, write into a folder, and save every component under its tag.

        Args:
            model: name of a task, as the client sent it.
            image_id: of a stored image, as the client sent it.
            options: rank or energy, component, device and file format of the request.
            folder: where to write; the caller removes it.

        Returns:
            What to tell the client, and the files by component, the chosen one first.

        Raises:
            HTTPException: 404, an unknown model or image; 400, a device that is not there; 413,
                415 or 422, an image that is too large, cannot be read or does not fit the bundle.
        """
        keep = not settings.MONAI_LABEL_DATASTORE_READ_ONLY
        return run_stored(self.task(model), image_id, options, folder, self.datastore(), keep=keep)

    def infer(
        self, request: Mapping[str, Any], datastore: Datastore | None = None
    ) -> dict[str, Any]:
        """MONAI Label's own way in, for its stock routes and batches.

        Args:
            request: ``model``, ``image`` and options.
            datastore: ignored; the app uses its own.

        Returns:
            ``file`` (the caller removes it), ``label``, ``tag`` and ``params``.

        Raises:
            HTTPException: as ``run``; 400 also for an unknown or impossible option.
        """
        options = _options(request)
        model, image_id = str(request.get("model")), request.get("image")
        with tempfile.TemporaryDirectory(prefix="monai_ifim_") as folder:
            answer, files = self.run(model, image_id, options, Path(folder))
            name, file = next(iter(files.items()))
            handle, kept = tempfile.mkstemp(suffix="".join(file.suffixes))
            os.close(handle)
            shutil.move(str(file), kept)
        return {"label": image_id, "tag": answer["tags"][name], "file": kept, "params": answer}

    def infer_wsi(self, request: Any, datastore: Any = None) -> dict[str, Any]:
        """Refuse: whole slides are not served.

        Args:
            request: ignored.
            datastore: ignored.

        Raises:
            HTTPException: 400.
        """
        raise refusal("expected an image for POST /infer/MODEL, got a whole-slide request")

    def batch_infer(
        self, request: Mapping[str, Any], datastore: Datastore | None = None
    ) -> dict[str, Any]:
        """All images one after the other; where one fails, the others are unaffected.

        Args:
            request: ``model``, ``images`` and options.
            datastore: ignored; the app uses its own.

        Returns:
            Per image what ``infer`` tells, or ``{"status": "failed: ..."}``.

        Raises:
            HTTPException: 404, 400; all images are refused for the same reason.
            RuntimeError: in MONAI Label's background process, at the end, when images failed.
        """
        self.task(str(request.get("model")))
        _options(request)
        # MONAI Label divides the work among GPUs even where there is none.
        safe = {**request, "multi_gpu": torch.cuda.is_available(), "max_workers": 1}
        answers = self._batch_infer(safe, self.datastore(), self._infer_or_report)
        failed = {i: a["status"] for i, a in answers.items() if "status" in a}
        for image_id, status in failed.items():
            logger.error("%s %s", image_id, status)
        if failed and not self._server_mode:
            raise RuntimeError(
                f"{len(failed)} of {len(answers)} images have no result; the log names them"
            )
        return dict(answers)

    def _infer_or_report(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        try:
            return self.infer(request)
        except HTTPException as error:
            return {"status": f"failed: {error.detail}"}
        except Exception as error:  # the other images still get their results
            logger.exception("batch inference of %s", request.get("image"))
            return {"status": f"failed: {reason(error)}"}

    def scoring(
        self, request: Mapping[str, Any], datastore: Datastore | None = None
    ) -> dict[str, Any]:
        """Score stored images.

        Args:
            request: ``method`` and what ``IFIMScoring`` takes.
            datastore: ignored; the app uses its own.

        Returns:
            How many were scored, how many were left out, which failed.

        Raises:
            HTTPException: 404, unknown method.
            RuntimeError: in MONAI Label's background process, at the end, when images failed or
                the PACS stopped answering.
        """
        self.check_method(request.get("method"))
        result = super().scoring(dict(request), self.datastore())
        if self._server_mode:
            return dict(result)
        if result["stopped"]:
            raise RuntimeError(
                f"expected a score of every image, got {result['waiting']} without: "
                f"{result['stopped']}; score again later, what is done stays"
            )
        if result["failed"]:
            raise RuntimeError(f"{len(result['failed'])} images have no score; the log names them")
        return dict(result)

    def check_method(self, method: Any) -> None:
        """Refuse an unknown scoring method.

        Args:
            method: as the client sent it.

        Raises:
            HTTPException: 404.
        """
        if not isinstance(method, str) or method not in self._scoring_methods:
            raise refusal(
                f"expected a scoring method from {', '.join(self._scoring_methods)}, got "
                f"{short(method)}",
                404,
            )

    def async_scoring(self, method: str | None, params: Any = None) -> Any:
        """Start scoring in the background; without a method, only where there is work.

        Args:
            method: one, or None for all with unscored images.
            params: by method.

        Returns:
            The background tasks.
        """
        if method:
            return super().async_scoring(method, params)
        most = self.pacs_settings.scoring if self.remote else 0
        if self.remote and not most:  # each series is a download
            return {}
        try:
            waiting = [m for m, s in self._scoring_methods.items() if s.waiting(self.datastore())]
        except PacsError as error:
            logger.error("no scoring: %s", error.detail)
            return {}
        params = params or {m: {"max_samples": most} for m in waiting}
        return {m: super(IFIMApp, self).async_scoring(m, params) for m in waiting}

    def next_sample(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The next image to look at.

        Args:
            request: ``strategy`` and what it takes.

        Returns:
            Its id, score and path; the path is empty while it is in the PACS alone.

        Raises:
            HTTPException: 404, unknown strategy; 400, impossible options.
        """
        strategy = request.get("strategy") or "random"
        if strategy not in self._strategies:
            raise refusal(
                f"expected a strategy from {', '.join(self._strategies)}, got {short(strategy)}",
                404,
            )
        sample = self._strategies[strategy](dict(request), self.datastore())
        if not sample:
            return {}
        if self._auto_update_scoring:
            self.async_scoring(None)
        # MONAI Label would download it here, and answer with the errors of that one series.
        return {**sample, "path": self.datastore().path_here(sample["id"])}


def _options(request: Mapping[str, Any]) -> Options:
    """The client's options, without what MONAI Label adds to a request."""
    names = {*_BY_SERVER, *_BY_BATCH}
    return parse_options({k: v for k, v in request.items() if k not in names})
