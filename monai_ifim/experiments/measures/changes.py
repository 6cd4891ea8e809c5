"""Changes of equal norm along many directions, and what they do to a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_ifim.core import Eigenspace, Likelihood, as_likelihood
from monai_ifim.core.perturbation import PerturbationCurve, perturbation_curve
from monai_ifim.experiments.measures.directions import all_directions
from monai_ifim.experiments.measures.sensitivity import attributions
from monai_ifim.experiments.measures.subject import Subject
from monai_ifim.experiments.networks.trained_classifier import (
    TrainedClassifier,
    batch_size,
    batches,
)
from monai_ifim.experiments.statistics import (
    average,
    classification_scores,
    interval,
    intervals,
    means,
    ratio,
)

_RATIOS = {
    "random": ("random_in_eigenspace", "random_in_complement"),
    "along_components": ("attenuate_high", "attenuate_orth"),
    "leading": ("leading", "random_in_complement"),
}
_ALPHAS = (0.25, 0.5, 1.0)
_CURVES = ("logits", "divergence", "quadratic", "probability_change", "flipped")


def perturbation(subject: Subject) -> dict[str, Any]:
    """Perturbation curves along all directions.

    Args:
        subject: what to measure; ``changed_images`` of its images at least are used.

    Returns:
        Numbers ready for JSON.
    """
    asked = subject.amounts
    images, labels = subject.first(subject.attributed_images)
    maps = attributions(subject)
    raw = subject.step(
        "perturbation",
        [len(images), asked.norms, asked.top_share],
        lambda: measure_changes(
            subject.classifier, images, labels, maps, asked.norms, asked.top_share, subject.seed
        ),
        version=3,
    )
    return changes_summary(raw, subject.classifier.family, asked.ratio_norms)


def plain_ratios(subject: Subject) -> list[dict[str, Any]] | None:
    """Ratios of the perturbation curves alone, for a network that has learned nothing.

    Args:
        subject: what to measure.

    Returns:
        What ``ratios`` gives; None when no curves are asked for.
    """
    asked = subject.amounts
    if not asked.changed_images:
        return None
    images, _ = subject.first(subject.attributed_images)
    raw = subject.step(
        "plain perturbation",
        [len(images), asked.norms],
        lambda: measure_changes(
            subject.classifier, images, None, {}, asked.norms, asked.top_share, subject.seed
        ),
        version=3,
    )
    return ratios(raw, asked.ratio_norms)


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
        attributions: maps (N, C, *S) by method, from ``measure_attributions``; perhaps none.
        relative_norms: of the changes, as shares of the median norm of the images.
        top_share: share of the pixels that an attribution selects.
        seed: of the random directions.

    Returns:
        ``directions`` (D names), ``norms`` (E,), ``image_norm``, ``pixels``, ``top_share``, and
        for the N' images that are not constant and have components that are not zero:
        ``labels``, ``logits`` (N', D, E, K), ``divergence``, ``quadratic``,
        ``probability_change`` and ``flipped``, each (N', D, E); ``high_norm`` (N',), and
        ``attenuation`` and ``attenuation_quadratic`` (N', 2, A), the divergence of x - αx_h and
        x - βx_o at equal norm for each of ``alphas``. What ``changes_summary`` takes.

    Raises:
        ValueError: no such image.
    """
    generator = torch.Generator().manual_seed(seed)
    image_norm = float(images.flatten(1).norm(dim=1).double().median())
    norms = [share * image_norm for share in relative_norms]
    parts: dict[str, list[Tensor]] = {}
    names: list[str] = []
    kept: list[Tensor] = []
    for start, batch in enumerate(batches(images)):
        first = start * batch_size(images)
        usable = _usable(classifier.eigenspace(batch), batch)
        kept.append(usable)
        if not bool(usable.any()):
            continue
        batch = batch[usable]
        maps = {n: value[first : first + len(usable)][usable] for n, value in attributions.items()}
        space = classifier.eigenspace(batch)
        units = all_directions(space, batch, maps, top_share, generator)
        names = list(units)
        for name, value in _batch_changes(classifier, batch, space, units, norms).items():
            parts.setdefault(name, []).append(value)
    if not parts:
        raise ValueError(
            f"expected an eigenpair for some image, got none for {classifier.name}: its prediction "
            "does not react to any change, or every image is constant; check both"
        )
    return {
        "directions": names,
        "norms": norms,
        "relative_norms": list(relative_norms),
        "image_norm": image_norm,
        "pixels": images[0].numel(),
        "top_share": top_share,
        "alphas": list(_ALPHAS),
        "labels": None if labels is None else labels[torch.cat(kept)],
        **{name: torch.cat(values) for name, values in parts.items()},
    }


def _batch_changes(
    classifier: TrainedClassifier,
    images: Tensor,
    space: Eigenspace,
    units: Mapping[str, Tensor],
    norms: Sequence[float],
) -> dict[str, Tensor]:
    """The curves of one batch along its directions, and the attenuation of both components."""

    def curve(chosen: list[Tensor], grid: Sequence[float] | Tensor) -> PerturbationCurve:
        return perturbation_curve(
            classifier.network,
            images,
            torch.stack(chosen, dim=1),
            grid,
            likelihood=classifier.family,
            space=space,
        )

    found = curve(list(units.values()), norms)
    high = space.split(images)[0].flatten(1).norm(dim=1).double()
    # Only here is it an attenuation: beyond the norm of x_h, the component is turned round.
    taken = curve(
        [units["attenuate_high"], units["attenuate_orth"]],
        high[:, None] * torch.tensor(_ALPHAS, dtype=torch.float64),
    )
    return {
        "high_norm": high,
        "attenuation": taken.divergence,
        "attenuation_quadratic": taken.quadratic,
        **{name: getattr(found, name) for name in _CURVES},
    }


