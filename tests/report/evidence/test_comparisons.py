"""Averages and the correction for many comparisons, against calculations by hand."""

import math

import numpy as np
import pytest
from scipy.stats import norm, ttest_1samp

from monai_ifim.experiments.statistics.trainings import over_trainings
from monai_ifim.report.evidence.comparisons import (
    adjusted,
    geometric_mean,
    minus,
    network_mean,
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
    found = network_mean(
        [normal(value, error) for value, error in zip((1, 2, 3), errors, strict=True)]
    )
    assert found["value"] == pytest.approx(2)
    low, high = np.quantile(sampled, [0.025, 0.975])
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=2e-3)


def trained(value, error, trainings):
    """The interval of a bootstrap whose spread is that of means of so many values."""
    found = normal(value, error * math.sqrt((trainings - 1) / trainings))
    return {**found, "trainings": trainings}


@pytest.mark.parametrize("trainings", [2, 3, 5])
def test_few_trainings_are_tested_by_students_t(trainings):
    values = np.random.default_rng(trainings).normal(1, 1, trainings)
    found = trained(values.mean(), values.std(ddof=1) / math.sqrt(trainings), trainings)
    assert p_value(found) == pytest.approx(ttest_1samp(values, 0).pvalue)
    alone = ttest_1samp(values, 0).confidence_interval(0.95)
    assert network_mean([found]) == pytest.approx(
        {"value": values.mean(), "low": alone[0], "high": alone[1]}
    )


@pytest.mark.parametrize("trainings", [2, 3, 5])
def test_a_true_zero_is_significant_in_five_of_a_hundred(trainings):
    """The bootstrap that was measured, where all variance is between trainings."""
    draw = np.random.default_rng(trainings)
    found = [over_trainings(draw.normal(size=(trainings, 1)), seed=i) for i in range(2000)]
    assert np.mean([p_value(each) <= 0.05 for each in found]) == pytest.approx(0.05, abs=0.025)


def test_a_mean_over_few_trainings_covers_a_true_zero():
    """Networks of several numbers of trainings, and of several spreads."""
    draw = np.random.default_rng(0)
    kinds = [(2, 1.0), (3, 0.5), (5, 1.0), (5, 0.3)]

    def covered():
        found = [
            trained(x.mean(), x.std(ddof=1) / math.sqrt(len(x)), len(x))
            for x in (draw.normal(0, spread, count) for count, spread in kinds)
        ]
        return network_mean(found)["low"] <= 0 <= network_mean(found)["high"]

    assert np.mean([covered() for _ in range(2000)]) == pytest.approx(0.95, abs=0.025)


def test_a_mean_stays_within_its_limits():
    near = [trained(0.98, 0.01, 2), trained(0.97, 0.02, 2)]
    assert network_mean(near)["high"] > 1
    assert network_mean(near, (0.0, 1.0)) == {**network_mean(near), "high": 1.0}


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
    of_constant = minus(trained(2, 0.3, 5), {"value": 0.5, "low": 0.5, "high": 0.5})
    assert p_value(of_constant) == pytest.approx(p_value(trained(1.5, 0.3, 5)))


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
        ([0.07] * 8, "Not shown"),  # the average is above 0, no network by itself
        ([-0.07] * 8, "Not shown"),
    ],
)
def test_answers_follow_from_the_numbers(values, answer):
    assert tally([normal(value, 0.05) for value in values]).answer == answer
