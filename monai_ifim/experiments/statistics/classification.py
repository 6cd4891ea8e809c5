"""Accuracy and AUC of a classifier, from its logits."""

from __future__ import annotations

from torch import Tensor

from monai_ifim.core import Likelihood
from monai_ifim.experiments.statistics.averages import accuracy
from monai_ifim.experiments.statistics.bootstrap import interval
from monai_ifim.experiments.statistics.roc import classification_auc

Scores = dict[str, dict[str, float] | None]
"""``accuracy`` and ``auc`` with their intervals as plain numbers, None where there is none."""


def classification_scores(
    labels: Tensor | None, family: Likelihood, logits: Tensor, *, resamples: int = 1000
) -> Scores:
    """Accuracy and AUC, as far as the labels and the family allow.

    Args:
        labels: (n,), one class an image; None where they are not known.
        family: what the logits mean.
        logits: (n, K).
        resamples: of the AUC's interval.

    Returns:
        Both None without labels, and for a family of several labels an image. The AUC is None
        where some class has no image.

    >>> import torch
    >>> from monai_ifim.core import Bernoulli
    >>> logits = torch.tensor([[-1.0], [2.0], [1.0]])
    >>> found = classification_scores(torch.tensor([0, 1, 0]), Bernoulli(), logits)
    >>> round(found["accuracy"]["value"], 3), found["auc"]["value"]
    (0.667, 1.0)
    """
    table = None if labels is None else family.class_table(logits)
    if labels is None or table is None:
        return {"accuracy": None, "auc": None}
    correct = interval(accuracy, labels.cpu(), family.predicted(logits).cpu())
    every_class = set(labels.tolist()) == set(range(table.shape[1]))
    area = (
        interval(classification_auc, labels.cpu(), table.cpu(), resamples=resamples)
        if every_class
        else None
    )
    return {"accuracy": correct.as_dict(), "auc": None if area is None else area.as_dict()}


def has_classes(labels: Tensor, family: Likelihood, logits: Tensor) -> bool:
    """Whether labels are one class an image, of those that the network distinguishes.

    Args:
        labels: of n images, of any shape.
        family: what the logits mean.
        logits: (B, K) of any of the images.

    Returns:
        False for a family of several labels an image, and for a class number out of range.
    """
    table = family.class_table(logits)
    if table is None or labels.ndim != 1:
        return False
    return bool(((labels >= 0) & (labels < table.shape[1])).all())
