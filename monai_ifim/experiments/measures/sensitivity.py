"""The iFIM sensitivity map beside attribution maps, by our own measures and by those of Quantus."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from monai_ifim.attributions import quantus_explain
from monai_ifim.core import Categorical, Eigenspace, pooled_eigenspace
from monai_ifim.experiments.maps.attributions import attribution_maps
from monai_ifim.experiments.maps.deletion import deletion_curve
from monai_ifim.experiments.maps.explainers import Explain, explainer
from monai_ifim.experiments.maps.features import grad_cam_layer
from monai_ifim.experiments.maps.methods import (
    AttributionMethod,
    GradCam,
    Gradient,
    IntegratedGradients,
    Occlusion,
    SmoothedGradient,
)
from monai_ifim.experiments.maps.pictures import map_pictures
from monai_ifim.experiments.maps.quantus import (
    edge_map,
    measure_quantus,
    quantus_summary,
    random_map,
)
from monai_ifim.experiments.maps.similarity import map_angle, rank_correlation, share_inside
from monai_ifim.experiments.measures.subject import Subject
from monai_ifim.experiments.networks.trained_classifier import (
    TrainedClassifier,
    batch_size,
    batches,
)
from monai_ifim.experiments.pictures import is_small, plane
from monai_ifim.experiments.statistics import average, interval
from monai_ifim.experiments.tasks.labelled import balanced_indices

logger = logging.getLogger(__name__)
_POOLED = 200  # images of the pooled eigenspace
_SHOWN = 2  # images whose maps are kept as pictures
_NOISE = 0.3  # of the smoothed map, as a share of the images' standard deviation
SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


def maps(subject: Subject) -> dict[str, Any]:
    """How attribution maps agree with the sensitivity map, and what deleting by each does.

    Args:
        subject: what to measure; ``map_images`` of its images are used.

    Returns:
        Numbers ready for JSON.
    """
    images, labels = subject.first(subject.attributed_images)
    count = subject.amounts.map_images
    some = torch.arange(len(images))[:count] if labels is None else balanced_indices(labels, count)
    chosen = {name: value[some] for name, value in attributions(subject).items()}
    raw = subject.step(
        "maps",
        [some.tolist(), subject.own_methods] if subject.methods else some.tolist(),
        lambda: measure_maps(subject.classifier, images[some], chosen),
    )
    return {**maps_summary(raw), "pictures": _pictures(subject)}


def _pictures(subject: Subject) -> dict[str, Any] | None:
    """Maps of a few images to look at; None of several labels, and of large images."""
    images, _ = subject.first(_SHOWN)
    if subject.classifier.family != Categorical() or not is_small(plane(images[0])):
        return None
    others, _ = subject.first(_POOLED)
    found: dict[str, Any] = subject.step(
        "map pictures and classes",
        [len(images), len(others), subject.own_methods],
        lambda: map_pictures(
            subject.classifier.network, images, explainers(subject, images, others)
        ),
    )
    return found


def attributions(subject: Subject) -> dict[str, Tensor]:
    """Attribution maps of the images of the curves and of the maps.

    Args:
        subject: what to measure.

    Returns:
        (N, C, *S) by name of the method, for ``subject.attributed_images`` images.
    """
    images, _ = subject.first(subject.attributed_images)
    found: dict[str, Tensor] = subject.step(
        "attributions",
        [len(images), subject.own_methods] if subject.methods else len(images),
        lambda: measure_attributions(subject.classifier, images, subject.seed, subject.methods),
    )
    return found


def measure_attributions(
    classifier: TrainedClassifier,
    images: Tensor,
    seed: int,
    own: Sequence[AttributionMethod] = (),
) -> dict[str, Tensor]:
    """Attribution maps of many images: 16 steps for an integral, 8 samples, windows of a fifth.

    Args:
        classifier: the network.
        images: (N, C, *S).
        seed: of SmoothGrad's noise, and of the order of pixels where a map has none.
        own: further methods.

    Returns:
        (N, C, *S) by name of the method; without Grad-CAM, and a line in the log, where the
        network has no layer for it.
    """
    generator = torch.Generator().manual_seed(seed)
    found = attribution_maps(
        classifier.network,
        images,
        generator,
        likelihood=classifier.family,
        methods=[*established_methods(classifier, images), *own],
    )
    return {name: ranked(attribution, generator) for name, attribution in found.items()}


def established_methods(classifier: TrainedClassifier, images: Tensor) -> list[AttributionMethod]:
    """Gradient, integrated gradients, SmoothGrad, Grad-CAM and occlusion.

    Args:
        classifier: the network.
        images: (N, C, *S).

    Returns:
        The methods with the options of the experiments; without Grad-CAM, and a line in the log,
        where the network has no layer for it.
    """
    window = tuple(max(2, size // 5) for size in images.shape[2:])
    methods = [Gradient(), IntegratedGradients(steps=16), SmoothedGradient(samples=8)]
    try:
        grad_cam_layer(classifier.network, images[:1])
        methods.append(GradCam())  # of a copy of the network it has to find the layer anew
    except ValueError as error:  # TorchScript, or no feature map: measured without
        logger.warning("%s: no Grad-CAM: %s", classifier.name, error)
    return [*methods, Occlusion(window)]


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
        # No eigenpair, no preference: pixels in any order.
        sensitivity = ranked(
            _relative(space.sensitivity()).to(batch.dtype), torch.Generator().manual_seed(start)
        )
        found = {"ifim": _deleted(classifier, batch, sensitivity)}
        for name, value in attributions.items():
            attribution = value[first : first + len(batch)]
            found[name] = {
                **_deleted(classifier, batch, attribution),
                **_compared(space, attribution, sensitivity),
            }
        for name, values in found.items():
            for key, value in values.items():
                parts.setdefault(name, {}).setdefault(key, []).append(value)
    return {
        name: {key: torch.cat(values) for key, values in found.items()}
        for name, found in parts.items()
    }


def _relative(sensitivity: Tensor) -> Tensor:
    """Root of the sensitivity by its largest value in each image, (B, C, *S) in float64."""
    # Far below float32's range for a sure prediction; a map's scale means nothing here.
    top = sensitivity.flatten(1).amax(dim=1).reshape(-1, *[1] * (sensitivity.ndim - 1))
    # The root, because attributions are gradients and not their squares.
    return (sensitivity / torch.where(top > 0, top, 1)).sqrt()


def _deleted(
    classifier: TrainedClassifier, images: Tensor, attribution: Tensor
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for insertion, key in ((False, "deletion"), (True, "insertion")):
        curve = deletion_curve(
            classifier.network,
            images,
            attribution,
            SHARES,
            likelihood=classifier.family,
            insertion=insertion,
        )
        found[key], found[f"{key}_curve"] = curve.area, curve.probability
    return found


def _compared(space: Eigenspace, attribution: Tensor, sensitivity: Tensor) -> dict[str, Tensor]:
    return {
        "rank_correlation": rank_correlation(attribution, sensitivity),
        "angle": map_angle(attribution, sensitivity).rad2deg(),
        "inside": share_inside(space, attribution),
    }


def maps_summary(raw: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
    """Means over images with 95 % intervals.

    Args:
        raw: from ``measure_maps``.

    Returns:
        Numbers ready for JSON. ``deletion_advantage`` and ``insertion_advantage``: by how much the
        sensitivity map's area is better than the method's at the same image.
    """
    methods, own = {}, raw["ifim"]
    for name, found in raw.items():
        row: dict[str, Any] = {
            key: interval(average, found[key]).as_dict() if key in found else None
            for key in ("rank_correlation", "angle", "inside", "deletion", "insertion")
        }
        for key in ("deletion_curve", "insertion_curve"):
            row[key] = found[key].mean(dim=0).tolist()
        if name != "ifim":
            for key, sign in (("deletion", -1), ("insertion", 1)):
                gain = sign * (own[key] - found[key])
                row[f"{key}_advantage"] = interval(average, gain).as_dict()
        methods[name] = row
    return {"images": len(raw["ifim"]["deletion"]), "shares": list(SHARES), "methods": methods}


def quantus(subject: Subject) -> dict[str, Any]:
    """Faithfulness, robustness, randomisation and complexity of maps, by Quantus.

    Args:
        subject: what to measure; ``quantus_images`` of its images are used.

    Returns:
        Numbers ready for JSON; under ``missing`` why there are none.
    """
    images, _ = subject.first(subject.amounts.quantus_images)
    why = _missing(subject.classifier, images)
    if why:
        return {"missing": why}
    others, _ = subject.first(_POOLED)
    raw = subject.step(
        "quantus",
        [len(images), len(others), subject.own_methods, import_module("quantus").__version__],
        lambda: measure_quantus(
            subject.classifier.network,
            images,
            explainers(subject, images, others),
            subject.seed,
        ),
    )
    return quantus_summary(raw, len(images))


def _missing(classifier: TrainedClassifier, images: Tensor) -> str:
    """Why Quantus cannot be asked; empty where it can."""
    try:
        import_module("quantus")
    except ImportError as error:
        return f"Quantus is not installed ({error}): pip install 'monai_ifim[quantus]'"
    if images.ndim != 4:
        return "Quantus takes pictures, not volumes"
    if classifier.family != Categorical():
        return "Quantus takes classifiers with a softmax"
    return ""


def explainers(subject: Subject, images: Tensor, others: Tensor) -> dict[str, Explain]:
    """What is compared: the sensitivity map, the established methods, one's own, and controls.

    Args:
        subject: what to measure.
        images: (N, C, *S), that are explained.
        others: images to pool.

    Returns:
        Functions in Quantus' form, by name.
    """
    network = subject.classifier.network
    noise = _NOISE * float(images.std())
    pooled = pooled_eigenspace(network, others.split(64))
    # Nameless, because Quantus randomises copies of the network on purpose: no warning of each.
    pooled = replace(pooled, about={k: v for k, v in pooled.about.items() if k != "network"})
    methods = [*established_methods(subject.classifier, images), *subject.methods]
    return {
        "ifim": quantus_explain,
        "ifim_smoothed": partial(quantus_explain, noise=noise),
        "ifim_pooled": partial(quantus_explain, space=pooled, rank=max(1, pooled.stable_rank)),
        **{method.name: explainer(method, subject.seed) for method in methods},
        "random_numbers": partial(random_map, seed=subject.seed),
        "edges": edge_map,
    }
