"""The classifier of a bundle: images to logits, as the bundle's inference calls its network."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monai_ifim.bundle.configuration import BundleConfiguration, scripts_of
from monai_ifim.core import as_likelihood
from monai_ifim.core.gradients.logits import choose_logits
from monai_ifim.inferers import IFIMInferer
from monai_ifim.messages import reason


@dataclass(frozen=True)
class BundleClassifier:
    """The classifier of a bundle.

    Attributes:
        network: logits (B, K) of images (B, C, *S), as the bundle's inferer calls its network;
            weights loaded, in eval mode.
        likelihood: name of its family, ``categorical`` or ``bernoulli``.
        name: of the bundle's folder.
        digest: SHA-256 of weights, configurations and scripts, to recognise a result.
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
        folder: of the bundle; ``BundleConfiguration`` lists the files and ids that are read.
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
            network = bundle_network(configuration, device)
    except Exception as error:  # the code of the bundle's author raises what it likes
        raise ValueError(
            f"expected the folder of a classification bundle, got {str(root)!r}: {reason(error)}"
        ) from error
    return BundleClassifier(
        network, likelihood or configuration.likelihood, root.name, configuration.digest()
    )


def bundle_network(configuration: BundleConfiguration, device: str) -> nn.Module:
    """Images to logits, with the bundle's weights and as the bundle's inferer calls its network.

    Args:
        configuration: of the bundle.
        device: where to put the network.

    Returns:
        (B, C, *S) to logits as ``choose_logits`` gives them, in eval mode; each forward finds the
        bundle's own package ``scripts``. Errors are those of the configuration and the weights.
    """
    network = configuration.network(device)
    inferer = configuration.inferer()
    # An IFIMInferer would keep the graph of every call for a handler that is not there.
    inferer = inferer.inferer if isinstance(inferer, IFIMInferer) else inferer
    called = network if inferer is None else Inferred(network, inferer)
    return _Logits(called, configuration.folder).eval()


class Inferred(nn.Module):
    """A network as an inferer calls it.

    Args:
        network: the network.
        inferer: one of MONAI's; called as ``inferer(images, network)``.
    """

    def __init__(self, network: nn.Module, inferer: Any) -> None:
        super().__init__()
        self.network = network
        self.inferer = inferer

    def forward(self, images: Tensor) -> Any:
        """What the inferer returns for images (B, C, *S)."""
        return self.inferer(images, self.network)


class _Logits(nn.Module):
    """Logits of a network whose forward may import from the bundle's scripts."""

    def __init__(self, network: nn.Module, folder: Path) -> None:
        super().__init__()
        self.network = network
        self._folder = folder

    def forward(self, images: Tensor) -> Any:
        with scripts_of(self._folder):
            return choose_logits(self.network(images))
