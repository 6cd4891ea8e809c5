"""Statistics that are means, medians, or made of means."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from monai_ifim.experiments.statistics.bootstrap import (
    Figures,
    Floats,
    Indices,
    numbers,
    paired_numbers,
)


def average(values: ArrayLike) -> Figures:
    """Mean over images.

    Args:
        values: (n,), n >= 2.

    Returns:
        One figure.

    Raises:
        ValueError: another shape, fewer than 2 images, or a value that is not finite.
    """
    return means(numbers("values", values)[:, None])


def means(values: ArrayLike) -> Figures:
    """Means over images of several numbers.

    Args:
        values: (n, E), one row an image.

    Returns:
        E figures.

    Raises:
        ValueError: another shape, fewer than 2 images, or a value that is not finite.
    """
    rows = numbers("values", values, 2).T
    # Rounding alone can take the mean of equal numbers past them.
    least, most = rows.min(axis=1)[:, None], rows.max(axis=1)[:, None]

    def of(drawn: Indices) -> Floats:
        return rows[:, drawn].mean(axis=-1).clip(least, most)

    return Figures(rows.shape[1], of, width=rows.shape[0])


def median_value(values: ArrayLike) -> Figures:
    """Median over images.

    Args:
        values: (n,), n >= 2.

    Returns:
        One figure.

    Raises:
        ValueError: another shape, fewer than 2 images, or a value that is not finite.
    """
    row = numbers("values", values)
    return Figures(len(row), lambda drawn: np.median(row[drawn], axis=-1)[None])


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> Figures:
    """Ratio of two means over the same images: mean(numerator) / mean(denominator).

    Args:
        numerator: (n,).
        denominator: (n,), not negative, of the same images in the same order.

    Returns:
        One figure; both means are of the same draw.

    Raises:
        ValueError: another shape, different counts, a value that is not finite; or a denominator
            that is negative, or zero for so many images that a draw holds no other.
    """
    above, below = paired_numbers(numerator=numerator, denominator=denominator)
    if (below < 0).any():
        raise ValueError(
            f"expected a denominator that is not negative, got {below.min()}; a mean that can "
            "pass through zero has no ratio, use the mean of the difference"
        )

    def of(drawn: Indices) -> Floats:
        average = below[drawn].mean(axis=-1)
        if (average == 0).any():
            raise ValueError(
                f"expected a denominator above zero in every draw, got zeros alone in one of them "
                f"({int((below == 0).sum())} of {len(below)} images have zero); leave such images "
                "out or use the mean of the difference"
            )
        return (above[drawn].mean(axis=-1) / average)[None]

    return Figures(len(above), of)


def accuracy(labels: ArrayLike, predicted: ArrayLike) -> Figures:
    """Share of correct predictions.

    For an accuracy of 0 or 1 the interval has no width: the bootstrap cannot know of errors that
    it has not seen.

    Args:
        labels: (n,) integers.
        predicted: (n,) integers, of the same images in the same order.

    Returns:
        One figure.

    Raises:
        ValueError: another shape, different counts, or a value that is not finite.
    """
    truth, guess = paired_numbers(labels=labels, predicted=predicted)
    return average(truth == guess)
