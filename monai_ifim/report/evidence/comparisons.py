"""Differences measured on several networks: their mean, and how many stand after a correction.

All from the 95 % intervals alone. A bootstrap over T trainings gives a standard error that is too
small by √((T − 1)/T), and T trainings leave T − 1 degrees of freedom: hence Student's t. Without
``trainings``, or with one, an interval is over images alone, and taken as normal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import false_discovery_control, norm, t

from monai_ifim.report.results.measured import Interval

RATE = 0.05  # of false discoveries
_ENDS = ("value", "low", "high")
_QUANTILE = (1 + 0.95) / 2


def freedom(interval: Interval) -> float:
    """Degrees of freedom of its standard error: one fewer than trainings, infinite for one.

    >>> freedom({"value": 0, "low": -1, "high": 1, "trainings": 5})
    4.0
    """
    return float(interval.get("trainings", 1) - 1) or math.inf


def standard_error(interval: Interval) -> float:
    """Of a value, from the width of its interval and the number of trainings.

    >>> round(standard_error({"value": 0, "low": -1.96, "high": 1.96, "trainings": 2}), 3)
    1.414
    """
    return _error(interval, (interval["high"] - interval["low"]) / 2)


def _error(interval: Interval, half: float) -> float:
    return float(half / norm.ppf(_QUANTILE) * math.sqrt(1 + 1 / freedom(interval)))


def p_value(difference: Interval) -> float:
    """Two-sided, that the difference is 0.

    >>> round(p_value({"value": 1.96, "low": 0.0, "high": 3.92}), 3)
    0.05
    """
    error = standard_error(difference)
    if error == 0:
        return 0.0 if difference["value"] else 1.0
    return float(2 * t.sf(abs(difference["value"]) / error, freedom(difference)))


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
    return {"value": value, "low": value - half, "high": value + half} | _fewest(first, second)


def network_mean(
    intervals: Sequence[Interval], limits: tuple[float, float] = (-math.inf, math.inf)
) -> Interval:
    """Mean over these networks, independent of each other: no other networks are inferred from it.

    Args:
        intervals: of the networks, with the number of ``trainings`` of each.
        limits: of the values, which no end of the interval leaves.

    Returns:
        The mean and its 95 % interval, by Student's t with the degrees of freedom of Welch and
        Satterthwaite; each side from the same side of the networks' intervals.

    Source: F. E. Satterthwaite, "An approximate distribution of estimates of variance components",
    Biometrics Bulletin 2, 1946.

    >>> found = network_mean([{"value": 1, "low": 0, "high": 2}] * 4)
    >>> {name: round(end, 6) for name, end in found.items()}
    {'value': 1.0, 'low': 0.5, 'high': 1.5}
    """
    value = float(np.mean([each["value"] for each in intervals]))
    quantile = float(t.ppf(_QUANTILE, _mean_freedom(intervals))) / len(intervals)
    below = quantile * math.hypot(*(_error(e, e["value"] - e["low"]) for e in intervals))
    above = quantile * math.hypot(*(_error(e, e["high"] - e["value"]) for e in intervals))
    least, most = limits
    return {"value": value, "low": max(least, value - below), "high": min(most, value + above)}


def _mean_freedom(intervals: Sequence[Interval]) -> float:
    """Of the standard error of a mean: infinite where no network was trained several times."""
    variances = [standard_error(each) ** 2 for each in intervals]
    parts = [v**2 / freedom(each) for v, each in zip(variances, intervals, strict=True)]
    return sum(variances) ** 2 / sum(parts) if sum(parts) else math.inf


def together(intervals: Sequence[Interval]) -> Interval:
    """One number for a network from several of its own, as if they varied together.

    >>> together([{"value": 1, "low": 0, "high": 2}, {"value": 3, "low": 2, "high": 4}])
    {'value': 2.0, 'low': 1.0, 'high': 3.0}
    """
    means = {end: float(np.mean([each[end] for each in intervals])) for end in _ENDS}
    return means | _fewest(*intervals)


def _fewest(*intervals: Interval) -> dict[str, int]:
    """The number of trainings, the smallest of those stated; a constant has none."""
    found = [each["trainings"] for each in intervals if "trainings" in each]
    return {"trainings": min(found)} if found else {}


def logarithm(ratio: Interval) -> Interval:
    """Of a ratio and its ends; an end at 0 is taken as a thousandth of the value."""
    least = 1e-3 * ratio["value"]
    return ratio | {end: math.log(max(ratio[end], least)) for end in _ENDS}


def power(log_ratio: Interval) -> Interval:
    """The ratio of a logarithm."""
    return log_ratio | {end: math.exp(log_ratio[end]) for end in _ENDS}


def inverse(ratio: Interval) -> Interval:
    """One by a ratio.

    >>> inverse({"value": 2.0, "low": 1.0, "high": 4.0})
    {'value': 0.5, 'low': 0.25, 'high': 1.0}
    """
    return power(negative(logarithm(ratio)))


def shifted(value: Interval, by: float) -> Interval:
    """A value and both its ends, moved by a number."""
    return value | {end: value[end] + by for end in _ENDS}


def negative(difference: Interval) -> Interval:
    """A difference the other way round."""
    ends = {"low": -difference["high"], "high": -difference["low"]}
    return difference | {"value": -difference["value"]} | ends


def geometric_mean(ratios: Sequence[Interval]) -> Interval:
    """Mean of ratios over these networks, by their logarithms."""
    return power(network_mean([logarithm(each) for each in ratios]))


@dataclass(frozen=True)
class Tally:
    """What differences of several networks say.

    Attributes:
        mean: of them.
        signs: of each: 1 where it is above 0 after the correction, -1 where it is below, else 0.
    """

    mean: Interval
    signs: tuple[int, ...]

    @property
    def above(self) -> int:
        """How many are above 0 after the correction."""
        return self.signs.count(1)

    @property
    def below(self) -> int:
        """How many are below."""
        return self.signs.count(-1)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.signs)

    @property
    def answer(self) -> str:
        """Whether there is a difference, by rule.

        ``Yes`` where the mean's interval lies above 0, some differences above and none below;
        ``No`` where it lies below 0, some below and none above; ``In part`` where some are above
        and the rest says otherwise; ``Not shown`` in all other cases. A mean alone shows nothing:
        networks of one task share its images, and are less independent than it takes them for.
        """
        if self.above:
            return "Yes" if self.mean["low"] > 0 and not self.below else "In part"
        return "No" if self.mean["high"] < 0 and self.below else "Not shown"


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
    pairs = zip(adjusted(differences), differences, strict=True)
    signs = (int(math.copysign(p <= RATE, each["value"])) for p, each in pairs)
    return Tally(network_mean(differences), tuple(signs))