def _usable(space: Eigenspace, images: Tensor) -> Tensor:
    """Images that no direction is zero for: an eigenpair, a component in it, not constant."""
    high, orth = space.split(images)
    flat = images.flatten(1)
    varied = flat.amax(dim=1) > flat.amin(dim=1)
    parts = [(part != 0).flatten(1).any(dim=1) for part in (high, orth)]
    return (space.rank > 0) & varied & parts[0] & parts[1]


def changes_summary(
    raw: dict[str, Any], likelihood: str | Likelihood, ratio_norms: Sequence[float]
) -> dict[str, Any]:
    """Means with 95 % bootstrap intervals over images.

    Args:
        raw: from ``measure_changes``.
        likelihood: of the classifier, a family or its name.
        ratio_norms: relative norms at which ratios of mean divergences are given.

    Returns:
        Numbers ready for JSON.
    """
    family = as_likelihood(likelihood)
    directions = {}
    for d, name in enumerate(raw["directions"]):
        rows = {
            "divergence": raw["divergence"],
            "probability_change": raw["probability_change"],
            "flip_rate": raw["flipped"].double(),
        }
        directions[name] = {
            key: [i.as_dict() for i in intervals(means, value[:, d])] for key, value in rows.items()
        }
        directions[name]["quadratic"] = raw["quadratic"][:, d].mean(dim=0).tolist()
        directions[name].update(_scores(raw["logits"][:, d], raw["labels"], family))
    return {
        "images": len(raw["divergence"]),
        **{key: raw[key] for key in ("pixels", "image_norm", "norms", "top_share")},
        "directions": directions,
        "ratios": ratios(raw, ratio_norms),
        "attenuation": attenuations(raw),
    }


def _scores(logits: Tensor, labels: Tensor | None, family: Likelihood) -> dict[str, Any]:
    """Accuracy and AUC of the changed images (N, E, K), for each norm, where there are any."""
    steps = [classification_scores(labels, family, step) for step in logits.unbind(1)]
    columns = {"accuracy": [s["accuracy"] for s in steps], "auc": [s["auc"] for s in steps]}
    return {key: None if None in column else column for key, column in columns.items()}


def ratios(raw: dict[str, Any], ratio_norms: Sequence[float]) -> list[dict[str, Any]]:
    """Ratios of mean divergences along two directions, paired over images.

    Args:
        raw: from ``measure_changes``.
        ratio_norms: relative norms; the nearest of the grid is taken.

    Returns:
        For each norm ``random`` (inside to outside of the eigenspace), ``along_components``,
        ``leading``, the ``masks`` (random inside to the pixels that a method selects), the
        ``share`` of images with a random ratio above 1, ``effective_images`` behind the smaller
        mean, and the median ``alpha``, the norm in units of that of x_h.
    """
    grid = np.asarray(raw["relative_norms"])
    rows = []
    for share in ratio_norms:
        e = int(np.abs(np.log(grid / share)).argmin())
        values = dict(zip(raw["directions"], raw["divergence"][:, :, e].unbind(1), strict=True))
        inside, outside = values["random_in_eigenspace"], values["random_in_complement"]
        row: dict[str, Any] = {"norm": raw["norms"][e], "relative_norm": float(grid[e])}
        row.update({key: _ratio(values[a], values[b]) for key, (a, b) in _RATIOS.items()})
        row["masks"] = {
            name.removesuffix("_mask"): _ratio(inside, value)
            for name, value in values.items()
            if name.endswith("_mask")
        }
        row["share"] = interval(average, (inside > outside).double()).as_dict()
        squares = float(outside.square().sum())
        row["effective_images"] = float(outside.sum()) ** 2 / squares if squares else 0.0
        row["alpha"] = float((raw["norms"][e] / raw["high_norm"]).median())
        rows.append(row)
    return rows


def attenuations(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """Mean divergence of x - αx_h by that of x - βx_o at the same norm, for each α.

    Args:
        raw: from ``measure_changes``.

    Returns:
        ``alpha``, the median ``relative_norm`` and ``norm``, ``attenuation`` (the ratio) and
        ``law``, the mean divergence of the first by ½dᵀFd.
    """
    norm = float(raw["high_norm"].median())
    rows = []
    for a, alpha in enumerate(raw["alphas"]):
        high, orth = raw["attenuation"][:, :, a].unbind(1)
        law = float(raw["attenuation_quadratic"][:, 0, a].mean())
        rows.append(
            {
                "alpha": alpha,
                "norm": alpha * norm,
                "relative_norm": alpha * norm / raw["image_norm"],
                "attenuation": _ratio(high, orth),
                "law": float(high.mean()) / law if law else None,
            }
        )
    return rows


def _ratio(above: Tensor, below: Tensor) -> dict[str, float] | None:
    """Ratio of means, or None where so many of the second are zero that some draw has no other."""
    if int((below > 0).sum()) < min(len(below), 20):
        return None
    return interval(ratio, above, below).as_dict()
