"""Figures against scikit-learn and scipy, intervals against the textbook and their coverage."""

import json
import time

import numpy as np
import pytest
from scipy.stats import norm, rankdata, spearmanr, t
from sklearn.metrics import accuracy_score, roc_auc_score

from monai_ifim.experiments.statistics import (
    Interval,
    accuracy,
    auc,
    average,
    bootstrap,
    classification_auc,
    interval,
    intervals,
    means,
    median_value,
    paired_auc,
    ratio,
    spearman,
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def tied_scores(count, seed=0):
    """Labels and scores of few values, the positive ones higher on the whole."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, count)
    return labels, np.round(random.normal(size=count) + labels)


def draws(count, resamples, seed=1):
    """A bootstrap of our own: indices (R, n)."""
    return np.random.default_rng(seed).integers(0, count, (resamples, count))


def assert_interval(found, distribution, tolerance=0.1):
    """Ends as the percentiles of a slow bootstrap with other draws, within the given widths."""
    low, high = np.percentile(distribution, [2.5, 97.5])
    width = high - low
    assert abs(found.low - low) < tolerance * width
    assert abs(found.high - high) < tolerance * width


def test_mean_of_a_gaussian_has_the_textbook_interval():
    values = 3 + 2 * normal(400)
    found = interval(average, values, resamples=4000)
    half = t.ppf(0.975, 399) * values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean())
    assert found.value - found.low == pytest.approx(half, rel=0.1)
    assert found.high - found.value == pytest.approx(half, rel=0.1)
    assert found.count == 400
    narrow = interval(average, values, resamples=4000, level=0.5)
    half = t.ppf(0.75, 399) * values.std(ddof=1) / 20
    assert narrow.high - narrow.low == pytest.approx(2 * half, rel=0.1)


def test_intervals_cover_the_truth_as_often_as_they_say():
    columns = normal(60, 300)
    found = intervals(means, columns, level=0.9, resamples=300)
    covered = np.mean([one.low <= 0 <= one.high for one in found])
    # three binomial standard errors of 300 experiments
    assert covered == pytest.approx(0.9, abs=3 * np.sqrt(0.09 / 300))


def test_columns_are_those_of_single_means():
    columns = normal(7, 3) * [1, 10, 100]
    together = intervals(means, columns, resamples=50, seed=4)
    assert together == [interval(average, c, resamples=50, seed=4) for c in columns.T]
    assert [i.value for i in together] == pytest.approx(columns.mean(axis=0).tolist())


def test_memory_is_bounded_without_changing_the_draws(monkeypatch):
    columns = normal(40, 3)
    whole = intervals(means, columns, resamples=200)
    monkeypatch.setattr(bootstrap, "_BLOCK", 40 * 3 * 8)
    sizes = []
    monkeypatch.setattr(bootstrap, "bootstrap", recording(bootstrap.bootstrap, sizes))
    assert intervals(means, columns, resamples=200) == whole
    assert sizes == [8]


def recording(function, sizes):
    def called(*args, **options):
        sizes.append(options["batch"])
        return function(*args, **options)

    return called


def test_median():
    values = np.exp(normal(101))
    found = interval(median_value, values, resamples=3000)
    assert found.value == np.median(values)
    assert_interval(found, np.median(values[draws(101, 3000)], axis=1))


def test_ratio_of_means_is_paired():
    below = np.exp(normal(80))
    above = 3 * below * (1 + 0.01 * normal(80, seed=1))
    found = interval(ratio, above, below, resamples=3000)
    assert found.value == pytest.approx(above.mean() / below.mean())
    indices = draws(80, 3000)
    assert_interval(found, above[indices].mean(axis=1) / below[indices].mean(axis=1))
    # drawn apart, the ratio would vary fifty times as much
    assert found.high - found.low < 0.05


def test_differences_are_paired():
    a = 100 * normal(50)
    b = a - 1 + 0.1 * normal(50, seed=1)
    found = interval(average, a - b)
    assert (a.mean() - b.mean()) == pytest.approx(found.value)
    assert 0.9 < found.low < 1 < found.high < 1.1


def test_accuracy():
    labels, predicted = np.arange(90) % 3, np.arange(90) % 3
    predicted[:30] = 0
    found = interval(accuracy, labels, predicted, resamples=3000)
    assert found.value == accuracy_score(labels, predicted) == pytest.approx(70 / 90)
    half = norm.ppf(0.975) * np.sqrt(found.value * (1 - found.value) / 90)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_auc_with_ties(seed):
    labels, scores = tied_scores(60, seed)
    found = interval(auc, labels, scores, resamples=2000)
    assert found.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-14)
    slow = [roc_auc_score(labels[i], scores[i]) for i in draws(60, 200)]
    assert_interval(found, slow, tolerance=0.3)


def test_auc_in_every_draw_is_that_of_mid_ranks():
    """Each percentile, and with it the whole distribution, from a bootstrap with the same draws."""
    labels, scores = tied_scores(17, seed=5)
    indices = np.random.default_rng(3).integers(0, 17, (41, 17))
    positive = labels[indices]
    count = positive.sum(axis=1)
    wins = (rankdata(scores[indices], axis=1) * positive).sum(axis=1) - count * (count + 1) / 2
    slow = np.sort(wins / (count * (17 - count)))
    for level in (0.05, 0.3, 0.9):
        found = interval(auc, labels, scores, resamples=41, seed=3, level=level)
        expected = np.quantile(slow, [(1 - level) / 2, (1 + level) / 2])
        assert [found.low, found.high] == pytest.approx(expected.tolist(), abs=1e-14)


def test_auc_keeps_its_direction_and_reads_booleans():
    labels = np.array([False, False, True, True, True])
    assert interval(auc, labels, [4, 5, 1, 2, 3]) == Interval(0, 0, 0, 5)
    assert interval(auc, labels, [1, 2, 3, 4, 5]) == Interval(1, 1, 1, 5)
    assert interval(auc, labels, [7] * 5) == Interval(0.5, 0.5, 0.5, 5)


def test_draws_of_one_class_do_not_count():
    # half of all draws of 2 images hold one of them alone
    assert interval(auc, [0, 1], [1.0, 2.0], resamples=50) == Interval(1, 1, 1, 2)
    with pytest.raises(ValueError, match="expected a draw with an answer"):
        _ = [interval(auc, [0, 1], [1.0, 2.0], resamples=2, seed=s) for s in range(20)]


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_auc_of_a_classifier(classes):
    random = np.random.default_rng(classes)
    labels = random.permutation(np.arange(64) % classes)
    probabilities = random.dirichlet(np.ones(classes), 64).round(2) + 1e-9
    probabilities[np.arange(64), labels] += 0.2
    probabilities /= probabilities.sum(axis=1, keepdims=True)

    def area(labels, probabilities):
        if classes == 2:
            return roc_auc_score(labels, probabilities[:, 1])
        return roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")

    found = interval(classification_auc, labels, probabilities, resamples=1500)
    assert found.value == pytest.approx(area(labels, probabilities), abs=1e-13)
    slow = [area(labels[i], probabilities[i]) for i in draws(64, 100)]
    assert_interval(found, slow, tolerance=0.3)


def test_thousands_of_areas_are_affordable():
    labels = np.arange(128) % 6
    probabilities = np.random.default_rng(0).dirichlet(np.ones(6), 128)
    times = []
    for seed in range(5):
        start = time.process_time()
        interval(classification_auc, labels, probabilities, resamples=500, seed=seed)
        times.append(time.process_time() - start)
    assert min(times) < 0.06


def test_an_image_is_drawn_in_both_versions():
    clean = 10 * normal(40)
    changed = clean + 4
    found = interval(paired_auc, clean, changed, resamples=2000)
    labels = np.repeat([0, 1], 40)
    assert found.value == pytest.approx(roc_auc_score(labels, np.append(clean, changed)))
    assert found.count == 40
    slow = [roc_auc_score(labels, np.append(clean[i], changed[i])) for i in draws(40, 200)]
    assert_interval(found, slow, tolerance=0.2)
    apart = interval(auc, labels, np.append(clean, changed), resamples=2000)
    assert found.high - found.low < 0.5 * (apart.high - apart.low)


def test_spearman():
    a = normal(70).round(1)
    b = np.exp(a) + normal(70, seed=1).round(1)
    found = interval(spearman, a, b, resamples=2000)
    assert found.value == pytest.approx(spearmanr(a, b).statistic, abs=1e-14)
    slow = [spearmanr(a[i], b[i]).statistic for i in draws(70, 500)]
    assert_interval(found, slow, tolerance=0.2)
    assert interval(spearman, a, -a) == Interval(-1, -1, -1, 70)
    # most draws of these images are constant, and do not count
    assert interval(spearman, [1, 1, 1, 2], [3, 3, 3, 5]) == Interval(1, 1, 1, 4)


@pytest.mark.parametrize("count", [2, 3, 7, 100, 1001])
@pytest.mark.parametrize("number", [0.1, 1 / 3, -7e-300, 1e100])
def test_constants_have_no_width(count, number):
    same = np.full(count, number)
    exact = Interval(number, number, number, count)
    assert interval(average, same, resamples=20) == exact
    assert interval(median_value, same, resamples=20) == exact
    assert intervals(means, np.stack([same, same], axis=1), resamples=20) == [exact, exact]
    found = interval(ratio, same, np.abs(same), resamples=20)
    assert found.low == found.value == found.high == np.sign(number)


def test_same_seed_same_interval_and_the_global_state_is_untouched():
    values = normal(30)
    np.random.seed(3)
    state = np.random.get_state()[1].copy()
    first = interval(average, values, seed=1)
    assert first == interval(average, values, seed=1)
    assert first != interval(average, values, seed=2)
    assert (np.random.get_state()[1] == state).all()


def test_plain_floats_for_json():
    numbers = interval(average, np.float32([1, 2, 4])).as_dict()
    assert set(numbers) == {"value", "low", "high", "n"}
    assert [type(number) for number in numbers.values()] == [float, float, float, int]
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_an_interval_is_finite(number):
    for numbers in ((number, 0, 0), (0, number, 0), (0, 0, number)):
        with pytest.raises(ValueError, match="expected finite numbers"):
            Interval(*numbers, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interval(average, [1.0]), "n >= 2"),
        (lambda: interval(average, []), "n >= 2"),
        (lambda: interval(average, 1.0), "n >= 2"),
        (lambda: interval(average, np.ones((3, 2))), "expected values of shape"),
        (lambda: intervals(means, np.ones(3)), "expected values of shape"),
        (lambda: intervals(means, np.ones((3, 0))), "expected values of shape"),
        (lambda: interval(average, [1.0, float("nan")]), "expected finite values"),
        (lambda: interval(average, [1.0, 2.0], level=1), "expected 0 < level < 1"),
        (lambda: interval(average, [1.0, 2.0], resamples=1), "resamples >= 2"),
        (lambda: interval(accuracy, [1, 2], [1, 2, 3]), "of the same images"),
        (lambda: interval(ratio, [1, 2], [1, -1]), "not negative"),
        (lambda: interval(ratio, [1, 2, 3], [0, 0, 1]), "above zero in every draw"),
        (lambda: interval(auc, [1, 1], [1, 2]), "both of them"),
        (lambda: interval(auc, [0, 1, 2], [1, 2, 3]), "both of them"),
        (lambda: interval(auc, [0, 1], [1, float("inf")]), "expected finite scores"),
        (lambda: interval(classification_auc, [0, 2, 2], np.ones((3, 3))), "each of the classes"),
        (lambda: interval(classification_auc, [0, 0], np.ones((2, 1))), "K >= 2"),
        (lambda: interval(classification_auc, [0, 1, 1], np.ones((2, 2))), "K >= 2"),
        (lambda: interval(spearman, [1, 1, 1], [1, 2, 3]), "expected a to vary"),
        (lambda: interval(spearman, [1, 2, 3], [2, 2, 2]), "expected b to vary"),
    ],
)
def test_impossible_requests(call, message):
    with pytest.raises(ValueError, match=message):
        call()
