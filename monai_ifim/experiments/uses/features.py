"""Features before the last linear layer, and how far an image lies from those of training."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor, nn

from monai_ifim.core import at_rest
from monai_ifim.experiments.networks.trained_classifier import batches


def last_linear(network: nn.Module, images: Tensor) -> nn.Linear:
    """The linear layer that is used last.

    Args:
        network: the classifier; left as it was.
        images: (B, C, *S); the first one is passed through the network.

    Returns:
        The layer.

    Raises:
        ValueError: there is none.
    """
    used: list[nn.Linear] = []
    with at_rest(network, images.device), torch.no_grad(), ExitStack() as hooks:
        for module in network.modules():
            if isinstance(module, nn.Linear):
                remember = module.register_forward_pre_hook(lambda m, _: used.append(m))
                hooks.callback(remember.remove)
        network(images[:1].clone())
    if not used:
        raise ValueError(
            f"expected a network with an nn.Linear, got none in {type(network).__name__}; leave "
            "the measure out (used_images: 0)"
        )
    return used[-1]


def features_of(network: nn.Module, images: Tensor) -> Tensor:
    """What the last linear layer gets.

    Args:
        network: the classifier; left as it was.
        images: (n, C, *S).

    Returns:
        (n, H) in float64.

    Raises:
        ValueError: a network without a linear layer.
    """
    parts: list[Tensor] = []

    def keep(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        parts.append(inputs[0].flatten(1).double())

    layer = last_linear(network, images)
    with at_rest(network, images.device), torch.no_grad(), ExitStack() as hooks:
        hooks.callback(layer.register_forward_pre_hook(keep).remove)
        for batch in batches(images):
            network(batch.clone())
    return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class ClassGaussians:
    """Gaussians of the classes with one covariance.

    Attributes:
        means: (K, H) in float64.
        root: R of the inverse covariance R Rᵀ, (H, H) in float64.

    Source: K. Lee, K. Lee, H. Lee and J. Shin, "A simple unified framework for detecting
    out-of-distribution samples and adversarial attacks", NeurIPS 2018, without its perturbation.
    """

    means: Tensor
    root: Tensor

    def distances(self, features: Tensor) -> Tensor:
        """Mahalanobis distance to the nearest class mean.

        Args:
            features: (n, H) in float64.

        Returns:
            (n,) in float64.
        """
        return torch.cdist(
            features @ self.root,
            self.means @ self.root,
            compute_mode="donot_use_mm_for_euclid_dist",
        ).amin(dim=1)


def class_gaussians(features: Tensor, labels: Tensor) -> ClassGaussians:
    """Class means, and the covariance about them, shrunk as Ledoit and Wolf do.

    Args:
        features: (n, H) in float64.
        labels: (n,), the class of each.

    Returns:
        The Gaussians.
    """
    classes, members = labels.unique(return_inverse=True)
    means = torch.stack([features[members == k].mean(dim=0) for k in range(len(classes))])
    residuals = (features - means[members]).numpy()
    covariance = LedoitWolf(store_precision=False, assume_centered=True).fit(residuals).covariance_
    # Features that never vary leave a covariance without a scale.
    values, vectors = torch.linalg.eigh(torch.from_numpy(covariance))
    smallest = max(1e-12 * float(values[-1]), 1e-30)
    return ClassGaussians(means, vectors / values.clamp_min(smallest).sqrt())
