"""A classification bundle of MONAI's, as its network and the images that it would be given."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import Dataset
from torch import Tensor, nn

from monai_ifim.bundle.metadata import class_names
from monai_ifim.core import as_likelihood
from monai_ifim.data.datalist import find_images
from monai_ifim.messages import reason

logger = logging.getLogger(__name__)
_importing = threading.RLock()

# The first is the property that MONAI's bundle specification names; the others are seen.
_FOLDER_IDS = ("dataset_dir", "data_dir", "data_root", "data_file_base_dir")


@dataclass(frozen=True)
class BundleClassifier:
    """The classifier of a bundle.

    Attributes:
        network: logits (B, K) of images (B, C, *S), as the bundle's inferer calls its network;
            weights loaded, in eval mode.
        likelihood: ``categorical`` or ``bernoulli``.
        name: of the bundle's folder.
        digest: SHA-256 of weights, configurations and scripts, to know a result again.
    """

    network: nn.Module
    likelihood: str
    name: str
    digest: str


def load_bundle_classifier(
    folder: str | os.PathLike[str], *, likelihood: str = "", device: str = "cpu"
) -> BundleClassifier:
    """The trained network of a bundle, as its inference would call it.

    Args:
        folder: of the bundle; see ``BundleConfiguration`` for what of it counts.
        likelihood: ``categorical`` or ``bernoulli``; recognised when empty.
        device: where to put the network.

    Returns:
        Network, likelihood, name and digest.

    Raises:
        ValueError: the folder is not such a bundle, its network cannot be made or its weights do
            not fit, or the likelihood is unknown.
    """
    if likelihood:
        as_likelihood(likelihood)
    root = Path(os.path.abspath(folder))
    try:
        configuration = BundleConfiguration(root)
        # A new network draws its first weights, and inference tensors could not be differentiated.
        with torch.random.fork_rng([]), torch.inference_mode(False):
            network = configuration.network(device)
            inferer = configuration.inferer()
            # An IFIMInferer would keep the graph of every call for a handler that is not there.
            inferer = inferer.inferer if hasattr(inferer, "take") else inferer
    except Exception as error:  # the code of the bundle's author raises what it likes
        raise ValueError(
            f"expected the folder of a classification bundle, got {str(root)!r}: {reason(error)}"
        ) from error
    return BundleClassifier(
        _Logits(network if inferer is None else Inferred(network, inferer), root).eval(),
        likelihood or configuration.likelihood,
        root.name,
        configuration.digest(),
    )


def load_bundle_images(
    folder: str | os.PathLike[str], data: str | os.PathLike[str], *, limit: int | None = None
) -> tuple[Tensor, Tensor | None, list[str]]:
    """Images of a folder, preprocessed as the bundle's inference does it.

    The bundle's own ``dataset`` reads them, with ``dataset_dir`` set to ``data``, so that a mask
    that becomes a channel comes along. Where its list is empty or names files elsewhere, every
    image below ``data`` is taken. An image that cannot be read, is not finite, or has another
    shape than the first one is logged and left out.

    Labels are the first of these that every image has: an integer ``label`` of the data set's
    item; ``labels.csv`` in ``data``, with the columns ``path`` or ``file`` and ``label``; a
    subfolder of ``data`` that bears the name of a class in the bundle's metadata.

    Args:
        folder: of the bundle.
        data: folder of images, laid out as the bundle expects it.
        limit: at most so many of the listed images, spread evenly over the list.

    Returns:
        Images (N, C, *S) in float32 on the CPU; labels (N,) in int64, or None; N file names,
        relative to ``data`` where the file lies below it.

    Raises:
        ValueError: the folder is not a bundle, ``data`` holds no image that its preprocessing
            takes, or ``limit`` is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"expected a limit of at least 1 image, got {limit}; or leave it out")
    root, top = Path(os.path.abspath(folder)), Path(os.path.abspath(data))
    configuration = BundleConfiguration(root)
    with scripts_of(root), torch.random.fork_rng([]):
        dataset = _dataset(configuration, top)
        items = list(_readable(dataset, _spread(len(dataset), limit), configuration.image_key))
    if not items:
        raise ValueError(
            f"expected images that {root.name} can take, got none among {len(dataset)} of "
            f"{str(top)!r}; the log says why for each"
        )
    paths, images, given = zip(*items, strict=True)
    labels = _labels(paths, given, top, class_names(root))
    return torch.stack(images), labels, [_relative(path, top) for path in paths]


