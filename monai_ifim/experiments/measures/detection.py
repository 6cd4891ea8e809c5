"""Whether a score finds wrong predictions, and corrupted images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from monai_ifim.experiments.measures.corruptions import corrupt
from monai_ifim.experiments.measures.spectra import SCORES, prediction_scores
from monai_ifim.experiments.measures.subject import Subject
from monai_ifim.experiments.networks.trained_classifier import batch_size
from monai_ifim.experiments.statistics import Interval, auc, interval, paired_auc
from monai_ifim.experiments.statistics.bootstrap import Floats

_FEWEST = 5  # errors, and correct predictions, for an AUC that says something


def detection(subject: Subject) -> dict[str, Any]:
    """Areas under the ROC curve of every score, for errors and for each corruption.

    Args:
        subject: what to measure; ``scored_images`` of its images are used.

    Returns:
        ``images``, the number of ``errors``, ``error_auc`` and ``corruption_auc`` by score, ready
        for JSON; None for what needs labels where there are none.
    """
    images, labels = subject.first(subject.amounts.scored_images)
    clean = _scores(subject, "clean", images)
    corrupted = {
        name: _scores(subject, name, corrupt(images, name, 1.0, subject.seed))
        for name in subject.amounts.corruptions
    }
    errors = None if labels is None else error_detection(clean, labels)
    wrong = None if labels is None else _wrong(clean["predicted"], labels)
    return {
        "images": len(images),
        "errors": None if wrong is None else int(wrong.sum()),
        "error_auc": errors and _plain(errors),
        "corruption_auc": {
            name: _plain(corruption_detection(clean, scores)) for name, scores in corrupted.items()
        },
    }


def error_detection(
    scores: Mapping[str, Tensor],
    labels: Tensor,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval] | None:
    """How well each score finds the wrong predictions.

    Args:
        scores: from ``prediction_scores``.
        labels: true classes, of the shape of ``scores["predicted"]``; a prediction of several
            labels is wrong when one of them is.
        level: of the intervals.
        resamples: of the bootstrap over images.
        seed: of the bootstrap.

    Returns:
        For each of ``SCORES`` the area under the ROC curve: the chance that a wrong prediction
        scores higher than a correct one. Below 0.5 wrong predictions score lower; it is left as
        it is, never turned round. None with fewer than 5 errors or fewer than 5 correct
        predictions, too few for an area.

    Raises:
        ValueError: labels of another shape, or scores that are not finite.
    """
    predicted = scores["predicted"]
    if labels.shape != predicted.shape:
        raise ValueError(
            f"expected labels of shape {tuple(predicted.shape)}, got {tuple(labels.shape)}; pass "
            "the true class of each image (or 0 and 1 for each of several labels)"
        )
    wrong = _wrong(predicted, labels)
    errors = int(wrong.sum())
    if min(errors, len(wrong) - errors) < _FEWEST:
        return None
    return {
        name: interval(
            auc, wrong.numpy(), _array(scores[name]), level=level, resamples=resamples, seed=seed
        )
        for name in SCORES
    }


def corruption_detection(
    clean_scores: Mapping[str, Tensor],
    corrupted_scores: Mapping[str, Tensor],
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """How well each score distinguishes corrupted images from the same ones before.

    Args:
        clean_scores: from ``prediction_scores``.
        corrupted_scores: of the same images in the same order, corrupted.
        level: of the intervals.
        resamples: of the bootstrap over images, both versions of an image together.
        seed: of the bootstrap.

    Returns:
        For each of ``SCORES`` the area under the ROC curve: the chance that a corrupted image
        scores higher than a clean one. Below 0.5 corrupted images score lower, which
        distinguishes them as well; it is left as it is, never turned round.

    Raises:
        ValueError: fewer than 2 images, different counts, or scores that are not finite.
    """
    return {
        name: interval(
            paired_auc,
            _array(clean_scores[name]),
            _array(corrupted_scores[name]),
            level=level,
            resamples=resamples,
            seed=seed,
        )
        for name in SCORES
    }


def _scores(subject: Subject, name: str, images: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = subject.step(
        f"scores {name}",
        len(images),
        lambda: prediction_scores(
            subject.classifier.network,
            images,
            likelihood=subject.classifier.family,
            batch_size=batch_size(images),
        ),
    )
    return found


def _wrong(predicted: Tensor, labels: Tensor) -> Tensor:
    """(N,) booleans; a prediction of several labels is wrong when one of them is."""
    return (labels.cpu() != predicted.cpu()).reshape(len(predicted), -1).any(dim=1)


def _plain(found: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: each.as_dict() for name, each in found.items()}


def _array(scores: Tensor) -> Floats:
    return scores.detach().cpu().double().numpy()
