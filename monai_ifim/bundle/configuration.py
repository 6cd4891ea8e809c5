"""The parts of a bundle that say how its network sees an image."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from monai_ifim.bundle.metadata import image_input, read_metadata
from monai_ifim.core.gradients.quiet import quiet
from monai_ifim.data.tensors import load_tensors

_importing = threading.RLock()


class BundleConfiguration:
    """The parts of a bundle that say how its network sees an image.

    Of ``configs/inference.json`` or ``.yaml`` these ids count: ``network_def``, ``preprocessing``,
    ``inferer``, ``dataset``, ``postprocessing``; besides, ``configs/metadata.json``, the weights in
    ``models/model.pt`` (a state dictionary) or ``models/model.ts`` (TorchScript), and the bundle's
    own package ``scripts``. Evaluator and handlers are not run.

    Args:
        folder: of the bundle, as an absolute path.

    Attributes:
        weights: their file.
        metadata: content of ``metadata.json``.
        raw: the configuration as it is written.
        image_key: name of the network's first input.
        image_shape: its spatial shape in the metadata, or None.
        likelihood: name of the family: ``bernoulli`` where the bundle's own postprocessing takes a
            sigmoid, else ``categorical``.

    Raises:
        ValueError: the folder is not such a bundle.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = _first_file(folder / "configs", ("inference.json", "inference.yaml"))
        self.weights = _first_file(folder / "models", ("model.pt", "model.ts"))
        self.metadata = read_metadata(_first_file(folder / "configs", ("metadata.json",)))
        self.raw: dict[str, Any] = ConfigParser.load_config_file(str(self._file))
        for name in ("network_def", "preprocessing"):
            if name not in self.raw:
                raise ValueError(
                    f"expected the id {name} in {self._file}, got none; the bundles of the "
                    "model zoo have it"
                )
        self.image_key, self.image_shape = image_input(self.metadata)
        self.likelihood = _likelihood(self.raw)

    @cached_property
    def parser(self) -> ConfigParser:
        """The parser; set ids here before anything that depends on them is made."""
        parser = ConfigParser()
        parser.read_config(str(self._file))
        parser["bundle_root"] = str(self.folder)
        return parser

    def content(self, name: str) -> Any:
        """The object that an id of the configuration stands for.

        Args:
            name: the id, ``dataset#transform`` for example.

        Returns:
            The object; the same one at every call. Errors are those of the configuration.
        """
        with scripts_of(self.folder):
            return self.parser.get_parsed_content(name)

    def inferer(self) -> Any:
        """The bundle's inferer, or None where it has none."""
        return self.content("inferer") if self.parser.get("inferer") else None

    def network(self, device: str) -> nn.Module:
        """The network with its weights, in eval mode.

        Args:
            device: where to put it.

        Returns:
            The network; errors are those of its making, or say which weights do not fit.

        Raises:
            ValueError: the file of weights is none.
        """
        if self.weights.suffix == ".ts":
            with quiet():
                return torch.jit.load(str(self.weights), map_location=device).eval()
        network = self.content("network_def")
        state = load_tensors(self.weights)
        if not isinstance(state, Mapping):
            raise ValueError(
                f"expected a state dictionary in {self.weights}, got a {type(state).__name__}; "
                "save network.state_dict()"
            )
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


@contextmanager
def scripts_of(folder: Path) -> Iterator[None]:
    """Make a bundle's own package ``scripts`` importable, and no other bundle's.

    Args:
        folder: of the bundle; nothing happens where it has no ``scripts``.
    """
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


def _first_file(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(
        f"expected {' or '.join(names)} in the folder {folder}, got neither; put a whole bundle "
        "there"
        if len(names) > 1
        else f"expected {names[0]} in the folder {folder}, got none; put a whole bundle there"
    )


def _likelihood(config: dict[str, Any]) -> str:
    """Name of the family: Bernoulli where the bundle's own postprocessing takes a sigmoid."""

    def sigmoid(part: Any) -> bool:
        if isinstance(part, dict):
            return part.get("sigmoid") is True or any(sigmoid(p) for p in part.values())
        return isinstance(part, list) and any(sigmoid(p) for p in part)

    found = sigmoid(config.get("postprocessing")) or sigmoid(config.get("post_transforms"))
    return "bernoulli" if found else "categorical"
