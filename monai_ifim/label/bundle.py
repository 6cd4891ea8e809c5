"""A classification bundle of MONAI's, as a function from a file to its components."""

from __future__ import annotations

import hashlib
import logging
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nrrd
import torch
from monai.data import MetaTensor, NibabelReader
from monai.transforms import Compose, Invertd, LoadImaged
from PIL import Image
from torch import Tensor, nn

import monai_ifim as mi
from monai_ifim.bundle import BundleConfiguration, Inferred, scripts_of
from monai_ifim.label.options import Options, refusal, short
from monai_ifim.messages import reason
from monai_ifim.outputs import VOLUMES, batch_outputs, with_class_names

logger = logging.getLogger(__name__)
_KEYS = tuple(f"ifim_{name}" for name in VOLUMES)


@dataclass(frozen=True)
class Components:
    """What a bundle says of one image.

    Attributes:
        numbers: prediction and spectrum, ready for JSON.
        entropy: of the prediction, in nats.
        volumes: by name, (C, *S) on the image's own grid.
    """

    numbers: dict[str, Any]
    entropy: float
    volumes: dict[str, MetaTensor]


class ClassificationBundle:
    """Runs the preprocessing and the network of a bundle, and undoes the preprocessing.

    The bundle's handlers and evaluator are not run; of its configuration ``preprocessing``,
    ``network_def`` and ``inferer`` count, with the weights in ``models/model.pt`` (a state
    dictionary) or ``models/model.ts`` (TorchScript). Sigmoids are recognised by an
    ``Activationsd`` with ``sigmoid`` in its postprocessing.

    Args:
        folder: of the bundle.
        likelihood: ``categorical`` or ``bernoulli``; recognised when empty.
        device: where to compute; the GPU when empty and there is one.
        max_voxels: images with more voxels are refused before they are read.

    Raises:
        ValueError: the folder is not such a bundle.
    """

    def __init__(
        self,
        folder: Path,
        *,
        likelihood: str = "",
        device: str = "",
        max_voxels: int = 2**28,
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
        self.likelihood = likelihood or self._configuration.likelihood

    @property
    def model_version(self) -> str:
        """Version of the bundle and a digest of its weights."""
        changed = self.weights.stat().st_mtime_ns
        if changed not in self._hashes:
            self._hashes = {changed: hashlib.sha256(self.weights.read_bytes()).hexdigest()[:12]}
        return f"{self.version}-{self._hashes[changed]}"

    @property
    def further_keys(self) -> list[str]:
        """Files that the preprocessing loads besides the image, for example a mask."""
        loaders = [t for t in self._preprocessing().transforms if isinstance(t, LoadImaged)]
        return [str(key) for t in loaders for key in t.keys if key != self.image_key]

    def load(self) -> None:
        """Instantiate preprocessing and network; errors are those of the configuration."""
        with self._lock:
            self._preprocessing()
            self._inferred(self.device)

    def run(
        self, path: Path, options: Options, further_files: Mapping[str, str] | None = None
    ) -> Components:
        """Components of one image.

        One image at a time: a network at rest, and MONAI's inversion, cannot be shared.

        Args:
            path: of the image.
            options: of the request.
            further_files: one for each of ``further_keys``.

        Returns:
            Numbers and volumes.

        Raises:
            HTTPException: 400, a device that is not there; 413, too many voxels; 415, the file
                cannot be read; 422, the bundle cannot take the image.
        """
        device = self._device(options.device)
        self._check_size(path)
        with self._lock, scripts_of(self.folder):
            preprocessing = self._preprocessing()
            item: dict[str, Any] = {self.image_key: str(path), **(further_files or {})}
            item = self._prepare(preprocessing, item, path)
            image = item[self.image_key]
            try:
                return self._decompose(image, device, preprocessing, options)
            except Exception as error:  # a network raises what it likes
                logger.debug("%s on %s", self.name, path, exc_info=True)
                raise refusal(
                    f"expected an image that {self.name} can take, got {path.name}, which became "
                    f"{tuple(image.shape)} after preprocessing: {reason(error)}",
                    422,
                ) from error

    def _decompose(
        self, image: Tensor, device: str, preprocessing: Compose, options: Options
    ) -> Components:
        batch = image.as_subclass(Tensor)[None].to(device)
        space = mi.eigenspace(
            self._inferred(device),
            batch,
            likelihood=self.likelihood,
            rank=options.rank,
            energy=options.energy,
        )
        outputs = batch_outputs(space, batch, VOLUMES)
        values = outputs.values
        # Resizing goes through float32, which has no numbers for a sure prediction's sensitivity.
        scale = values["ifim_sensitivity"].max()
        values["ifim_sensitivity"] /= torch.where(scale > 0, scale, 1)
        item: dict[str, Any] = {"image": image}
        for key in _KEYS:
            value = values[key][0].to(image.device)
            item[key] = MetaTensor(value).copy_meta_from(image)
        invert = Invertd(_KEYS, preprocessing, orig_keys="image", nearest_interp=False)
        item = invert(item)
        item["ifim_sensitivity"] = item["ifim_sensitivity"].double() * scale.to(image.device)
        numbers = outputs.numbers[0]
        probability = torch.tensor(numbers["probabilities"], dtype=torch.float64)
        if self.likelihood == "bernoulli":
            probability = torch.stack([probability, 1 - probability])
        return Components(
            with_class_names(numbers, self.class_names),
            float(torch.special.entr(probability).sum()),
            {name: item[f"ifim_{name}"] for name in VOLUMES},
        )

    def _prepare(self, preprocessing: Compose, item: dict[str, Any], path: Path) -> dict[str, Any]:
        try:
            item = preprocessing(item)
            if not isinstance(item[self.image_key], MetaTensor):
                raise TypeError("the preprocessing dropped the image's metadata (track_meta)")
        except Exception as error:  # readers and transforms raise what they like
            logger.debug("preprocessing of %s", path, exc_info=True)
            status = 422 if _readable(path) else 415
            raise refusal(
                f"expected an image that the preprocessing of {self.name} can take, got "
                f"{path.name}: {reason(error)}",
                status,
            ) from error
        return item

    def _check_size(self, path: Path) -> None:
        """Before the file is read: a header says how large the image is."""
        try:
            sizes = _sizes(path)
        except Exception as error:  # nibabel's, gzip's, pillow's, pynrrd's, the system's
            raise refusal(
                f"expected an image, got {path.name}: {reason(error)}; replace it", 415
            ) from error
        voxels = math.prod(sizes)
        if min(sizes, default=0) < 0 or voxels > self.max_voxels:
            raise refusal(
                f"expected at most {self.max_voxels} voxels, got {voxels} in {path.name}; crop "
                "or resample it, or start the server with --conf max_voxels",
                413,
            )

    def _device(self, wish: str) -> str:
        allowed = ["cpu"] + (["cuda", self.device] if torch.cuda.is_available() else [])
        if wish == "cuda" and not torch.cuda.is_available():
            wish = ""  # the default of MONAI Label's clients, on any machine
        if wish and wish not in allowed:
            raise refusal(f"expected device from {', '.join(allowed)}, got {short(wish)}")
        return wish or self.device

    def _preprocessing(self) -> Compose:
        with self._lock:
            return mi.traceable_preprocessing(self._configuration.content("preprocessing"))

    def _inferred(self, device: str) -> nn.Module:
        """The network as the bundle's inferer calls it."""
        key = device, self.weights.stat().st_mtime_ns
        if key not in self._networks:
            network = self._configuration.network(device)
            inferer = self._configuration.inferer()
            if inferer is not None:
                network = Inferred(network, inferer)
            # One device in use at a time is the rule; new weights replace old ones.
            self._networks = {k: v for k, v in self._networks.items() if k[1] == key[1]}
            self._networks[key] = network
        return self._networks[key]


def find_bundles(folder: Path, conf: Mapping[str, str]) -> list[ClassificationBundle]:
    """Classification bundles in a folder.

    Args:
        folder: one folder a bundle.
        conf: settings, see ``IFIMApp``.

    Returns:
        Bundles in the order of their names; what is no bundle is logged and left out.

    Raises:
        ValueError: a bundle named in ``conf`` is not there.
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
                max_voxels=int(conf.get("max_voxels", 2**28)),
            )
        except Exception as error:  # a file of somebody else's may hold anything
            logger.error("%s is left out: %s", name, reason(error))
        else:
            bundles.append(bundle)
    if not bundles:
        logger.error("no bundle in %s; copy one there and restart", folder)
    return bundles


def _sizes(path: Path) -> list[int]:
    """Lengths of all axes, from the header; of other formats the bytes of the file."""
    if path.name.endswith((".nii", ".nii.gz")):
        return [int(n) for n in NibabelReader().read(str(path)).shape]
    if path.suffix == ".nrrd":
        return [int(n) for n in nrrd.read_header(str(path))["sizes"]]
    if path.suffix in (".png", ".jpg", ".jpeg", ".tif"):
        with Image.open(path) as picture:
            return [*picture.size, len(picture.getbands())]
    return [path.stat().st_size]


def _readable(path: Path) -> bool:
    try:
        LoadImaged("image")({"image": str(path)})
    except Exception:  # any reader's
        return False
    return True
