"""Controls: changes that must move an eigenspace, and changes that must not."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from monai_ifim.core import Eigenspace
from monai_ifim.core.angles import principal_angles
from monai_ifim.experiments.measures.directions import change_directions
from monai_ifim.experiments.measures.law import in_float64
from monai_ifim.experiments.measures.subject import Subject
from monai_ifim.experiments.networks.trained_classifier import (
    TrainedClassifier,
    batches,
    largest_angles,
)
from monai_ifim.experiments.networks.training import estimate_statistics
from monai_ifim.experiments.statistics import interval, median_value

_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_RELATIVE_NORMS = (0.01, 0.03, 0.1, 0.3)


def controls(subject: Subject) -> dict[str, Any]:
    """Controls that need no other training.

    Args:
        subject: what to measure; ``control_images`` of its images are used.

    Returns:
        ``layers``, ``recomputed`` and ``float64``, each None when no images are asked for.
    """
    if not subject.amounts.control_images:
        return {"layers": None, "recomputed": None, "float64": None}
    images, _ = subject.first(subject.amounts.control_images)
    classifier, norm, seed = subject.classifier, subject.image_norm, subject.seed

    def compute() -> dict[str, Any]:
        spaces = classifier.eigenspaces(images)
        return {
            "layers": layer_control(classifier, images, spaces, seed),
            "recomputed": change_control(classifier, images, spaces, norm, seed),
            "float64": precision_control(classifier, images, spaces),
        }

    found: dict[str, Any] = subject.step("controls", [len(images), norm], compute, version=3)
    return found


def randomised(network: nn.Module, layers: int, seed: int) -> tuple[nn.Module, float]:
    """A copy whose last layers have fresh random weights.

    Args:
        network: left as it is.
        layers: how many layers with weights, counted from the output.
        seed: of the new weights; the global random state is kept.

    Returns:
        The copy, and the share of all parameters that are new.

    Source: J. Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018 (cascading
    randomisation).
    """
    copied = copy.deepcopy(network)
    chosen = weighted_layers(copied)[::-1][:layers]
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for layer in chosen:
            layer.reset_parameters()  # type: ignore[operator]
    new = sum(p.numel() for layer in chosen for p in layer.parameters(recurse=False))
    return copied, new / sum(p.numel() for p in copied.parameters())


def weighted_layers(network: nn.Module) -> list[nn.Module]:
    """Layers that hold weights and know how to draw them anew, in the order of registration."""
    return [
        module
        for module in network.modules()
        if hasattr(module, "reset_parameters") and any(True for _ in module.parameters(False))
    ]


def layer_control(
    classifier: TrainedClassifier, images: Tensor, spaces: list[Eigenspace], seed: int
) -> list[dict[str, Any]]:
    """Angles to the eigenspaces of networks randomised from the output downwards.

    Args:
        classifier: the trained network.
        images: (N, C, *S).
        spaces: its eigenspaces of them.
        seed: of the random weights.

    Returns:
        One entry for each depth: ``layers``, ``share`` of the parameters, ``angle`` in degrees.
        Batch statistics are estimated anew, on these images. None for a scripted network.
    """
    count = len(weighted_layers(classifier.network))
    if not count:  # TorchScript: its layers cannot draw weights
        return []
    # One image alone has no statistics where a network ends in a single voxel.
    several = [batch for batch in batches(images) if len(batch) > 1] or list(batches(images))
    rows = []
    for depth in sorted({max(1, round(share * count)) for share in _SHARES}):
        network, share = randomised(classifier.network, depth, seed)
        estimate_statistics(network, several)
        other = TrainedClassifier(classifier.name, network, classifier.likelihood, "")
        angles = largest_angles(spaces, other.eigenspaces(images))
        rows.append(
            {"layers": depth, "share": share, "angle": interval(median_value, angles).as_dict()}
        )
    return rows


def change_control(
    classifier: TrainedClassifier,
    images: Tensor,
    spaces: list[Eigenspace],
    image_norm: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Angles to the eigenspaces of changed images: how soon the components turn.

    Args:
        classifier: the network.
        images: (N, C, *S).
        spaces: their eigenspaces.
        image_norm: norms of the changes are shares of it.
        seed: of the random directions.

    Returns:
        One entry for each norm and direction (``leading``, ``random_in_complement``); empty where
        an image has no eigenpair.
    """
    if any(bool((space.rank == 0).any()) for space in spaces):
        return []
    generator = torch.Generator().manual_seed(seed)
    units = [
        change_directions(space, batch, generator)
        for space, batch in zip(spaces, batches(images), strict=True)
    ]
    rows = []
    for name in ("leading", "random_in_complement"):
        unit = torch.cat([directions[name] for directions in units])
        for share in _RELATIVE_NORMS:
            changed = classifier.eigenspaces(images + share * image_norm * unit)
            angle = interval(median_value, largest_angles(spaces, changed)).as_dict()
            rows.append({"relative_norm": share, "direction": name, "angle": angle})
    return rows


def precision_control(
    classifier: TrainedClassifier, images: Tensor, spaces: list[Eigenspace]
) -> dict[str, float]:
    """The same sample in float64.

    Args:
        classifier: the network, in float32.
        images: (N, C, *S).
        spaces: their eigenspaces.

    Returns:
        Medians over images: relative difference of the largest ``eigenvalue``, and ``angle``
        between the leading eigenvectors in degrees. A ReLU on its kink can make one image differ
        by tenths of a percent.
    """
    precise = in_float64(classifier)
    errors, angles = [], []
    for space, batch in zip(spaces, batches(images), strict=True):
        exact = precise.eigenspace(batch.double())
        found, expected = space.eigenvalues[:, 0], exact.eigenvalues[:, 0]
        errors.append((found - expected).abs() / torch.where(expected > 0, expected, 1))
        a, b = space.eigenvectors[:, 0].double(), exact.eigenvectors[:, 0]
        sine = (b - a * (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))).flatten(1)
        angles.append(sine.norm(dim=1).clamp_max(1).asin().rad2deg())
    return {
        "eigenvalue": float(torch.cat(errors).median()),
        "angle": float(torch.cat(angles).median()),
    }


def chance_angle(spaces: list[Eigenspace], seed: int) -> float:
    """Median largest angle, in degrees, to random spaces of the same size.

    Args:
        spaces: of batches of images.
        seed: of the random spaces.

    Returns:
        The median over images.
    """
    generator = torch.Generator().manual_seed(seed)
    angles = []
    for space in spaces:
        rank = int(space.rank.min())
        if rank:
            vectors = space.eigenvectors[:, :rank]
            other = torch.randn(vectors.shape, generator=generator)
            angles.append(principal_angles(vectors, other)[:, -1].rad2deg())
    return float(torch.cat(angles).median()) if angles else 90.0
