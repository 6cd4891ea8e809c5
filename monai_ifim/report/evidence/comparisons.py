"""Differences measured on several networks: their mean, and how many stand after a correction.

All from the 95 % intervals alone, by a normal approximation: the standard error is the interval's
width divided by 2 · 1.96.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import false_discovery_control, norm

from monai_ifim.report.results.measured import Interval

RATE = 0.05  # of false discoveries
_ENDS = ("value", "low", "high")
_WIDTH = 2 * norm.ppf(0.975)


def standard_error(interval: Interval) -> float:
    """Of a value, from the width of its interval."""
    return float((interval["high"] - interval["low"]) / _WIDTH)


def p_value(difference: Interval) -> float:
    """Two-sided, that the difference is 0.

    >>> round(p_value({"value": 1.96, "low": 0.0, "high": 3.92}), 3)
    0.05
    """
    error = standard_error(difference)
    if error == 0:
        return 0.0 if difference["value"] else 1.0
    return float(2 * norm.sf(abs(difference["value"]) / error))


def adjusted(differences: Sequence[Interval]) -> list[float]:
    """p-values after the correction of Benjamini and Hochberg over all of them."""
    return [float(p) for p in false_discovery_control([p_value(each) for each in differences])]


def minus(first: Interval, second: Interval) -> Interval:
    """Difference of two values as if they were independent, which is too wide for the same images.

    >>> minus({"value": 3, "low": 0, "high": 6}, {"value": 1, "low": -3, "high": 5})
    {'value': 2, 'low': -3.0, 'high': 7.0}
    """
    half = math.hypot(*(each["high"] - each["low"] for each in (first, second))) / 2
    value = first["value"] - second["value"]
    return {"value": value, "low": value - half, "high": value + half}


def mean(intervals: Sequence[Interval]) -> Interval:
    """Mean over these networks, independent of each other: no other networks are inferred from it.

    >>> mean([{"value": 1, "low": 0, "high": 2}] * 4)
    {'value': 1.0, 'low': 0.5, 'high': 1.5}
    """
    value = float(np.mean([each["value"] for each in intervals]))
    # Each side by itself, so that the mean of areas never leaves [0, 1].
    below = math.hypot(*(each["value"] - each["low"] for each in intervals)) / len(intervals)
    above = math.hypot(*(each["high"] - each["value"] for each in intervals)) / len(intervals)
    return {"value": value, "low": value - below, "high": value + above}


def together(intervals: Sequence[Interval]) -> Interval:
    """One number for a network from several of its own, as if they varied together.

    >>> together([{"value": 1, "low": 0, "high": 2}, {"value": 3, "low": 2, "high": 4}])
    {'value': 2.0, 'low': 1.0, 'high': 3.0}
    """
    return {end: float(np.mean([each[end] for each in intervals])) for end in _ENDS}


def logarithm(ratio: Interval) -> Interval:
    """Of a ratio and its ends; an end at 0 is taken as a thousandth of the value."""
    least = 1e-3 * ratio["value"]
    return {end: math.log(max(ratio[end], least)) for end in _ENDS}


def power(log_ratio: Interval) -> Interval:
    """The ratio of a logarithm."""
    return {end: math.exp(log_ratio[end]) for end in _ENDS}


def geometric_mean(ratios: Sequence[Interval]) -> Interval:
    """Mean of ratios over these networks, by their logarithms."""
    return power(mean([logarithm(each) for each in ratios]))


@dataclass(frozen=True)
class Tally:
    """What differences of several networks say.

    Attributes:
        mean: of them.
        above: how many are above 0 after the correction.
        below: how many are below.
        count: how many there are.
    """

    mean: Interval
    above: int
    below: int
    count: int

    @property
    def answer(self) -> str:
        """Whether there is a difference, by rule.

        ``Yes`` where the mean's interval lies above 0 and no difference below; ``No`` where it lies
        below 0 and none above; ``In part`` where some are above and the rest says otherwise;
        ``Not shown`` in all other cases.
        """
        if self.mean["low"] > 0 and not self.below:
            return "Yes"
        if self.above:
            return "In part"
        return "No" if self.mean["high"] < 0 else "Not shown"


def tally(differences: Sequence[Interval]) -> Tally:
    """Mean of differences, and how many of them stand after the correction.

    Args:
        differences: at least one.

    Returns:
        The tally.

    >>> far, near = {"value": 1, "low": 0.9, "high": 1.1}, {"value": 0.1, "low": -0.5, "high": 0.7}
    >>> found = tally([far, near])
    >>> found.above, found.below, found.count, found.answer
    (1, 0, 2, 'Yes')
    """
    stand = [p <= RATE for p in adjusted(differences)]
    signs = [math.copysign(1, each["value"]) for each in differences]
    pairs = list(zip(stand, signs, strict=True))
    return Tally(
        mean(differences),
        sum(held and sign > 0 for held, sign in pairs),
        sum(held and sign < 0 for held, sign in pairs),
        len(differences),
    )
