"""How far pooled directions move a prediction, beside the image's own and others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from monai_ifim.core.perturbation import PerturbationCurve, perturbation_curve
from monai_ifim.experiments.measures.directions import normalised
from monai_ifim.experiments.networks.trained_classifier import batch_size
from monai_ifim.experiments.statistics.trainings import over_trainings
from monai_ifim.experiments.tasks.labelled import Split
from monai_ifim.experiments.trainings.training import Training

# Shares of the images' median norm among which the one that flips half of them is looked for.
_NORMS = torch.logspace(-3, 0.5, 22, dtype=torch.float64)
FLIP_SHARE = 0.3  # the changes are this share of that norm
_RANDOM = 4


def moves(trainings: Sequence[Training], train: Split, images: int) -> dict[str, Any]:
    """KL divergence along directions of equal norm, relative to that along random ones.

    Args:
        trainings: of one network; each has the next one as the other training.
        train: for the difference of the class means.
        images: how many of the trainings' images.

    Returns:
        ``flip_norm``: the norm at which half of the images have another prediction along ± their
        own leading eigenvector, for each training (None where none of the norms does);
        ``norm``: of the changes; ``ratios``: by direction the geometric mean over trainings of
        mean KL / mean KL of random directions, with its interval; ``own_ratios``: the same over
        the mean KL of the image's own direction; ``divergence``: mean KL of random directions, for
        each training.
    """
    found = [
        _measured(training, trainings[(i + 1) % len(trainings)], train, images)
        for i, training in enumerate(trainings)
    ]
    return {
        "images": len(found[0]["divergence"]["random"]),
        "flip_norm": [each["flip_norm"] for each in found],
        "norm": [each["norm"] for each in found],
        "divergence": [float(each["divergence"]["random"].mean()) for each in found],
        "ratios": _ratios([each["divergence"] for each in found], "random", trainings[0]),
        "own_ratios": _ratios([each["divergence"] for each in found], "own", trainings[0]),
    }


def _measured(training: Training, other: Training, train: Split, images: int) -> dict[str, Any]:
    sample = training.images[:images]

    def compute() -> dict[str, Any]:
        flip = _flip_norm(training, sample)
        largest = float(_NORMS[-1]) * _median_norm(sample)
        norm = FLIP_SHARE * (largest if flip is None else flip)
        chosen = directions(training, other, train, sample)
        return {"flip_norm": flip, "norm": norm, "divergence": _divergence(training, chosen, norm)}

    details = [images, other.classifier.digest, FLIP_SHARE, training.amounts.seed]
    found: dict[str, Any] = training.step("moves", details, compute)
    return found


def directions(
    training: Training, other: Training, train: Split, images: Tensor
) -> dict[str, Tensor]:
    """Unit directions (n, C, *S) by name, the first images' of both trainings.

    Args:
        training: whose prediction is moved.
        other: another training of the same network, perhaps itself where it is the only one.
        train: for the difference of the class means.
        images: (n, C, *S), the first of the trainings' images.

    Returns:
        ``own`` and ``other_own``: leading eigenvector of the image itself, of this training and of
        the other one; ``pooled`` and ``other_pooled``: leading pooled one (unit trace);
        ``mean_jacobian``; ``class_means``: leading direction of the class means;
        ``complement``: along the part of the image outside of its own eigenspace.
    """
    count = len(images)
    single, single_other = training.single[:count], other.single[:count]
    inside = torch.einsum("nrcx,ncx->nrc", single.flatten(3), images.flatten(2)).sum(dim=2)
    outside = images - torch.einsum("nr,nr...->n...", inside, single)
    found = {
        "own": single[:, 0],
        "other_own": single_other[:, 0],
        "pooled": training.pooled["unit_trace"][0, :1].expand_as(images),
        "other_pooled": other.pooled["unit_trace"][0, :1].expand_as(images),
        "mean_jacobian": training.pooled["mean_jacobian"][0, :1].expand_as(images),
        "class_means": class_mean_direction(train)[None].expand_as(images),
        "complement": outside,
    }
    if other is training:
        found = {name: value for name, value in found.items() if not name.startswith("other")}
    return found


def class_mean_direction(train: Split) -> Tensor:
    """Leading direction of the class means about their mean, (C, *S); for two their difference."""
    means = torch.stack(
        [train.images[train.labels == k].mean(dim=0) for k in train.labels.unique()]
    )
    deviations = (means - means.mean(dim=0)).flatten(1).double()
    return torch.linalg.svd(deviations, full_matrices=False)[2][0].float().view(means.shape[1:])


def _flip_norm(training: Training, images: Tensor) -> float | None:
    """Norm at which half of the images flip along ± their own leading eigenvector."""
    norms = _NORMS * _median_norm(images)
    flipped = []
    for first in range(0, len(images), size := batch_size(images)):
        batch = images[first : first + size]
        own = normalised("own", training.single[first : first + len(batch), 0])
        curve = _curve(training, batch, torch.stack([own, -own], dim=1), norms)
        flipped.append(curve.flipped.any(dim=1))
    enough = torch.cat(flipped).double().mean(dim=0) >= 0.5
    return float(norms[enough][0]) if bool(enough.any()) else None


def _divergence(training: Training, chosen: dict[str, Tensor], norm: float) -> dict[str, Tensor]:
    """KL by direction, mean over both signs, (n,) in float64; ``random`` over some directions."""
    images = training.images[: len(next(iter(chosen.values())))]
    generator = torch.Generator().manual_seed(training.amounts.seed)
    random = {f"random {i}": torch.randn(images.shape, generator=generator) for i in range(_RANDOM)}
    units = {name: normalised(name, value) for name, value in {**chosen, **random}.items()}
    stacked = torch.stack(list(units.values()), dim=1)
    parts = []
    for first in range(0, len(images), size := batch_size(images)):
        both = torch.cat([stacked[first : first + size], -stacked[first : first + size]], dim=1)
        curve = _curve(training, images[first : first + size], both, torch.tensor([norm]))
        parts.append(curve.divergence[:, :, 0].unflatten(1, (2, len(units))).mean(dim=1))
    table = torch.cat(parts)
    columns = dict(zip(units, table.unbind(1), strict=True))
    draws = torch.stack([columns.pop(name) for name in random]).mean(dim=0)
    return {**columns, "random": draws}


def _curve(training: Training, images: Tensor, units: Tensor, norms: Tensor) -> PerturbationCurve:
    """In float64: the divergence of a small change is a difference of nearly equal numbers."""
    return perturbation_curve(
        training.precise.network,
        images.double(),
        units.double(),
        norms,
        likelihood=training.classifier.family,
    )


def _median_norm(images: Tensor) -> float:
    return float(images.flatten(1).norm(dim=1).median())


def _ratios(
    divergences: Sequence[dict[str, Tensor]], below: str, training: Training
) -> dict[str, Any]:
    """By direction the ratio of mean KL to that of another one, image by image in every draw."""
    drawn = training.amounts.drawn(len(divergences[0][below]))
    ratios = {}
    for name in divergences[0]:
        if name in (below, "random"):
            continue
        rows = [
            each[name][drawn].mean(dim=1) / each[below][drawn].mean(dim=1) for each in divergences
        ]
        summary = over_trainings(torch.stack(rows).log())
        ratios[name] = {
            key: value if key == "trainings" else float(torch.tensor(value).exp())
            for key, value in summary.items()
        }
    return ratios
