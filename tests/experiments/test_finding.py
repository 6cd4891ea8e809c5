"""Areas of scores and their directions: against sklearn and numpy, on numbers made here."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from monai_ifim.experiments.trainings.training import Amounts
from monai_ifim.experiments.uses.finding import case_of, unusual
from monai_ifim.experiments.uses.scores import BASELINES, OURS, SCORES


def made_case(values_of, trainings=3, count=200, draws=25):
    """A case whose scores come from a function of truth and random numbers."""
    random = np.random.default_rng(3)
    truths = [torch.from_numpy(random.random(count) < 0.3) for _ in range(trainings)]
    values = [
        {name: torch.from_numpy(values_of(name, t.numpy(), random)) for name in SCORES}
        for t in truths
    ]
    drawn = Amounts(count, 0, draws, 0).drawn(count)
    return truths, values, drawn, case_of("wrong", "made", truths, values, drawn)


def test_areas_are_those_of_sklearn():
    def values(name, truth, random):
        return np.round(truth * SCORES.index(name) / 5 + random.normal(size=len(truth)), 1)

    truths, scores, drawn, found = made_case(values)
    areas = {
        name: np.array(
            [
                [roc_auc_score(t[d], s[name][d]) for d in drawn]
                for t, s in zip(truths, scores, strict=True)
            ]
        )
        for name in SCORES
    }
    for name in SCORES:
        assert found["auc"][name]["value"] == pytest.approx(areas[name][:, 0].mean())
        assert found["auc"][name]["low"] < areas[name][:, 0].mean() < found["auc"][name]["high"]
    best = max(BASELINES, key=lambda name: areas[name][:, 0].mean())
    assert found["positives"] == [int(t.sum()) for t in truths]
    for name in OURS:
        above = found["above_best_baseline"][name]
        assert above["baseline"] == best == "log_gradient"
        difference = areas[name] - areas[best]
        assert above["value"] == pytest.approx(difference[:, 0].mean())
        # Its width is that of the paired draws, which is not that of the difference of two.
        spread = difference[:, 1:].mean(axis=0).std()
        assert 2 * spread < above["high"] - above["low"] < 10 * spread


def test_random_scores_find_nothing():
    _, _, _, found = made_case(lambda name, truth, random: random.normal(size=len(truth)))
    holding = [each["low"] <= 0.5 <= each["high"] for each in found["auc"].values()]
    assert sum(holding) >= 8
    assert all(0.4 < each["value"] < 0.6 for each in found["auc"].values())
    sure = made_case(lambda name, truth, random: truth.astype(float))[3]["auc"]["trace"]
    assert sure["low"] == sure["high"] == 1


@pytest.mark.parametrize("shift", [-0.1, 0.1])
def test_baselines_have_one_direction_and_ours_two(shift):
    """AUC of the raw baselines by sklearn; ours and the image's own from a median in numpy."""
    random = np.random.default_rng(0)
    clean, changed, usual = (
        {name: random.lognormal(mean, 0.2, n) for name in SCORES}
        for mean, n in ((0.0, 31), (shift, 40), (0.3, 25))
    )
    given = ({n: torch.from_numpy(v) for n, v in each.items()} for each in (clean, changed, usual))
    found = unusual(*given)
    truth = np.arange(71) >= 31
    both = {name: np.concatenate([clean[name], changed[name]]) for name in SCORES}
    expected = {
        **{name: both[name] for name in ("entropy", "uncertainty", "mahalanobis")},
        "margin": -both["margin"],
        **{name: np.abs(np.log(both[name] / np.median(clean[name]))) for name in OURS},
        **{
            name: np.abs(both[name] - np.median(usual[name]))
            for name in ("mean", "log_deviation", "log_gradient")
        },
    }
    assert set(found) == set(expected) == set(SCORES)
    for name, values in expected.items():
        area = roc_auc_score(truth, found[name])
        assert area == pytest.approx(roc_auc_score(truth, values), abs=1e-12), name
        assert abs(area - 0.5) > 0.01, name  # another direction would be seen
