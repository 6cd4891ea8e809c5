"""What may be concluded from intervals, by rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from monai_ifim.report.results.measured import block, known, measured
from monai_ifim.report.results.numbers import ABSENT

HOLDS, UNDECIDED, FAILS = "holds", "undecided", "fails"
FEWEST = 8  # samples behind a verdict
TOLERANCE = 0.1  # relative error of the quadratic law beyond which no identity decides


def verdict(ratio: Any, border: float = 1.0) -> str:
    """Whether a ratio is above a border, by its interval.

    Args:
        ratio: an interval.
        border: the ratio without any effect.

    Returns:
        ``holds`` with the interval entirely above the border, ``fails`` with it entirely below,
        ``undecided`` when it contains the border, is not known, or comes from fewer than 8
        samples, whose percentile intervals are much too narrow; ``–`` without a value.

    >>> verdict({"value": 2.0, "low": 1.5, "high": 3.0})
    'holds'
    >>> verdict({"value": 2.0, "low": 0.9, "high": 3.0})
    'undecided'
    >>> verdict({"value": 0.5, "low": 0.4, "high": 0.9})
    'fails'
    """
    if not measured(ratio):
        return ABSENT
    count = block(ratio, "n")
    if known(count) and count < FEWEST:
        return UNDECIDED
    low, high = block(ratio, "low"), block(ratio, "high")
    if known(low) and low > border:
        return HOLDS
    if known(high) and high < border:
        return FAILS
    return UNDECIDED


def compare(first: Any, second: Any) -> str:
    """Whether one value is larger than another, by whether their intervals are apart.

    Intervals that overlap leave it undecided. This is stricter than an interval of the difference.

    Args:
        first: an interval.
        second: an interval.

    Returns:
        ``holds`` (the first is larger), ``fails`` (smaller), ``undecided``, or ``–`` without
        values.

    >>> compare({"value": 2, "low": 1.5, "high": 3}, {"value": 1, "low": 0.5, "high": 1.4})
    'holds'
    """
    if not (measured(first) and measured(second)):
        return ABSENT
    ends = [block(part, side) for part in (first, second) for side in ("low", "high")]
    if not all(map(known, ends)):
        return UNDECIDED
    if ends[0] > ends[3]:
        return HOLDS
    return FAILS if ends[1] < ends[2] else UNDECIDED


def counted(outcomes: Iterable[str], nouns: str = "comparisons") -> str:
    """How many comparisons hold, are undecided and fail.

    >>> counted(["holds", "holds", "fails"])
    'holds in 2 of 3 comparisons, is undecided in 0 and fails in 1'
    """
    count = Counter(outcomes)
    return (
        f"holds in {count[HOLDS]} of {count.total()} {nouns}, is undecided in "
        f"{count[UNDECIDED]} and fails in {count[FAILS]}"
    )


def off_the_law(ratio: float) -> bool:
    """Whether a divergence lies beyond the quadratic regime.

    Args:
        ratio: the divergence divided by what the quadratic law predicts for it.

    Returns:
        Whether it is more than 10 % away from 1.
    """
    return abs(ratio - 1) > TOLERANCE