class BundleConfiguration:
    """The parts of a bundle that say how its network sees an image.

    Of ``configs/inference.json`` or ``.yaml`` these ids count: ``network_def``, ``preprocessing``,
    ``inferer``, ``dataset``, ``postprocessing``; besides, ``configs/metadata.json``, the weights in
    ``models/model.pt`` (a state dictionary) or ``models/model.ts`` (TorchScript), and the bundle's
    own package ``scripts``. Evaluator and handlers are not run.

    Attributes:
        weights: their file.
        metadata: content of ``metadata.json``.
        raw: the configuration as it is written.
        image_key: name of the network's first input.
        image_shape: its spatial shape in the metadata, or None.
        likelihood: ``bernoulli`` where the bundle's own postprocessing takes a sigmoid.

    Raises:
        ValueError: the folder is not such a bundle.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = _first_file(folder / "configs", ("inference.json", "inference.yaml"))
        self.weights = _first_file(folder / "models", ("model.pt", "model.ts"))
        metadata_file = _first_file(folder / "configs", ("metadata.json",))
        self.metadata: dict[str, Any] = json.loads(metadata_file.read_text(encoding="utf-8"))
        self.raw: dict[str, Any] = ConfigParser.load_config_file(str(self._file))
        for name in ("network_def", "preprocessing"):
            if name not in self.raw:
                raise ValueError(
                    f"expected the id {name} in {self._file}, got none; the bundles of the "
                    "model zoo have it"
                )
        inputs: dict[str, Any] = self.metadata.get("network_data_format", {}).get("inputs", {})
        self.image_key = next(iter(inputs), "image")
        self.image_shape = inputs.get(self.image_key, {}).get("spatial_shape")
        self.likelihood = _likelihood(self.raw)

    @cached_property
    def parser(self) -> ConfigParser:
        """To set ids before anything that depends on them is made."""
        parser = ConfigParser()
        parser.read_config(str(self._file))
        parser["bundle_root"] = str(self.folder)
        return parser

    def content(self, name: str) -> Any:
        """What an id stands for; errors are those of the configuration."""
        with scripts_of(self.folder):
            return self.parser.get_parsed_content(name)

    def inferer(self) -> Any:
        """The bundle's inferer, or None where it has none."""
        return self.content("inferer") if self.parser.get("inferer") else None

    def network(self, device: str) -> nn.Module:
        """The network with its weights, in eval mode."""
        if self.weights.suffix == ".ts":
            return torch.jit.load(str(self.weights), map_location=device).eval()
        network = self.content("network_def")
        state = torch.load(self.weights, map_location=device, weights_only=True)
        network.load_state_dict(state.get("model", state))
        return network.to(device).eval()

    def digest(self) -> str:
        """SHA-256 of the weights, of every configuration and of the scripts, with their names."""
        parts = [*self.folder.glob("configs/*.*"), *self.folder.glob("scripts/**/*.py")]
        total = hashlib.sha256()
        for file in (self.weights, *sorted(part for part in parts if part.is_file())):
            name = file.relative_to(self.folder).as_posix()
            total.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
        return total.hexdigest()


class Inferred(nn.Module):
    """A network as an inferer calls it."""

    def __init__(self, network: nn.Module, inferer: Any) -> None:
        super().__init__()
        self.network = network
        self.inferer = inferer

    def forward(self, images: Tensor) -> Any:
        """What the inferer returns for images (B, C, *S)."""
        return self.inferer(images, self.network)


@contextmanager
def scripts_of(folder: Path) -> Iterator[None]:
    """Bundles bring a package ``scripts``; two bundles' must not be taken for one another."""
    if not (folder / "scripts").is_dir():
        yield
        return
    with _importing:
        for name in [n for n in sys.modules if n == "scripts" or n.startswith("scripts.")]:
            del sys.modules[name]
        sys.path.insert(0, str(folder))
        try:
            yield
        finally:
            sys.path.remove(str(folder))


class _Logits(nn.Module):
    """With the bundle's scripts at hand, and without the axes that a convolutional head keeps."""

    def __init__(self, network: nn.Module, folder: Path) -> None:
        super().__init__()
        self.network = network
        self._folder = folder

    def forward(self, images: Tensor) -> Any:
        with scripts_of(self._folder):
            output = self.network(images)
        single = isinstance(output, Tensor) and output.ndim > 2 and output.shape[2:].numel() == 1
        return output.flatten(1) if single else output


def _dataset(configuration: BundleConfiguration, top: Path) -> Dataset:
    """The bundle's own, made anew: a CacheDataset dies of its first damaged image."""
    # An absolute path cannot begin with "$", which a configuration would run as code.
    for name in set(_FOLDER_IDS) & set(configuration.raw):
        configuration.parser[name] = str(top)
    own = "transform" in configuration.raw.get("dataset", {})
    transform = configuration.content("dataset#transform" if own else "preprocessing")
    return Dataset(_entries(configuration, top), transform)


def _entries(configuration: BundleConfiguration, top: Path) -> Sequence[Any]:
    """The bundle's own list where it is one of this folder, else every image below the folder."""
    key = configuration.image_key
    try:
        entries = configuration.content("dataset#data")
        paths = [_path(entry, key) for entry in entries]
        outside = [path for path in paths if path and top not in (Path(path), *Path(path).parents)]
        if paths and not outside:
            return entries
        problem = f"it names {outside[0]}" if outside else "it is empty"
    except Exception as error:  # the code of the bundle's author raises what it likes
        problem = reason(error)
    name = configuration.folder.name
    logger.warning("every image below %s is taken, not the list of %s: %s", top, name, problem)
    try:
        return [{key: entry["image"]} for entry in find_images(top)]
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"expected images below {str(top)!r}, got none; name the folder that holds them"
        ) from error


