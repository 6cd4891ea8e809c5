"""Whether a score finds wrong predictions, corrupted images, and foreign ones.

Every score has one direction: it is high for a fragile prediction, and for features far from those
of training. A statistic of the image may be too high or too low, and counts by how far it is from
the training images' median. This holds for wrong predictions and for changed images; but F may rise
or fall where an image is changed, so there our scores count by how far they are from their median
over the unchanged images, on a log scale. That median is of the very images that are told apart.
For a change that always raises F, or always lowers it, counting one side alone would find more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_ifim.experiments.statistics import auc
from monai_ifim.experiments.statistics.bootstrap import Floats, Indices
from monai_ifim.experiments.statistics.trainings import over_trainings
from monai_ifim.experiments.trainings.training import Training
from monai_ifim.experiments.uses.scored import Scored
from monai_ifim.experiments.uses.scores import (
    BASELINES,
    OURS,
    SCORES,
    STATISTICS,
    image_statistics,
    on_log_scale,
    training_scores,
)

_FEWEST = 5  # errors, and correct predictions, for an AUC that says something
_FALLING = ("flip_distance", "margin")  # low where a prediction is fragile
_SHARE = (0.0, 1.0)

Values = Mapping[str, Tensor]


def findings(trainings: Sequence[Training], scored: Scored) -> dict[str, Any]:
    """Areas under the ROC curve of every score for everything that is to be found.

    Args:
        trainings: of one network.
        scored: the images.

    Returns:
        ``images``, the number of them of each kind; ``errors``, wrong predictions of each
        training; ``cases``, one for wrong predictions (where every training has 5 of them and 5
        correct ones), each corruption and each kind of foreign images, as ``case_of`` gives it.

    Raises:
        ValueError: scores that are not finite.
    """
    found = [training_scores(training, scored) for training in trainings]
    usual = image_statistics(scored.train.images)
    statistics = {name: image_statistics(images) for name, images in scored.images.items()}
    tables = [
        {name: {**scores[name], **statistics[name]} for name in scored.images} for scores in found
    ]
    truths = [table["clean"]["predicted"] != scored.clean.labels for table in tables]
    amounts = trainings[0].amounts
    drawn = amounts.drawn(len(scored.clean))
    cases = []
    if all(_FEWEST <= int(wrong.sum()) <= len(wrong) - _FEWEST for wrong in truths):
        values = [oriented(table["clean"], usual) for table in tables]
        cases.append(case_of("wrong", "wrong predictions", truths, values, drawn))
    for name in scored.corrupted:
        pairs = torch.cat([drawn, drawn + len(scored.clean)], dim=1)  # both of an image together
        cases.append(_changed("corrupted", name, tables, usual, pairs))
    for name, images in scored.foreign.items():
        others = dataclasses.replace(amounts, seed=amounts.seed + 1).drawn(len(images))
        both = torch.cat([drawn, others + len(scored.clean)], dim=1)
        cases.append(_changed("foreign", name, tables, usual, both))
    return {
        "images": len(scored.clean),
        "errors": [int(wrong.sum()) for wrong in truths],
        "cases": cases,
    }


def oriented(scores: Values, usual: Values) -> dict[str, Tensor]:
    """Scores that are high where a prediction is fragile, or an image unlike those of training.

    Args:
        scores: (n,) each, by name in ``SCORES``.
        usual: the image statistics of training images.

    Returns:
        (n,) each, finite.
    """
    values = on_log_scale({name: scores[name] for name in SCORES})
    for name in _FALLING:
        values[name] = -values[name]
    for name in STATISTICS:
        values[name] = (values[name] - usual[name].quantile(0.5)).abs()
    return values


def unusual(clean: Values, changed: Values, usual: Values) -> dict[str, Tensor]:
    """Scores that are high where an image is expected to be changed.

    Args:
        clean: (n,) each, by name in ``SCORES``.
        changed: (m,) each, of other images.
        usual: the image statistics of training images.

    Returns:
        (n + m,) each, finite: first of the unchanged images. Ours to either side of their median
        over these, the baselines as ``oriented`` gives them.
    """
    values = oriented({name: torch.cat([clean[name], changed[name]]) for name in SCORES}, usual)
    for name in OURS:
        values[name] = (values[name] - values[name][: len(clean[name])].quantile(0.5)).abs()
    return values


def case_of(
    kind: str, name: str, truths: Sequence[Tensor], values: Sequence[Values], drawn: Tensor
) -> dict[str, Any]:
    """Areas of one thing to be found, with intervals over trainings and images.

    Args:
        kind: ``wrong``, ``corrupted`` or ``foreign``.
        name: for people.
        truths: of each training (N,), true for what is to be found.
        values: of each training the scores (N,) of ``SCORES``, high where it is expected.
        drawn: which of them each draw holds, the first all of them once: (1 + B, N).

    Returns:
        ``auc`` by score; ``above_best_baseline``, by score of ours the paired difference to the
        baseline whose mean area is the highest, which is chosen on these same images;
        ``positives`` of each training.
    """
    areas = {
        score: _areas(truths, [each[score] for each in values], drawn.numpy()) for score in SCORES
    }
    best = max(BASELINES, key=lambda score: areas[score][:, 0].mean())
    return {
        "kind": kind,
        "name": name,
        "positives": [int(truth.sum()) for truth in truths],
        "auc": {score: over_trainings(table, _SHARE) for score, table in areas.items()},
        "above_best_baseline": {
            score: {"baseline": best, **over_trainings(areas[score] - areas[best])}
            for score in OURS
        },
    }


def _changed(
    kind: str, name: str, tables: Sequence[Mapping[str, Values]], usual: Values, drawn: Tensor
) -> dict[str, Any]:
    values = [unusual(table["clean"], table[name], usual) for table in tables]
    changed = torch.arange(drawn.shape[1]) >= len(tables[0]["clean"]["trace"])
    return case_of(kind, name, [changed] * len(tables), values, drawn)


def _areas(truths: Sequence[Tensor], scores: Sequence[Tensor], drawn: Indices) -> Floats:
    """(T, 1 + B); a draw without one of both kinds for any training does not count."""
    areas = np.stack(
        [auc(t.numpy(), s.numpy()).of(drawn)[0] for t, s in zip(truths, scores, strict=True)]
    )
    return areas[:, np.isfinite(areas).all(axis=0)]
