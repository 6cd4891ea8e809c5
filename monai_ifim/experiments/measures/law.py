"""How far the quadratic law reaches: KL(p(x) ‖ p(x + εv)) against ½ε²λ, in float64."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_ifim.core import Eigenspace
from monai_ifim.core.perturbation import perturbation_curve
from monai_ifim.experiments.measures.subject import Subject
from monai_ifim.experiments.networks.trained_classifier import (
    TrainedClassifier,
    batch_size,
    batches,
)
from monai_ifim.experiments.statistics import interval, median_value, spearman

# Change of the fastest contrast at which the law is checked: far above float64's rounding, far
# below where the curvature of a softmax counts.
_SMALL = 1e-5
_GRID = torch.logspace(-4, 0, 33, dtype=torch.float64)
_PERCENTILES = (5, 25, 50, 75, 95)


def law(subject: Subject) -> dict[str, Any]:
    """How far the quadratic law reaches for each image.

    Args:
        subject: what to measure; ``law_images`` of its images are used.

    Returns:
        Numbers ready for JSON.
    """
    images, labels = subject.first(subject.amounts.law_images)
    norm = subject.image_norm
    raw = subject.step(
        "law", [len(images), norm], lambda: measure_law(subject.classifier, images, labels, norm)
    )
    return law_summary(raw)


def in_float64(classifier: TrainedClassifier) -> TrainedClassifier:
    """The same classifier in double precision; the network itself is copied, not changed."""
    network = copy.deepcopy(classifier.network).double()
    return TrainedClassifier(classifier.name, network, classifier.likelihood, classifier.digest)


def measure_law(
    classifier: TrainedClassifier, images: Tensor, labels: Tensor | None, image_norm: float
) -> dict[str, Any]:
    """The law at small ε along every eigenvector, and where it is first 10 % off.

    Args:
        classifier: its network is run in float64.
        images: (N, C, *S).
        labels: (N,), where they are known.
        image_norm: the radius is looked for on a grid from 1e-4 to 1 of this norm.

    Returns:
        ``error`` (P,): relative difference of KL and ½ε²λ, one for each image and eigenpair;
        and for each image with an eigenpair ``radius``, ``largest_eigenvalue``, ``probability``
        (of the predicted outcome), ``correct`` (booleans, or None without labels).
    """
    precise = in_float64(classifier)
    rows: dict[str, list[Tensor]] = {}
    for start, batch in enumerate(batches(images)):
        first = start * batch_size(images)
        batch = batch.double()
        space = precise.eigenspace(batch)
        reacts = space.rank > 0
        found = {
            "radius": _radius(precise, batch, space, image_norm)[reacts],
            "largest_eigenvalue": space.eigenvalues[reacts, 0],
            "probability": precise.family.most_probable(space.logits)[1][reacts],
            "error": _errors(precise, batch, space),
        }
        if labels is not None:
            right = precise.family.predicted(space.logits) == labels[first : first + len(batch)]
            found["correct"] = right.reshape(len(batch), -1).all(dim=1)[reacts]
        for name, value in found.items():
            rows.setdefault(name, []).append(value)
    return {
        "image_norm": image_norm,
        "correct": None,
        **{name: torch.cat(values) for name, values in rows.items()},
    }


def _errors(precise: TrainedClassifier, images: Tensor, space: Eigenspace) -> Tensor:
    vectors = space.eigenvectors
    kept = space.eigenvalues > 0
    slopes = space.gradients.flatten(2).norm(dim=2).amax(dim=1)
    steps = _SMALL / torch.where(slopes > 0, slopes, 1)
    # A vector that was not kept is zero, which has no direction: the first one stands in.
    vectors = torch.where(
        kept.reshape(*kept.shape, *[1] * (images.ndim - 1)), vectors, vectors[:, :1]
    )
    usable = space.rank > 0
    if not bool(usable.any()):
        return torch.zeros(0, dtype=torch.float64)
    part = _of(space, usable)
    curve = perturbation_curve(
        precise.network,
        images[usable],
        vectors[usable],
        steps[usable, None],
        likelihood=precise.family,
        space=part,
    )
    expected = 0.5 * steps[usable, None].square() * space.eigenvalues[usable]
    error = (curve.divergence[:, :, 0] / torch.where(expected > 0, expected, 1) - 1).abs()
    return error[kept[usable]]


def _radius(
    precise: TrainedClassifier, images: Tensor, space: Eigenspace, image_norm: float
) -> Tensor:
    radius = torch.zeros(len(images), dtype=torch.float64)
    usable = space.rank > 0
    if bool(usable.any()):
        curve = perturbation_curve(
            precise.network,
            images[usable],
            space.eigenvectors[usable][:, :1],
            _GRID * image_norm,
            likelihood=precise.family,
            space=_of(space, usable),
        )
        radius[usable] = curve.quadratic_radius(0.1)[:, 0]
    return radius


def _of(space: Eigenspace, chosen: Tensor) -> Eigenspace:
    """The eigenspace of some of its images."""
    weights = space.contrast_weights
    return Eigenspace(
        logits=space.logits[chosen],
        eigenvalues=space.eigenvalues[chosen],
        trace=space.trace[chosen],
        rank=space.rank[chosen],
        likelihood=space.likelihood,
        gradients=space.gradients[chosen],
        factor=space.factor[chosen],
        mixing=space.mixing[chosen],
        contrast_weights=None if weights is None else weights[chosen],
    )


def law_summary(raw: dict[str, Any]) -> dict[str, Any]:
    """Percentiles of the radius, and what goes with it.

    Args:
        raw: from ``measure_law``.

    Returns:
        Numbers ready for JSON.
    """
    radius = raw["radius"].numpy()
    length = raw["radius"] * raw["largest_eigenvalue"].sqrt()
    relative = radius / raw["image_norm"]
    correct = None if raw["correct"] is None else raw["correct"].numpy()
    confidence = raw["probability"].numpy()
    varied = len(radius) >= 10 and np.ptp(radius) > 0 and np.ptp(confidence) > 0

    def typical(chosen: np.ndarray) -> dict[str, float] | None:
        return interval(median_value, relative[chosen]).as_dict() if chosen.sum() >= 5 else None

    return {
        "images": len(radius),
        "float64_error": {
            "median": float(raw["error"].median()),
            "worst": float(raw["error"].max()),
            "eigenpairs": len(raw["error"]),
            "above_one_percent": int((raw["error"] > 0.01).sum()),
        },
        "radius": {
            "percentiles": np.percentile(radius, _PERCENTILES).tolist(),
            "relative_to_image_norm": np.percentile(relative, _PERCENTILES).tolist(),
            "fisher_length": np.percentile(length.numpy(), _PERCENTILES).tolist(),
        },
        "radius_confidence": interval(spearman, radius, confidence).as_dict() if varied else None,
        "radius_correct": None if correct is None else typical(correct),
        "radius_wrong": None if correct is None else typical(~correct),
    }
