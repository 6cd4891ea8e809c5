"""Figures over images, each with its bootstrap interval (see ``bootstrap``)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from monai_ifim.experiments.statistics.bootstrap import (
    Floats,
    Indices,
    Interval,
    intervals,
    numbers,
    paired_numbers,
)
from monai_ifim.experiments.statistics.roc import (
    auc_interval,
    classification_auc_interval,
    paired_auc_interval,
)

__all__ = [
    "Interval",
    "accuracy_interval",
    "auc_interval",
    "classification_auc_interval",
    "difference_interval",
    "mean_interval",
    "mean_intervals",
    "median_interval",
    "paired_auc_interval",
    "ratio_interval",
    "spearman_interval",
]


def mean_interval(
    values: ArrayLike, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Mean over images.

    Args:
        values: (n,), n >= 2.
        level: of the interval, between 0 and 1.
        resamples: how many times the images are drawn again.
        seed: of the draws; the global random state is not touched.

    Returns:
        The mean and its interval.

    Raises:
        ValueError: another shape, fewer than 2 images, or a value that is not finite.

    >>> mean_interval([2.0, 2.0, 2.0])
    Interval(value=2.0, low=2.0, high=2.0, count=3)
    """
    columns = numbers("values", values, 1)[:, None]
    return mean_intervals(columns, level=level, resamples=resamples, seed=seed)[0]


def mean_intervals(
    values: ArrayLike, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> list[Interval]:
    """Means over images of several numbers, from one bootstrap: all use the same draws.

    Args:
        values: (n, E), one row an image.
        level: see ``mean_interval``.
        resamples: see ``mean_interval``.
        seed: see ``mean_interval``.

    Returns:
        E intervals; each one holds for its own column, not for all of them at once.

    Raises:
        ValueError: see ``mean_interval``.
    """
    rows = numbers("values", values, 2).T
    # Rounding alone can take the mean of equal numbers past them.
    least, most = rows.min(axis=1)[:, None], rows.max(axis=1)[:, None]

    def statistic(drawn: Indices) -> Floats:
        return rows[:, drawn].mean(axis=-1).clip(least, most)

    return intervals(statistic, rows.shape, level, resamples, seed)


def median_interval(
    values: ArrayLike, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Median over images.

    Args:
        values: (n,), n >= 2.
        level: see ``mean_interval``.
        resamples: see ``mean_interval``.
        seed: see ``mean_interval``.

    Returns:
        The median and its interval.

    Raises:
        ValueError: see ``mean_interval``.
    """
    row = numbers("values", values, 1)

    def statistic(drawn: Indices) -> Floats:
        return np.median(row[drawn], axis=-1)[None]

    return intervals(statistic, (1, len(row)), level, resamples, seed)[0]


def difference_interval(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Mean of a - b, of two numbers of the same images.

    Args:
        a: (n,).
        b: (n,), of the same images in the same order.
        level: see ``mean_interval``.
        resamples: see ``mean_interval``.
        seed: see ``mean_interval``.

    Returns:
        The mean difference and its interval.

    Raises:
        ValueError: see ``mean_interval``.
    """
    first, second = paired_numbers("a", a, "b", b)
    return mean_interval(first - second, level=level, resamples=resamples, seed=seed)


def ratio_interval(
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Ratio of two means over the same images: mean(numerator) / mean(denominator).

    Args:
        numerator: (n,).
        denominator: (n,), not negative, of the same images in the same order.
        level: see ``mean_interval``.
        resamples: see ``mean_interval``.
        seed: see ``mean_interval``.

    Returns:
        The ratio and its interval; both means are of the same draw.

    Raises:
        ValueError: see ``mean_interval``; or a denominator that is negative, or zero for so many
            images that a draw holds no other.
    """
    above, below = paired_numbers("numerator", numerator, "denominator", denominator)
    if (below < 0).any():
        raise ValueError(
            f"expected a denominator that is not negative, got {below.min()}; a mean that can "
            "pass through zero has no ratio, use difference_interval"
        )

    def statistic(drawn: Indices) -> Floats:
        mean = below[drawn].mean(axis=-1)
        if (mean == 0).any():
            raise ValueError(
                f"expected a denominator above zero in every draw, got zeros alone in one of them "
                f"({int((below == 0).sum())} of {len(below)} images have zero); leave such images "
                "out or use difference_interval"
            )
        return (above[drawn].mean(axis=-1) / mean)[None]

    return intervals(statistic, (1, len(above)), level, resamples, seed)[0]


def accuracy_interval(
    labels: ArrayLike,
    predicted: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Share of correct predictions.

    Args:
        labels: (n,) integers.
        predicted: (n,) integers.
        level: see ``mean_interval``.
        resamples: see ``mean_interval``.
        seed: see ``mean_interval``.

    Returns:
        The accuracy and its interval. For an accuracy of 0 or 1 the interval has no width: the
        bootstrap cannot know of errors that it has not seen.

    Raises:
        ValueError: see ``mean_interval``.

    >>> accuracy_interval([0, 1, 2], [0, 1, 2])
    Interval(value=1.0, low=1.0, high=1.0, count=3)
    """
    truth, guess = paired_numbers("labels", labels, "predicted", predicted)
    return mean_interval(truth == guess, level=level, resamples=resamples, seed=seed)


def spearman_interval(
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Spearman's rank correlation of two numbers of the same images.

    Args:
        a: (n,).
        b: (n,), of the same images in the same order.
        level: see ``mean_interval``.
        resamples: see ``mean_interval``; a draw in which a or b is constant does not count.
        seed: see ``mean_interval``.

    Returns:
        The correlation, between -1 and 1, and its interval.

    Raises:
        ValueError: see ``mean_interval``; or constant a or b.
    """
    pair = np.stack(paired_numbers("a", a, "b", b))
    for name, row in zip("ab", pair, strict=True):
        if row.min() == row.max():
            raise ValueError(
                f"expected {name} to vary, got {row[0]} for all {len(row)} images; a constant "
                "has no rank correlation"
            )

    def statistic(drawn: Indices) -> Floats:
        ranks = rankdata(pair[:, drawn], axis=-1)
        ranks -= (drawn.shape[-1] + 1) / 2  # the mean of mid-ranks, ties or not
        size = np.sqrt((ranks**2).sum(axis=-1).prod(axis=0))
        size[size == 0] = np.nan
        return (ranks.prod(axis=0).sum(axis=-1) / size).clip(-1, 1)[None]

    return intervals(statistic, pair.shape, level, resamples, seed)[0]
