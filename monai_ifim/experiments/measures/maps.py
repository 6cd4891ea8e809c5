"""The iFIM sensitivity map beside attribution maps."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monai_ifim.experiments.maps.attributions import METHODS, attribution_maps, grad_cam_layer
from monai_ifim.experiments.maps.similarity import (
    deletion_curve,
    map_angle,
    rank_correlation,
    share_inside,
)
from monai_ifim.experiments.networks.trained_classifier import (
    TrainedClassifier,
    batch_size,
    batches,
)
from monai_ifim.experiments.statistics.intervals import mean_interval

logger = logging.getLogger(__name__)
SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


def measure_attributions(
    classifier: TrainedClassifier, images: Tensor, seed: int
) -> dict[str, Tensor]:
    """Attribution maps of many images: 16 steps for an integral, 8 samples, windows of a fifth.

    Args:
        classifier: the network.
        images: (N, C, *S).
        seed: of SmoothGrad's noise, and of the order of pixels where a map has none.

    Returns:
        (N, C, *S) by method, see ``attribution_maps``; without Grad-CAM, and a line in the log,
        where the network has no layer for it.
    """
    generator = torch.Generator().manual_seed(seed)
    methods = list(METHODS)
    try:
        grad_cam_layer(classifier.network, images[:1])
    except ValueError as error:  # TorchScript, or no feature map: measured without
        logger.warning("%s: no Grad-CAM: %s", classifier.name, error)
        methods.remove("grad_cam")
    maps = attribution_maps(
        classifier.network,
        images,
        generator,
        likelihood=classifier.likelihood,
        methods=methods,
        steps=16,
        samples=8,
        window=[max(2, size // 5) for size in images.shape[2:]],
    )
    return {name: ranked(attribution, generator) for name, attribution in maps.items()}


def ranked(attribution: Tensor, generator: torch.Generator) -> Tensor:
    """The map, with random numbers for an image where it prefers no pixel to another.

    Where a network is locally constant (a dead Grad-CAM layer) any choice of pixels is as good.

    Args:
        attribution: (B, C, *S).
        generator: of the random numbers.

    Returns:
        (B, C, *S).
    """
    sizes = attribution.abs().flatten(1)
    constant = sizes.amax(dim=1) == sizes.amin(dim=1)
    if not bool(constant.any()):
        return attribution
    random = torch.rand(attribution.shape, generator=generator, dtype=attribution.dtype)
    return torch.where(constant.reshape(-1, *[1] * (attribution.ndim - 1)), random, attribution)


def measure_maps(
    classifier: TrainedClassifier, images: Tensor, attributions: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """How maps agree with the sensitivity map, and what deleting by them does.

    Args:
        classifier: the network.
        images: (N, C, *S).
        attributions: their maps by method, from ``measure_attributions``.

    Returns:
        For ``ifim`` and each attribution method, per image: ``deletion`` and ``insertion`` (N,)
        areas, ``deletion_curve`` and ``insertion_curve`` (N, E), and, for attributions,
        ``rank_correlation``, ``angle`` (degrees) with the sensitivity map and ``inside``, the
        share of the signed map's energy in the eigenspace.
    """
    parts: dict[str, dict[str, list[Tensor]]] = {}
    for start, batch in enumerate(batches(images)):
        first = start * batch_size(images)
        space = classifier.eigenspace(batch)
        sensitivity = space.sensitivity()
        # Far below float32's range for a sure prediction; a map's scale means nothing here.
        top = sensitivity.flatten(1).amax(dim=1).reshape(-1, *[1] * (batch.ndim - 1))
        # The root, because attributions are gradients and not their squares.
        sensitivity = (sensitivity / torch.where(top > 0, top, 1)).sqrt().to(batch.dtype)
        # No eigenpair, no preference: pixels in any order.
        sensitivity = ranked(sensitivity, torch.Generator().manual_seed(start))
        maps = {name: value[first : first + len(batch)] for name, value in attributions.items()}
        for name, attribution in {"ifim": sensitivity, **maps}.items():
            found: dict[str, Tensor] = {}
            for insertion, key in ((False, "deletion"), (True, "insertion")):
                curve = deletion_curve(
                    classifier.network,
                    batch,
                    attribution,
                    SHARES,
                    likelihood=classifier.likelihood,
                    insertion=insertion,
                )
                found[key], found[f"{key}_curve"] = curve.area, curve.probability
            if name != "ifim":
                found["rank_correlation"] = rank_correlation(attribution, sensitivity)
                found["angle"] = map_angle(attribution, sensitivity).rad2deg()
                found["inside"] = share_inside(space, attribution)
            for key, value in found.items():
                parts.setdefault(name, {}).setdefault(key, []).append(value)
    return {
        name: {key: torch.cat(values) for key, values in found.items()}
        for name, found in parts.items()
    }


def maps_summary(raw: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
    """Means over images with 95 % intervals.

    Args:
        raw: from ``measure_maps``.

    Returns:
        Numbers ready for JSON.
    """
    methods = {}
    for name, found in raw.items():
        row: dict[str, Any] = {
            key: mean_interval(found[key]).as_dict() if key in found else None
            for key in ("rank_correlation", "angle", "inside", "deletion", "insertion")
        }
        for key in ("deletion_curve", "insertion_curve"):
            row[key] = found[key].mean(dim=0).tolist()
        methods[name] = row
    return {"images": len(raw["ifim"]["deletion"]), "shares": list(SHARES), "methods": methods}
