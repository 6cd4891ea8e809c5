"""Intervals in words, and the rules at their borders."""

import pytest

from _helpers.results import around
from monai_ifim.report.results.numbers import interval, number
from monai_ifim.report.results.verdicts import compare, verdict


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (around(12.3, 5), "12.3 [11.1, 13.5]"),
        ({"value": 21000, "low": 18000, "high": 25000}, "2.1e4 [1.8e4, 2.5e4]"),
        ({"value": 9000, "low": 8000, "high": 25000}, "9.0e3 [8.0e3, 2.5e4]"),
        ({"value": -0.25, "low": -0.5, "high": 0.0}, "-0.250 [-0.500, 0]"),
        ({"value": 1.5, "low": None, "high": 2.0}, "1.50"),
        ({"value": float("nan"), "low": 0.0, "high": 1.0}, "–"),
        (None, "–"),
    ],
)
def test_intervals_in_words(given, text):
    assert interval(given) == text
    assert number(None) == "–"


def test_rules_at_the_border():
    assert verdict({"value": 1.2, "low": 1.0, "high": 1.4}) == "undecided"
    assert verdict({"value": 0.8, "low": 0.6, "high": 1.0}) == "undecided"
    assert verdict({"value": 2.0, "low": None, "high": None}) == "undecided"
    assert verdict({"value": None, "low": 2.0, "high": 3.0}) == "–"
    assert compare(around(2, 5), around(1, 5)) == "holds"
    assert compare(around(1, 5), around(2, 5)) == "fails"
    assert compare(around(1, 5), around(1.1, 5)) == "undecided"
