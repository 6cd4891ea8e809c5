"""Changes of equal norm along many directions, and what they do to a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_ifim.core import Eigenspace, as_likelihood
from monai_ifim.experiments.attributions import top_mask
from monai_ifim.experiments.directions import change_directions, normalised
from monai_ifim.experiments.perturbation import perturbation_curve
from monai_ifim.experiments.roc import classification_auc_interval
from monai_ifim.experiments.statistics import accuracy_interval, mean_intervals, ratio_interval
from monai_ifim.experiments.trained_classifier import TrainedClassifier, batch_size, batches

_RESAMPLES = 1000
_RATIOS = {
    "random": ("random_in_eigenspace", "random_in_complement"),
    "attenuation": ("attenuate_high", "attenuate_orth"),
    "leading": ("leading", "random_in_complement"),
}


def measure_changes(
    classifier: TrainedClassifier,
    images: Tensor,
    labels: Tensor | None,
    attributions: Mapping[str, Tensor],
    relative_norms: Sequence[float],
    top_share: float,
    seed: int,
) -> dict[str, Any]:
    """Predictions of changed images, for every direction and norm.

    Args:
        classifier: the network.
        images: (N, C, *S).
        labels: (N,), where they are known.
        attributions: maps (N, C, *S) by method, from ``measure_attributions``.
        relative_norms: of the changes, as shares of the median norm of the images.
        top_share: share of the pixels that an attribution selects.
        seed: of the random directions.

    Returns:
        ``directions`` (D names), ``norms`` (E,), ``image_norm``, ``pixels``, ``top_share``, and
        for the N' images with an eigenpair: ``labels``, ``logits`` (N', D, E, K), ``divergence``,
        ``quadratic``, ``probability_change`` and ``flipped``, each (N', D, E). What
        ``changes_summary`` takes.

    Raises:
        ValueError: no image has an eigenpair.
    """
    generator = torch.Generator().manual_seed(seed)
    image_norm = float(images.flatten(1).norm(dim=1).double().median())
    norms = [share * image_norm for share in relative_norms]
    parts: dict[str, list[Tensor]] = {}
    names: list[str] = []
    kept: list[Tensor] = []
    for start, batch in enumerate(batches(images)):
        first = start * batch_size(images)
        maps = {name: value[first : first + len(batch)] for name, value in attributions.items()}
        reacts = classifier.eigenspace(batch).rank > 0
        kept.append(reacts)
        if not bool(reacts.any()):
            continue
        batch = batch[reacts]
        space = classifier.eigenspace(batch)
        maps = {name: value[reacts] for name, value in maps.items()}
        units = all_directions(space, batch, maps, top_share, generator)
        names = list(units)
        curve = perturbation_curve(
            classifier.network,
            batch,
            torch.stack(list(units.values()), dim=1),
            norms,
            likelihood=classifier.likelihood,
            space=space,
        )
        for name in ("logits", "divergence", "quadratic", "probability_change", "flipped"):
            parts.setdefault(name, []).append(getattr(curve, name))
    if not parts:
        raise ValueError(
            f"expected an eigenpair for some image, got none for {classifier.name}: its prediction "
            "does not react to any change; check the network"
        )
    return {
        "directions": names,
        "norms": norms,
        "relative_norms": list(relative_norms),
        "image_norm": image_norm,
        "pixels": images[0].numel(),
        "top_share": top_share,
        "labels": None if labels is None else labels[torch.cat(kept)],
        **{name: torch.cat(values) for name, values in parts.items()},
    }


def all_directions(
    space: Eigenspace,
    images: Tensor,
    attributions: Mapping[str, Tensor],
    top_share: float,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The directions of ``change_directions``, and those that attributions choose.

    Args:
        space: of the images.
        images: (B, C, *S).
        attributions: maps (B, C, *S) by method; none is constant.
        top_share: share of the pixels that an attribution selects.
        generator: of the random ones.

    Returns:
        Unit vectors (B, C, *S) by name. Along ``METHOD_mask`` the selected pixels move towards the
        mean of the image, as an occlusion does.
    """
    directions = change_directions(space, images, generator)
    axes = tuple(range(1, images.ndim))
    towards_mean = images.mean(dim=axes, keepdim=True) - images
    for method, attribution in attributions.items():
        change = towards_mean * top_mask(attribution, top_share)
        directions[f"{method}_mask"] = normalised(f"{method}_mask", change)
    return directions


def changes_summary(
    raw: dict[str, Any], likelihood: str, ratio_norms: Sequence[float]
) -> dict[str, Any]:
    """Means with 95 % bootstrap intervals over images.

    Args:
        raw: from ``measure_changes``.
        likelihood: of the classifier.
        ratio_norms: relative norms at which ratios of mean divergences are given.

    Returns:
        Numbers ready for JSON.
    """
    labels = None if raw["labels"] is None else raw["labels"].numpy()
    directions = {}
    for d, name in enumerate(raw["directions"]):
        rows = {
            "divergence": raw["divergence"],
            "probability_change": raw["probability_change"],
            "flip_rate": raw["flipped"].double(),
        }
        directions[name] = {
            key: [i.as_dict() for i in mean_intervals(value[:, d], resamples=_RESAMPLES)]
            for key, value in rows.items()
        }
        directions[name]["quadratic"] = raw["quadratic"][:, d].mean(dim=0).tolist()
        directions[name].update(_scores(raw["logits"][:, d], labels, likelihood))
    return {
        "images": len(raw["divergence"]),
        **{key: raw[key] for key in ("pixels", "image_norm", "norms", "top_share")},
        "directions": directions,
        "ratios": [_ratios(raw, share) for share in ratio_norms],
    }


def _scores(logits: Tensor, labels: np.ndarray | None, likelihood: str) -> dict[str, Any]:
    """Accuracy and AUC of the changed images (N, E, K), where they can be had."""
    usable = labels is not None and (likelihood == "categorical" or logits.shape[-1] == 1)
    if labels is None or not usable:
        return {"accuracy": None, "auc": None}
    probabilities = as_likelihood(likelihood).probabilities(logits.flatten(0, 1))
    if probabilities.shape[1] == 1:
        probabilities = torch.cat([1 - probabilities, probabilities], dim=1)
    table = probabilities.unflatten(0, logits.shape[:2]).numpy()
    steps = [table[:, e] for e in range(table.shape[1])]
    every_class = set(labels.tolist()) == set(range(table.shape[2]))
    return {
        "accuracy": [accuracy_interval(labels, p.argmax(axis=1)).as_dict() for p in steps],
        "auc": [classification_auc_interval(labels, p).as_dict() for p in steps]
        if every_class
        else None,
    }


def _ratios(raw: dict[str, Any], share: float) -> dict[str, Any]:
    """Ratios of mean divergences at the norm of the grid that is nearest."""
    grid = np.asarray(raw["relative_norms"])
    e = int(np.abs(np.log(grid / share)).argmin())
    names = raw["directions"]
    ratios: dict[str, Any] = {"norm": raw["norms"][e], "relative_norm": float(grid[e])}
    for key, (above, below) in _RATIOS.items():
        pair = [raw["divergence"][:, names.index(name), e] for name in (above, below)]
        ratios[key] = ratio_interval(*pair).as_dict()
    return ratios
