"""Areas under the ROC curve."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monai_ifim.experiments.statistics.bootstrap import (
    Figures,
    Floats,
    Indices,
    numbers,
    paired_numbers,
)


def auc(labels: ArrayLike, scores: ArrayLike) -> Figures:
    """Area under the ROC curve: how often a positive image has the higher score, ties half.

    Like the accuracy's, its interval has no width for a perfect 0 or 1. A draw of one class alone
    does not count.

    Args:
        labels: (n,) of 0 and 1.
        scores: (n,), of the same images in the same order.

    Returns:
        One figure.

    Raises:
        ValueError: another shape, different counts, a value that is not finite, or labels of
            other than both of 0 and 1.

    >>> from monai_ifim.experiments.statistics import interval
    >>> interval(auc, [0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8]).value
    0.875
    """
    truth, row = paired_numbers(labels=labels, scores=scores)
    if set(np.unique(truth)) != {0.0, 1.0}:
        raise ValueError(
            f"expected labels of 0 and 1, both of them, got {np.unique(truth)[:5].tolist()}; one "
            "class alone has no ROC curve, leave the figure out or pass more images"
        )
    ladder = _Ladder(row, truth == 1)
    return Figures(len(row), lambda drawn: ladder.areas(_counts(drawn, len(row)))[None])


def classification_auc(labels: ArrayLike, probabilities: ArrayLike) -> Figures:
    """Area under the ROC curve of a classifier; a draw that misses a class does not count.

    Args:
        labels: (n,) integers from 0 to K - 1.
        probabilities: (n, K) of the K classes.

    Returns:
        One figure. For K = 2 the area of the second column; for more the mean over classes of the
        area of one class against all others, as ``sklearn.metrics.roc_auc_score`` with
        ``multi_class="ovr"`` and ``average="macro"``.

    Raises:
        ValueError: another shape, different counts, a value that is not finite, K < 2, or
            classes that are missing among the labels.
    """
    truth, columns = numbers("labels", labels), numbers("probabilities", probabilities, 2)
    classes = np.arange(columns.shape[1])
    if len(truth) != len(columns) or len(classes) < 2:
        raise ValueError(
            f"expected labels (n,) and probabilities (n, K) with K >= 2, got {truth.shape} and "
            f"{columns.shape}; for one sigmoid use auc with labels and probabilities[:, 0]"
        )
    if not np.array_equal(np.unique(truth), classes):
        raise ValueError(
            f"expected labels with each of the classes 0 to {classes[-1]}, got "
            f"{np.unique(truth).tolist()}; pass more images, or leave out the columns of classes "
            "that have none"
        )
    ladders = [_Ladder(columns[:, k], truth == k) for k in (classes if len(classes) > 2 else [1])]

    def of(drawn: Indices) -> Floats:
        counts = _counts(drawn, len(truth))
        return np.mean([ladder.areas(counts) for ladder in ladders], axis=0)[None]

    return Figures(len(truth), of)


def paired_auc(clean: ArrayLike, changed: ArrayLike) -> Figures:
    """Area under the ROC curve for distinguishing changed images from the same ones unchanged.

    Args:
        clean: (n,) scores of the images.
        changed: (n,) scores of the same images in the same order, changed: the positive ones.

    Returns:
        One figure: above 0.5 where the changed images score higher, below where they score lower.
        An image is drawn in both versions.

    Raises:
        ValueError: another shape, different counts, or a value that is not finite.
    """
    both = np.concatenate(paired_numbers(clean=clean, changed=changed))
    count = len(both) // 2
    ladder = _Ladder(both, np.arange(len(both)) >= count)

    def of(drawn: Indices) -> Floats:
        counts = _counts(drawn, count)
        return ladder.areas(np.concatenate([counts, counts], axis=1))[None]

    return Figures(count, of, width=2)


class _Ladder:
    """Scores in rising order, equal ones on one rung.

    ``sklearn.metrics.roc_auc_score`` takes one draw at a time, a thousand calls an interval. Here
    scores are sorted once for all draws, which only count how often an image was drawn: five
    times as fast as ranks of every draw, and exact, because all sums are of integers and halves.
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
