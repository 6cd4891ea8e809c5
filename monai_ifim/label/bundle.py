"""A classification bundle as a function from an image file to its components."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged
from torch import Tensor, nn

import monai_ifim as mi
from monai_ifim.bundle import BundleConfiguration, bundle_network, scripts_of
from monai_ifim.core import (
    EigenspaceOptions,
    as_likelihood,
    load_pooled,
    pooled_digest,
    pooled_note,
    taken_in,
    warn_of_another,
)
from monai_ifim.data.provenance import pooled_name
from monai_ifim.data.source_grid import SourceGrid
from monai_ifim.data.sources.values import check_values
from monai_ifim.label.image_file import check_size, is_readable
from monai_ifim.label.options import Options, refusal, short
from monai_ifim.messages import reason
from monai_ifim.outputs import VOLUMES, batch_outputs, with_class_names
from monai_ifim.transforms.invert import InvertComponentsd

logger = logging.getLogger(__name__)
MAX_VOXELS = 2**28


@dataclass(frozen=True)
class Components:
    """What a bundle gives for one image.

    Attributes:
        numbers: prediction and spectrum, ready for JSON.
        entropy: of the prediction, in nats.
        volumes: (C, *S) by their names in ``VOLUMES``, on the image's own grid.
        source: that grid, None of an image whose format tells none.
        model: name and version of the bundle.
        key: digest of all that the result depends on besides the image.
    """

    numbers: dict[str, Any]
    entropy: float
    volumes: Mapping[Hashable, Tensor]
    source: SourceGrid | None
    model: str
    key: str = ""


def stored_dtype(volume: Tensor) -> np.dtype:
    """In which type a component is stored.

    Args:
        volume: any shape.

    Returns:
        float32; float64 for a sensitivity below its range, as of a nearly certain prediction.
    """
    largest = float(volume.abs().max())
    return np.dtype(np.float64 if 0 < largest < 1e-30 else np.float32)


class ClassificationBundle:
    """Runs the preprocessing and the network of a bundle, and inverts the preprocessing.

    Of the bundle's configuration ``preprocessing``, ``network_def`` and ``inferer`` count, with the
    weights in ``models/model.pt`` (a state dictionary) or ``models/model.ts`` (TorchScript); its
    handlers and evaluator are not run.

    Args:
        folder: of the bundle.
        likelihood: ``categorical`` or ``bernoulli``; when empty, ``bernoulli`` where the bundle's
            postprocessing takes a sigmoid (``Activationsd``), else ``categorical``.
        device: where to compute; the GPU when empty and there is one.
        max_voxels: images with more voxels are refused before they are read.
        space: a file of a pooled eigenspace in which components are taken, where a request does
            not ask for the image's own; none when empty.

    Raises:
        ValueError: the folder is not such a bundle, the likelihood is unknown, or no pooled
            eigenspace.
        FileNotFoundError: there is no such file.
    """

    def __init__(
        self,
        folder: Path,
        *,
        likelihood: str = "",
        device: str = "",
        max_voxels: int = MAX_VOXELS,
        space: str = "",
    ) -> None:
        self.folder = folder
        self.name = folder.name
        self.max_voxels = max_voxels
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._configuration = BundleConfiguration(folder)
        self.weights = self._configuration.weights
        metadata = self._configuration.metadata
        self.version = str(metadata.get("version", ""))
        self.description = str(metadata.get("description", ""))
        self.class_names = mi.class_names(folder)
        self.image_key = self._configuration.image_key
        self.dimension = len(self._configuration.image_shape or (0, 0, 0))
        self._lock = threading.RLock()
        self._networks: dict[tuple[str, int], nn.Module] = {}
        self._hashes: dict[int, str] = {}
        self._content = _digest([*folder.glob("configs/*"), *folder.glob("scripts/**/*.py")])
        self.likelihood = likelihood or self._configuration.likelihood
        as_likelihood(self.likelihood)
        self.space = load_pooled(space)
        self._space_digest = None if self.space is None else pooled_digest(self.space)
        taken_in(self.space, EigenspaceOptions())  # refused now, not with the first request

    @property
    def model_version(self) -> str:
        """Version of the bundle and a digest of its weights."""
        changed = self.weights.stat().st_mtime_ns
        if changed not in self._hashes:
            self._hashes = {changed: hashlib.sha256(self.weights.read_bytes()).hexdigest()[:12]}
        return f"{self.version}-{self._hashes[changed]}"

    def key(self, options: Options, further_files: Mapping[str, str] | None = None) -> str:
        """Digest of all that a result depends on besides the image.

        Args:
            options: of the request.
            further_files: as for ``run``.

        Returns:
            The same for the same network, preprocessing, likelihood, rank or energy, pooled
            eigenspace, and files.
        """
        chosen = (self.name, self.model_version, self._content, self.likelihood)
        asked: tuple[Any, ...] = (options.rank, options.energy, monai.__version__)
        if options.space == "pooled" and self._space_digest is not None:
            asked = (*asked, self._space_digest)
        files = _digest([Path(file) for file in (further_files or {}).values()])
        return hashlib.sha256(repr((*chosen, *asked, files)).encode()).hexdigest()[:32]

    @property
    def further_keys(self) -> list[str]:
        """Files that the preprocessing loads besides the image, for example a mask."""
        loaders = [t for t in self._preprocessing().transforms if isinstance(t, LoadImaged)]
        return [str(key) for t in loaders for key in t.keys if key != self.image_key]

    def load(self) -> None:
        """Instantiate preprocessing and network; errors are those of the configuration."""
        with self._lock:
            self._preprocessing()
            self._network(self.device)

    def run(
        self, path: Path, options: Options, further_files: Mapping[str, str] | None = None
    ) -> Components:
        """Components of one image.

        One image at a time: neither a network whose state is set and restored around each image
        nor MONAI's inversion can serve two threads at once.

        Args:
            path: of the image.
            options: rank or energy, and the device, of the request.
            further_files: path of a file for each of ``further_keys``.

        Returns:
            Numbers and volumes.

        Raises:
            HTTPException: 400, a device that is not there; 413, too many voxels; 415, the file
                cannot be read; 422, the bundle cannot take the image.
        """
        device = self._device(options.device)
        check_size(path, self.max_voxels)
        with self._lock, scripts_of(self.folder):
            preprocessing = self._preprocessing()
            item: dict[str, Any] = {self.image_key: str(path), **(further_files or {})}
            item = self._prepare(preprocessing, item, path)
            image = item[self.image_key]
            try:
                found = self._decompose(image, device, preprocessing, options)
                return replace(found, key=self.key(options, further_files))
            except Exception as error:  # a network raises what it likes
                logger.debug("%s on %s", self.name, path, exc_info=True)
                raise refusal(
                    f"expected an image that {self.name} can take, got {path.name}, which became "
                    f"{tuple(image.shape)} after preprocessing: {reason(error)}",
                    422,
                ) from error

    def _decompose(
        self, image: MetaTensor, device: str, preprocessing: Compose, options: Options
    ) -> Components:
        batch = image.as_tensor()[None].to(device)
        chosen = EigenspaceOptions(
            likelihood=self.likelihood, rank=options.rank, energy=options.energy
        )
        within, chosen = taken_in(self.space if options.space == "pooled" else None, chosen)
        network = self._network(device)
        warn_of_another(within, network)
        space = mi.eigenspace(network, batch, options=chosen)
        outputs = batch_outputs(space, batch, VOLUMES, within=within)
        status = {"status": outputs.statuses[0], **pooled_note(within)}
        volumes: dict[Hashable, Tensor] = {
            name: outputs.values[f"ifim_{name}"][0].to(image.device) for name in VOLUMES
        }
        invert = InvertComponentsd(VOLUMES, preprocessing, self.image_key)
        restored = invert.restore({self.image_key: image, **volumes})
        return Components(
            {**with_class_names(outputs.numbers[0], self.class_names), **status},
            space.likelihood.entropy(space.logits).item(),
            restored.volumes,
            restored.source,
            f"{self.name} {self.model_version}{pooled_name(within)}",
        )

    def _prepare(self, preprocessing: Compose, item: dict[str, Any], path: Path) -> dict[str, Any]:
        try:
            item = preprocessing(item)
            if not isinstance(item[self.image_key], MetaTensor):
                raise TypeError("the preprocessing dropped the image's metadata (track_meta)")
            check_values(item, self.image_key, preprocessing)
        except Exception as error:  # readers and transforms raise what they like
            logger.debug("preprocessing of %s", path, exc_info=True)
            status = 422 if is_readable(path) else 415
            raise refusal(
                f"expected an image that the preprocessing of {self.name} can take, got "
                f"{path.name}: {reason(error)}",
                status,
            ) from error
        return item

    def _device(self, requested: str) -> str:
        allowed = ["cpu"] + (["cuda", self.device] if torch.cuda.is_available() else [])
        if requested == "cuda" and not torch.cuda.is_available():
            requested = ""  # the default of MONAI Label's clients, on any machine
        if requested and requested not in allowed:
            raise refusal(f"expected device from {', '.join(allowed)}, got {short(requested)}")
        return requested or self.device

    def _preprocessing(self) -> Compose:
        with self._lock:
            return mi.traceable_preprocessing(self._configuration.content("preprocessing"))

    def _network(self, device: str) -> nn.Module:
        """The network as the bundle's inferer calls it, with the present weights."""
        key = device, self.weights.stat().st_mtime_ns
        # One at a time: the configuration makes one object, which moves between the devices.
        if key not in self._networks:
            self._networks = {key: bundle_network(self._configuration, device)}
        return self._networks[key]


