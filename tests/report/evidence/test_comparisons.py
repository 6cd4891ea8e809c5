"""Averages and the correction for many comparisons, against calculations by hand."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from monai_ifim.report.evidence.comparisons import (
    adjusted,
    geometric_mean,
    mean,
    minus,
    p_value,
    tally,
)


def normal(value, error):
    """The interval of a normal estimate."""
    half = norm.ppf(0.975) * error
    return {"value": value, "low": value - half, "high": value + half}


def test_p_values_are_those_of_the_normal_distribution():
    for value, error in ((0.3, 0.1), (-0.3, 0.1), (0.0, 0.1), (0.02, 0.5)):
        expected = 2 * (1 - norm.cdf(abs(value) / error))
        assert p_value(normal(value, error)) == pytest.approx(expected, abs=1e-12)
    assert p_value({"value": 0.5, "low": 0.5, "high": 0.5}) == 0
    assert p_value({"value": 0.0, "low": 0.0, "high": 0.0}) == 1


def test_the_correction_is_that_of_benjamini_and_hochberg():
    """The largest k with p(k) ≤ k/m · 5 % decides: as in their procedure, step by step."""
    draw = np.random.default_rng(0)
    for _ in range(20):
        found = [normal(draw.normal(0, 2), 1.0) for _ in range(12)]
        p = np.sort([p_value(each) for each in found])
        below = [k for k in range(1, 13) if p[k - 1] <= k / 12 * 0.05]
        rejected = sum(each <= 0.05 for each in adjusted(found))
        assert rejected == (max(below) if below else 0)


def test_a_mean_has_the_error_of_independent_numbers():
    draw = np.random.default_rng(1)
    errors = [0.1, 0.3, 0.2]
    sampled = draw.normal([1, 2, 3], errors, (200_000, 3)).mean(axis=1)
    found = mean([normal(value, error) for value, error in zip((1, 2, 3), errors, strict=True)])
    assert found["value"] == pytest.approx(2)
    low, high = np.quantile(sampled, [0.025, 0.975])
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=2e-3)


def test_ratios_are_averaged_by_their_logarithms():
    found = geometric_mean(
        [{"value": 100, "low": 50, "high": 200}, {"value": 1, "low": 0, "high": 2}]
    )
    assert found["value"] == pytest.approx(10)
    assert 0 < found["low"] < 10 < found["high"]
    same = geometric_mean([{"value": 8, "low": 4, "high": 16}])
    assert same == pytest.approx({"value": 8, "low": 4, "high": 16})


def test_differences_are_as_wide_as_independent_ones():
    found = minus(normal(2, 0.3), normal(0.5, 0.4))
    assert found["value"] == 1.5
    assert found["high"] - found["low"] == pytest.approx(2 * norm.ppf(0.975) * math.hypot(0.3, 0.4))


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        ([0.5, 0.4, 0.6], "Yes"),
        ([0.5, 0.4, -0.3], "In part"),
        ([-0.5, -0.4, -0.6], "No"),
        ([-0.5, -0.4, 0.01], "No"),
        ([0.05, -0.05, 0.01], "Not shown"),
        ([-0.9, -0.9, 0.6], "In part"),
        ([0.9, -0.9, 0.01], "In part"),
    ],
)
def test_answers_follow_from_the_numbers(values, answer):
    assert tally([normal(value, 0.05) for value in values]).answer == answer
