"""Numbers and intervals in words, and what may be concluded from an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from monai_ifim.report.results.measured import block, known, measured

ABSENT = "–"
HOLDS, UNDECIDED, FAILS = "holds", "undecided", "fails"
FEWEST = 8  # samples behind a verdict


def number(value: Any, *, powers: bool = False) -> str:
    """Three significant digits, or two and a power of ten for what is large or small.

    >>> [number(value) for value in (12.34, 0.9123, 150, 21400, 0.00052, 0, None)]
    ['12.3', '0.912', '150', '2.1e4', '5.2e-4', '0', '–']
    """
    if not known(value):
        return ABSENT
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(value)))
    if -3 <= power < 4 and not powers:
        return f"{value:.{max(0, 2 - power)}f}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}e{int(exponent)}"


def interval(given: Any, unit: str = "") -> str:
    """Value and interval.

    >>> interval({"value": 12.34, "low": 10.1, "high": 15.0, "n": 128})
    '12.3 [10.1, 15.0]'
    >>> interval({"value": 45.0, "low": 40.0, "high": 50.0, "n": 9}, "°")
    '45.0° [40.0°, 50.0°]'
    >>> interval({"value": 8898, "low": 6229, "high": 12000, "n": 9})
    '8.9e3 [6.2e3, 1.2e4]'
    """
    if not measured(given):
        return ABSENT
    found = [part for key in ("value", "low", "high") if known(part := block(given, key))]
    large = max(map(abs, found)) >= 1e4
    texts = [f"{number(part, powers=large)}{unit}" for part in found]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]" if len(texts) == 3 else texts[0]


def percent(share: Any) -> str:
    """A share in per cent.

    >>> percent(0.01), percent(0.125)
    ('1 %', '12.5 %')
    """
    return f"{100 * share:.3g} %" if known(share) else ABSENT


def verdict(ratio: Any, border: float = 1.0) -> str:
    """Whether a ratio is above a border, by its interval.

    Args:
        ratio: an interval.
        border: what the ratio would be if there were no effect.

    Returns:
        ``holds`` with the interval entirely above the border, ``fails`` with it entirely below,
        ``undecided`` when it holds the border, is not known, or comes from fewer than 8 samples,
        whose percentile intervals are much too narrow; ``–`` without a value.

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


def listed(words: Sequence[str]) -> str:
    """Words as an enumeration.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def spread(values: Sequence[float]) -> str:
    """One number, or the smallest and the largest.

    >>> spread([0.5, 0.25]), spread([2.0])
    ('0.250 to 0.500', '2.00')
    """
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"
