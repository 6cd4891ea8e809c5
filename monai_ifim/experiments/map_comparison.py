"""The iFIM sensitivity map beside attribution maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_ifim.experiments.attributions import attribution_maps
from monai_ifim.experiments.changes import ranked
from monai_ifim.experiments.maps import deletion_curve, map_angle, rank_correlation, share_inside
from monai_ifim.experiments.statistics import mean_interval
from monai_ifim.experiments.trained_classifier import TrainedClassifier, batches

SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


def measure_maps(
    classifier: TrainedClassifier, images: Tensor, seed: int
) -> dict[str, dict[str, Tensor]]:
    """How maps agree with the sensitivity map, and what deleting by them does.

    Args:
        classifier: the network.
        images: (N, C, *S).
        seed: of SmoothGrad's noise.

    Returns:
        For ``ifim`` and each attribution method, per image: ``deletion`` and ``insertion`` (N,)
        areas, ``deletion_curve`` and ``insertion_curve`` (N, E), and, for attributions,
        ``rank_correlation``, ``angle`` (degrees) with the sensitivity map and ``inside``, the
        share of the signed map's energy in the eigenspace.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, dict[str, list[Tensor]]] = {}
    for batch in batches(images):
        space = classifier.eigenspace(batch)
        sensitivity = space.sensitivity()
        # Far below float32's range for a sure prediction; a map's scale means nothing here.
        top = sensitivity.flatten(1).amax(dim=1).reshape(-1, *[1] * (batch.ndim - 1))
        # The root, because attributions are gradients and not their squares.
        sensitivity = (sensitivity / torch.where(top > 0, top, 1)).sqrt().to(batch.dtype)
        maps = attribution_maps(
            classifier.network, batch, generator, likelihood=classifier.likelihood
        )
        for name, given in {"ifim": sensitivity, **maps}.items():
            attribution = ranked(given, generator)
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
