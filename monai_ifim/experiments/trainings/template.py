"""How near the spaces of trainings are to the known answer of a controlled task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from monai_ifim.experiments.statistics.trainings import over_trainings
from monai_ifim.experiments.trainings.agreement import SHARE, Seeing, kinds_of
from monai_ifim.experiments.trainings.metrics import Seen, bases, smallest_cosine
from monai_ifim.experiments.trainings.training import POOLED, Training

_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 400, 1000)
_SUBSETS = 20  # disjoint ones of each size, at the most


def template_agreement(
    trainings: Sequence[Training], templates: Tensor, metrics: Mapping[str, Seen]
) -> dict[str, Any]:
    """Smallest principal cosine with the span of the templates.

    Args:
        trainings: of one network.
        templates: (1, K - 1, 1, *S).
        metrics: in what to compare.

    Returns:
        ``cosine``: for each metric and kind the mean over trainings (of one image's and smoothed
        spaces the median over images); ``unit_trace_less``: in pixels, by kind how much higher
        that of unit traces is, from the same draws; ``trainings``: in pixels, one number a
        training; ``by_count``: in pixels, by the number of pooled images.
    """
    tables = _tables(trainings, templates, metrics)
    return {
        "cosine": _means(tables),
        "unit_trace_less": {
            kind: over_trainings(tables["pixels"]["unit_trace"] - values)
            for kind, values in tables["pixels"].items()
            if kind != "unit_trace"
        },
        "trainings": {kind: values[:, 0].tolist() for kind, values in tables["pixels"].items()},
        "by_count": by_count(trainings, templates, metrics["pixels"]),
    }


def untrained_agreement(
    untrained: Sequence[Training], templates: Tensor, metrics: Mapping[str, Seen]
) -> dict[str, Any]:
    """What ``template_agreement`` gives as ``cosine``, of networks with random weights."""
    return _means(_tables(untrained, templates, metrics))


def _tables(
    trainings: Sequence[Training], templates: Tensor, metrics: Mapping[str, Seen]
) -> dict[str, dict[str, Tensor]]:
    """By metric and kind the cosines (T, 1 + draws)."""
    tables = {}
    for name, seen in metrics.items():
        target = bases(templates.float(), seen)
        sides = [Seeing(training, seen) for training in trainings]
        tables[name] = {
            kind: torch.stack([_cosines(side, target, kind) for side in sides])
            for kind in kinds_of(trainings)
        }
    return tables


def _means(tables: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    return {
        name: {kind: over_trainings(values, SHARE) for kind, values in table.items()}
        for name, table in tables.items()
    }


def by_count(trainings: Sequence[Training], templates: Tensor, seen: Seen) -> list[dict[str, Any]]:
    """The cosine by the number of pooled images.

    Args:
        trainings: of one network.
        templates: (1, K - 1, 1, *S).
        seen: a metric.

    Returns:
        A row for each number of images, up to all: by kind the mean over trainings of the median
        over disjoint subsets of the images. The interval is over trainings alone.
    """
    images = len(trainings[0].images)
    rows: list[dict[str, Any]] = []
    for count in (*(c for c in _COUNTS if c < images), images):
        medians: dict[str, list[Tensor]] = {kind: [] for kind in POOLED}
        subsets = _subsets(images, count, trainings[0].amounts.seed)
        for training in trainings:
            columns, rank = training.columns, training.rank
            found = {
                "unit_trace": columns.pooled("unit_trace", rank, subsets),
                "equal": columns.pooled("equal", rank, subsets),
                "mean_jacobian": columns.mean_jacobian(rank, subsets),
            }
            target = bases(templates.float(), seen)
            for kind, spaces in found.items():
                medians[kind].append(smallest_cosine(bases(spaces, seen), target).median())
        rows.append(
            {
                "images": count,
                **{
                    kind: over_trainings(torch.stack(m)[:, None], SHARE)
                    for kind, m in medians.items()
                },
            }
        )
    return rows


def _cosines(side: Seeing, target: Tensor, kind: str) -> Tensor:
    """(1 + draws,) of one training."""
    if kind in POOLED:
        return smallest_cosine(side.pooled[kind], target)
    values = smallest_cosine(side.single if kind == "single" else side.smoothed, target)
    drawn = side.training.amounts.drawn(len(values))
    return values[drawn].quantile(0.5, dim=1)


def _subsets(images: int, count: int, seed: int) -> Tensor:
    """Disjoint subsets as counts of the images, (D, images)."""
    order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
    chosen = order[: images // count * count].view(-1, count)[:_SUBSETS]
    return torch.zeros(len(chosen), images).scatter(1, chosen, 1.0)
