"""The bootstrap: resampled are the images, never single numbers of one image.

All intervals are percentile intervals of ``scipy.stats.bootstrap``. Its default, BCa, has no
answer (NaN) where all resamples agree, as they do for an accuracy of 1.

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


def intervals(
    statistic: Callable[[Indices], Floats],
    shape: tuple[int, ...],
    level: float,
    resamples: int,
    seed: int,
) -> list[Interval]:
    """Intervals of E figures from one bootstrap over n images.

    Args:
        statistic: from drawn indices (R, n) to (E, R); NaN for a draw without an answer. Such
            draws do not count, as if they were drawn again until there is one.
        shape: (values looked at for each image, n).
        level: of the interval.
        resamples: R.
        seed: of the draws.

    Returns:
        E intervals.

    Raises:
        ValueError: an impossible level or number, or no draw with an answer.
    """
    if not 0 < level < 1 or resamples < 2:
        raise ValueError(
            f"expected 0 < level < 1 and resamples >= 2, got level={level} and "
            f"resamples={resamples}; 0.95 and 1000 are usual"
        )
    images = np.arange(shape[-1])
    with warnings.catch_warnings():
        # What scipy says of any NaN among the draws, in words about BCa.
        warnings.simplefilter("ignore", DegenerateDataWarning)
        result = bootstrap(
            (images,),
            lambda drawn, axis: statistic(drawn),
            n_resamples=resamples,
            batch=max(1, _BLOCK // math.prod(shape)),
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
    values = statistic(images[None])[:, 0].tolist()
    return [Interval(*figures, len(images)) for figures in zip(values, low, high, strict=True)]


def numbers(name: str, values: ArrayLike, dimensions: int) -> Floats:
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


def paired_numbers(
    name: str, values: ArrayLike, other: str, others: ArrayLike
) -> tuple[Floats, Floats]:
    """Check two numbers of each of n images.

    Args:
        name: of the first, for the message.
        values: (n,).
        other: name of the second.
        others: (n,).

    Returns:
        Both in float64.

    Raises:
        ValueError: see ``numbers``; or different counts.
    """
    a, b = numbers(name, values, 1), numbers(other, others, 1)
    if a.shape != b.shape:
        raise ValueError(
            f"expected {name} and {other} of the same images, got {len(a)} and {len(b)} numbers; "
            "pass one of each for every image"
        )
    return a, b
