"""Areas under the ROC curve, with bootstrap intervals over images."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monai_ifim.experiments.statistics.bootstrap import (
    Floats,
    Indices,
    Interval,
    intervals,
    numbers,
    paired_numbers,
)


def auc_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Area under the ROC curve: how often a positive image has the higher score, ties half.

    Args:
        labels: (n,) of 0 and 1.
        scores: (n,), of the same images in the same order.
        level: of the interval, between 0 and 1.
        resamples: how many times the images are drawn again; a draw of one class alone does not
            count.
        seed: of the draws; the global random state is not touched.

    Returns:
        The area and its interval. Like the accuracy's, it has no width for a perfect 0 or 1.

    Raises:
        ValueError: another shape, fewer than 2 images, a value that is not finite, or
            labels of other than both of 0 and 1.

    >>> auc_interval([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8]).value
    0.875
    """
    truth, row = paired_numbers("labels", labels, "scores", scores)
    if set(np.unique(truth)) != {0.0, 1.0}:
        raise ValueError(
            f"expected labels of 0 and 1, both of them, got {np.unique(truth)[:5].tolist()}; one "
            "class alone has no ROC curve, leave the figure out or pass more images"
        )
    ladder = _Ladder(row, truth == 1)

    def statistic(drawn: Indices) -> Floats:
        return ladder.areas(_counts(drawn, len(row)))[None]

    return intervals(statistic, (1, len(row)), level, resamples, seed)[0]


def classification_auc_interval(
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Area under the ROC curve of a classifier.

    Args:
        labels: (n,) integers from 0 to K - 1.
        probabilities: (n, K) of the K classes.
        level: see ``auc_interval``.
        resamples: see ``auc_interval``; a draw that misses a class does not count.
        seed: see ``auc_interval``.

    Returns:
        For K = 2 the area of the second column; for more the mean over classes of the area of
        one class against all others, as ``sklearn.metrics.roc_auc_score`` with
        ``multi_class="ovr"`` and ``average="macro"``.

    Raises:
        ValueError: see ``auc_interval``; K < 2, or classes that are missing among the labels.
    """
    truth, columns = numbers("labels", labels, 1), numbers("probabilities", probabilities, 2)
    classes = np.arange(columns.shape[1])
    if len(truth) != len(columns) or len(classes) < 2:
        raise ValueError(
            f"expected labels (n,) and probabilities (n, K) with K >= 2, got {truth.shape} and "
            f"{columns.shape}; for one sigmoid use auc_interval(labels, probabilities[:, 0])"
        )
    if not np.array_equal(np.unique(truth), classes):
        raise ValueError(
            f"expected labels with each of the classes 0 to {classes[-1]}, got "
            f"{np.unique(truth).tolist()}; pass more images, or leave out the columns of classes "
            "that have none"
        )
    ladders = [_Ladder(columns[:, k], truth == k) for k in (classes if len(classes) > 2 else [1])]

    def statistic(drawn: Indices) -> Floats:
        counts = _counts(drawn, len(truth))
        return np.mean([ladder.areas(counts) for ladder in ladders], axis=0)[None]

    return intervals(statistic, (1, len(truth)), level, resamples, seed)[0]


def paired_auc_interval(
    clean: ArrayLike,
    changed: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Area under the ROC curve for telling changed images from the same images unchanged.

    Args:
        clean: (n,) scores of the images.
        changed: (n,) scores of the same images in the same order, changed: the positive ones.
        level: see ``auc_interval``.
        resamples: see ``auc_interval``; an image is drawn in both versions.
        seed: see ``auc_interval``.

    Returns:
        The area and its interval: above 0.5 where the changed images score higher, below where
        they score lower.

    Raises:
        ValueError: see ``auc_interval``.
    """
    both = np.concatenate(paired_numbers("clean", clean, "changed", changed))
    count = len(both) // 2
    ladder = _Ladder(both, np.arange(len(both)) >= count)

    def statistic(drawn: Indices) -> Floats:
        counts = _counts(drawn, count)
        return ladder.areas(np.concatenate([counts, counts], axis=1))[None]

    return intervals(statistic, (2, count), level, resamples, seed)[0]


class _Ladder:
    """Scores in rising order, equal ones on one rung.

    Sorted once for all draws, which only count how often an image was drawn: five times as fast
    as ranks of every draw, and exact, because all sums are of integers and halves.
    """

    def __init__(self, scores: Floats, positive: NDArray[np.bool_]) -> None:
        self.order = np.argsort(scores, kind="stable")
        self.positive = positive[self.order]
        self.rungs = np.flatnonzero(np.diff(scores[self.order], prepend=-np.inf))

    def areas(self, counts: Indices) -> Floats:
        """Areas (R,) when image i was drawn counts[:, i] times, (R, n); NaN for one class."""
        drawn = counts[:, self.order]
        positive = np.add.reduceat(drawn * self.positive, self.rungs, axis=1)
        negative = np.add.reduceat(drawn * ~self.positive, self.rungs, axis=1)
        wins = positive * (negative.cumsum(axis=1) - negative / 2)
        pairs = (positive.sum(axis=1) * negative.sum(axis=1)).astype(np.float64)
        pairs[pairs == 0] = np.nan
        return wins.sum(axis=1) / pairs


def _counts(drawn: Indices, count: int) -> Indices:
    """How often each of ``count`` images is in each draw, (R, n) to (R, count)."""
    rows = drawn + count * np.arange(len(drawn))[:, None]
    return np.bincount(rows.ravel(), minlength=count * len(drawn)).reshape(-1, count)
