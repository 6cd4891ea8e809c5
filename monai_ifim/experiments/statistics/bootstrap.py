"""The bootstrap: resampled are the images, never single numbers of one image.

All intervals are percentile intervals of ``scipy.stats.bootstrap``. Its default, BCa, has no
answer (NaN) where all resamples agree, as they do for an accuracy of 1.

A statistic is a function: it takes the numbers of n images, checks them, and returns ``Figures``,
which say what the statistic is for any draw of the images. ``interval`` does the rest.

Source: B. Efron and R. J. Tibshirani, "An Introduction to the Bootstrap", Chapman and Hall 1993,
section 13.3.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import DegenerateDataWarning, bootstrap

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

# Resampled values held at a time: 32 MB.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Interval:
    """A figure and its bootstrap interval.

    Attributes:
        value: of the images themselves.
        low: lower end of the interval.
        high: upper end.
        count: number of images.

    Raises:
        ValueError: a number that is not finite.

    >>> Interval(0.5, 0.25, 0.75, 8).as_dict()
    {'value': 0.5, 'low': 0.25, 'high': 0.75, 'n': 8}
    """

    value: float
    low: float
    high: float
    count: int

    def __post_init__(self) -> None:
        if not all(math.isfinite(number) for number in (self.value, self.low, self.high)):
            raise ValueError(
                f"expected finite numbers, got {self.value} [{self.low}, {self.high}]; look for "
                "values near the largest float among those that are summed"
            )

    def as_dict(self) -> dict[str, float]:
        """Plain numbers, for JSON."""
        return {
            "value": float(self.value),
            "low": float(self.low),
            "high": float(self.high),
            "n": int(self.count),
        }


@dataclass(frozen=True)
class Figures:
    """A statistic of n images as a function of which of them are drawn.

    Attributes:
        count: number of images n.
        of: from drawn indices (R, n) to E figures of each draw, (E, R); NaN for a draw without an
            answer. Such draws do not count, as if they were drawn again until there is one.
        width: numbers that are looked up for every drawn image; how many draws are held in memory
            at a time follows from it.
    """

    count: int
    of: Callable[[Indices], Floats]
    width: int = 1


Statistic = Callable[..., Figures]


def interval(
    statistic: Statistic,
    *samples: ArrayLike,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """A figure over images and its bootstrap interval.

    Args:
        statistic: of one figure: ``mean``, ``median``, ``ratio``, ``accuracy``, ``spearman``,
            ``auc``, ``classification_auc``, ``paired_auc``, or a function like them.
        samples: what the statistic takes, one row an image. Where it takes several samples, they
            are of the same images in the same order, and an image is drawn in all of them.
        level: of the interval, between 0 and 1.
        resamples: how many times the images are drawn again.
        seed: of the draws; the global random state is not touched.

    Returns:
        The figure and its interval.

    Raises:
        ValueError: samples that the statistic refuses (another shape, fewer than 2 images, values
            that are not finite), an impossible level or number of draws, or no draw with an
            answer.

    >>> from monai_ifim.experiments.statistics import average
    >>> interval(average, [2.0, 2.0, 2.0])
    Interval(value=2.0, low=2.0, high=2.0, count=3)
    """
    (found,) = intervals(statistic, *samples, level=level, resamples=resamples, seed=seed)
    return found


def intervals(
    statistic: Statistic,
    *samples: ArrayLike,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Interval]:
    """Several figures over the same images from one bootstrap: all use the same draws.

    Args:
        statistic: of any number of figures, such as ``means``.
        samples: what the statistic takes, one row an image.
        level: of the intervals, between 0 and 1.
        resamples: how many times the images are drawn again.
        seed: of the draws; the global random state is not touched.

    Returns:
        An interval for each figure; it holds for that figure, not for all of them at once.

    Raises:
        ValueError: samples that the statistic refuses, an impossible level or number of draws, or
            no draw with an answer.
    """
    figures = statistic(*samples)
    if not 0 < level < 1 or resamples < 2:
        raise ValueError(
            f"expected 0 < level < 1 and resamples >= 2, got level={level} and "
            f"resamples={resamples}; 0.95 and 1000 are usual"
        )
    images = np.arange(figures.count)
    with warnings.catch_warnings():
        # What scipy says of any NaN among the draws, in words about BCa.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        result = bootstrap(
            (images,),
            lambda drawn, axis: figures.of(drawn),
            n_resamples=resamples,
            batch=max(1, _BLOCK // (figures.width * figures.count)),
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
    draws = result.bootstrap_distribution
    draws = draws[:, ~np.isnan(draws).any(axis=0)]
    if not draws.shape[1]:
        raise ValueError(
            f"expected a draw with an answer, got none in {resamples}; pass more images or more "
            "resamples"
        )
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=1).tolist()
    values = figures.of(images[None])[:, 0].tolist()
    return [Interval(*ends, len(images)) for ends in zip(values, low, high, strict=True)]


def numbers(name: str, values: ArrayLike, dimensions: int = 1) -> Floats:
    """Check the numbers of n images.

    Args:
        name: of the values, for the message.
        values: (n,) or (n, E).
        dimensions: 1 or 2.

    Returns:
        The values in float64.

    Raises:
        ValueError: another shape, fewer than 2 images, or a value that is not finite.
    """
    array = np.asarray(values)
    shape = "(n,)" if dimensions == 1 else "(n, E)"
    if array.ndim != dimensions or len(array) < 2 or not array.size:
        raise ValueError(
            f"expected {name} of shape {shape} with n >= 2, got {array.shape}; one image alone "
            "has no interval"
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(
            f"expected finite {name}, got {int((~np.isfinite(array)).sum())} of {array.size} that "
            "are not; find out why, or leave those images out"
        )
    return array


def paired_numbers(**samples: ArrayLike) -> list[Floats]:
    """Check several numbers of each of n images.

    Args:
        samples: (n,) each, by name.

    Returns:
        All of them in float64, in that order.

    Raises:
        ValueError: what ``numbers`` refuses, or different counts.
    """
    found = [numbers(name, values) for name, values in samples.items()]
    if len({len(row) for row in found}) > 1:
        raise ValueError(
            f"expected {' and '.join(samples)} of the same images, got "
            f"{' and '.join(str(len(row)) for row in found)} numbers; pass one of each for every "
            "image"
        )
    return found