def _spread(total: int, limit: int | None) -> list[int]:
    """One position of each of ``limit`` equal blocks of a list, drawn.

    A list may repeat its classes with a period: a fixed step would meet one of them alone.
    """
    if limit is None or limit >= total:
        return list(range(total))
    draws = torch.rand(limit, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    edges = [block * total // limit for block in range(limit + 1)]
    blocks = zip(edges, edges[1:], draws.tolist(), strict=False)
    return [start + int(draw * (end - start)) for start, end, draw in blocks]


def _readable(
    dataset: Dataset, positions: Sequence[int], key: str
) -> Iterator[tuple[str, Tensor, int | None]]:
    """Path, image and label of what can be read and shares the first one's shape, one by one."""
    shape: torch.Size | None = None
    for position in positions:
        path = _path(dataset.data[position], key) or f"image {position} of the data set"
        try:
            item = dataset[position]
            image = torch.as_tensor(item[key]).as_subclass(Tensor).detach().cpu().float()
            if image.shape != (shape or image.shape) or not bool(torch.isfinite(image).all()):
                raise ValueError(
                    f"expected finite values and the first image's shape {tuple(shape or ())}, "
                    f"got {tuple(image.shape)}, or NaN or infinity; mend file or preprocessing"
                )
        except Exception as error:  # readers and transforms raise what they like
            logger.error("%s is left out: %s", path, reason(error))
        else:
            shape = image.shape
            yield path, image, _class_number(item.get("label"))


def _labels(
    paths: Sequence[str], given: Sequence[int | None], top: Path, classes: list[str]
) -> Tensor | None:
    """Class numbers (N,), or None where there are none for all images."""
    numbers = [number for number in given if number is not None]
    if len(numbers) < len(paths):
        table = (top if top.is_dir() else top.parent) / "labels.csv"
        numbers = _from_table(table, paths) if table.is_file() else []
    numbers = numbers or _from_folders(paths, top, classes)
    return torch.tensor(numbers) if numbers else None


def _from_table(table: Path, paths: Sequence[str]) -> list[int]:
    with table.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    files = [str(table.parent / (row.get("path") or row.get("file") or "")) for row in rows]
    known = {os.path.abspath(f): row.get("label") or "" for f, row in zip(files, rows, strict=True)}
    bad = [path for path in paths if not known.get(path, "").isdecimal()]
    if bad:
        logger.warning(
            "no labels: expected in %s the columns path or file, and label with the number of the "
            "class, got %r for %s; add what is missing",
            *(table, known.get(bad[0]), bad[0]),
        )
    return [] if bad else [int(known[path]) for path in paths]


def _from_folders(paths: Sequence[str], top: Path, classes: list[str]) -> list[int]:
    """Numbers of the classes whose names the folders below ``top`` bear; [] if one does not."""
    folders = [_relative(path, top).partition("/")[0] for path in paths]
    # One output alone has the outcomes yes and no: its name is no number.
    named = len(classes) > 1 and set(folders) <= set(classes)
    return [classes.index(folder) for folder in folders] if named else []


def _class_number(value: Any) -> int | None:
    """An integer scalar, as number, array or tensor; None for all else, a mask for example."""
    with suppress(ValueError, RuntimeError):  # of more than one element
        value = value.item() if hasattr(value, "item") else value
    return value if type(value) is int else None


def _path(entry: Any, key: str) -> str:
    """The image's file in an entry of a data list; empty when it is none."""
    value = entry.get(key) if isinstance(entry, Mapping) else entry
    value = value[0] if isinstance(value, list | tuple) and value else value
    return os.path.abspath(value) if isinstance(value, str | os.PathLike) else ""


def _relative(path: str, top: Path) -> str:
    return Path(path).relative_to(top).as_posix() if top in Path(path).parents else path


def _first_file(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(
        f"expected {' or '.join(names)} in {folder}, got neither; put a whole bundle there"
        if len(names) > 1
        else f"expected {names[0]} in {folder}, got none; put a whole bundle there"
    )


def _likelihood(config: Any) -> str:
    """Bernoulli where the bundle's own postprocessing takes a sigmoid."""

    def sigmoid(part: Any) -> bool:
        if isinstance(part, dict):
            return part.get("sigmoid") is True or any(sigmoid(p) for p in part.values())
        return isinstance(part, list) and any(sigmoid(p) for p in part)

    found = sigmoid(config.get("postprocessing")) or sigmoid(config.get("post_transforms"))
    return "bernoulli" if found else "categorical"
