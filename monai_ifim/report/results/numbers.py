"""Numbers and intervals in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from monai_ifim.report.results.measured import block, known, measured, network_name

ABSENT = "–"


def number(value: Any, *, powers: bool = False) -> str:
    """Three significant digits, or two and a power of ten for what is large or small.

    >>> [number(value) for value in (12.34, 0.9123, 0.9996, 150, 21400, 0.00052, 0, None)]
    ['12.3', '0.912', '1.00', '150', '2.1e4', '5.2e-4', '0', '–']
    """
    if not known(value):
        return ABSENT
    if value == 0:
        return "0"
    power = math.floor(math.log10(abs(float(f"{value:.2e}"))))  # 0.9996 has that of 1.00
    if -3 <= power < 4 and not powers:
        return f"{value:.{max(0, 2 - power)}f}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits}e{int(exponent)}"


def count(value: Any) -> str:
    """A count in full.

    >>> count(12000), count(None)
    ('12,000', '–')
    """
    return f"{value:,}" if known(value) else ABSENT


def plural(number_of: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "network"), plural(1200, "image")
    ('1 network', '1,200 images')
    """
    return f"{number_of:,} {noun}{'' if number_of == 1 else 's'}"


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


def each(pairs: Iterable[tuple[str, Any]], unit: str = "") -> str:
    """Intervals of networks as an enumeration; those that were not measured are left out.

    Args:
        pairs: a network's name, as in the results, and its interval.
        unit: behind every number.

    Returns:
        The enumeration, empty where nothing was measured.

    >>> each([("cnn", {"value": 0.5, "low": 0.4, "high": 0.6}), ("vit", None)])
    '0.500 [0.400, 0.600] (CNN)'
    """
    return listed([f"{interval(v, unit)} ({network_name(n)})" for n, v in pairs if measured(v)])