def _digest(files: Sequence[Path]) -> str:
    """Of names and contents, in the order of the names."""
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path.is_file()):
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()} ".encode())
    return digest.hexdigest()


def find_bundles(folder: Path, conf: Mapping[str, str]) -> list[ClassificationBundle]:
    """Classification bundles in a folder.

    Args:
        folder: holds one folder for each bundle.
        conf: settings of the app: ``models``, ``device``, ``max_voxels``, ``likelihood.BUNDLE``,
            ``space.BUNDLE``.

    Returns:
        Bundles in the order of their names; a folder that is no bundle is logged and left out.

    Raises:
        ValueError: a bundle named in ``models`` is not there.
    """
    wanted = [name.strip() for name in conf.get("models", "").split(",") if name.strip()]
    present = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    missing = sorted(set(wanted) - set(present))
    if missing:
        raise ValueError(f"expected the bundles {missing} in {folder}, got {present}; copy them")
    bundles = []
    for name in wanted or present:
        try:
            bundle = ClassificationBundle(
                folder / name,
                likelihood=conf.get(f"likelihood.{name}", ""),
                device=conf.get("device", ""),
                max_voxels=int(conf.get("max_voxels", MAX_VOXELS)),
                space=conf.get(f"space.{name}", ""),
            )
        except Exception as error:  # a bundle's files may hold anything
            logger.error("%s is left out: %s", name, reason(error))
        else:
            bundles.append(bundle)
    if not bundles:
        logger.error("no bundle in %s; copy one there and restart", folder)
    return bundles
