"""What predicts the smallest change to another answer that a search finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from monai_ifim.experiments.networks.trained_classifier import TrainedClassifier, batches
from monai_ifim.experiments.statistics import spearman
from monai_ifim.experiments.statistics.trainings import over_trainings
from monai_ifim.experiments.steps import digest
from monai_ifim.experiments.trainings.training import Training
from monai_ifim.experiments.uses.scores import network_scores
from monai_ifim.experiments.uses.smallest import SEARCH, smallest_changes

# By predictor whether it rises (1) or falls with the distance to another answer.
PREDICTORS = {
    "flip_distance": 1,
    "largest_eigenvalue": -1,
    "trace": -1,
    "margin": 1,
    "gradient_norm": -1,
}
_FEWEST = 5  # images for a correlation that says something


def flips(trainings: Sequence[Training], images: Tensor) -> dict[str, Any]:
    """Rank correlation of every predictor with the smallest L2 norm to another answer.

    Args:
        trainings: of one network.
        images: (n, C, *S).

    Returns:
        ``images``; ``search``, how it was searched; ``found``, the share for which it found
        another answer, mean over trainings; ``norm``, the median of the smallest norm over the
        image's own; ``spearman`` by predictor, of which 1 is perfect, without those that are
        constant; ``above``, by predictor how much higher that of the flip distance is. The last
        three on images for which something was found in every training; None where those are
        fewer than 5, or where norms or flip distances do not vary.

    Raises:
        ModuleNotFoundError: foolbox is not installed.
    """
    rows = [_measured(training, images) for training in trainings]
    norms = torch.stack([row["norm"] for row in rows])
    usable = torch.isfinite(norms).all(dim=0)
    told = {
        "images": len(images),
        "search": SEARCH,
        "found": float(torch.isfinite(norms).double().mean()),
        "norm": None,
        "spearman": None,
        "above": None,
    }
    if int(usable.sum()) < _FEWEST:
        return told
    drawn = trainings[0].amounts.drawn(int(usable.sum())).numpy()
    shares = (norms / images.double().flatten(1).norm(dim=1))[:, usable].numpy()
    kept = [{name: _finite(row[name])[usable] for name in ("norm", *PREDICTORS)} for row in rows]
    varying = {name for name in kept[0] if all(len(row[name].unique()) > 1 for row in kept)}
    if not varying >= {"norm", "flip_distance"}:
        return told
    tables = {
        name: np.stack([spearman(sign * row[name], row["norm"]).of(drawn)[0] for row in kept])
        for name, sign in PREDICTORS.items()
        if name in varying
    }
    whole = np.isfinite(np.stack([*tables.values()])).all(axis=(0, 1))
    tables = {name: table[:, whole] for name, table in tables.items()}
    first = tables["flip_distance"]
    return {
        **told,
        "norm": over_trainings(np.median(shares[:, drawn], axis=2)),
        "spearman": {name: over_trainings(table, (-1.0, 1.0)) for name, table in tables.items()},
        "above": {
            name: over_trainings(first - table)
            for name, table in tables.items()
            if name != "flip_distance"
        },
    }


def gradient_norms(classifier: TrainedClassifier, images: Tensor) -> Tensor:
    """L2 norm of the gradient of -log p of the predicted class.

    Args:
        classifier: in the images' dtype; float64 keeps the digits of a confident prediction.
        images: (n, C, *S).

    Returns:
        (n,).
    """
    norms = []
    for batch in batches(images):
        leaf = batch.detach().clone().requires_grad_()
        logits = classifier.network(leaf)
        loss = cross_entropy(logits, classifier.family.predicted(logits.detach()), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
        norms.append(gradient.flatten(1).norm(dim=1))
    return torch.cat(norms)


def _measured(training: Training, images: Tensor) -> dict[str, Tensor]:
    """The smallest norm found, infinite where none, and every predictor, (n,) each."""

    def compute() -> dict[str, Tensor]:
        scores = network_scores(training.classifier, images)
        return {
            "norm": smallest_changes(training.classifier, images),
            **{name: scores[name] for name in PREDICTORS if name in scores},
            "gradient_norm": gradient_norms(training.precise, images.double()),
        }

    found: dict[str, Tensor] = training.step("uses flips", [digest(images), SEARCH, 2], compute)
    return found


def _finite(values: Tensor) -> Tensor:
    """Ranks do not mind the size of what is infinite."""
    return values.clamp(-1e300, 1e300)
