"""Choosing images to label: deterministic, resumable, and its figures by hand."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from monai_ifim.experiments.measures.amounts import Labelling
from monai_ifim.experiments.networks.training import Recipe, Variant
from monai_ifim.experiments.steps import Steps
from monai_ifim.experiments.tasks.catalogue import load_task
from monai_ifim.experiments.uses.labelling import STRATEGIES, LabellingCourse


@pytest.fixture(scope="module")
def task():
    return load_task("signal_2d", train=120, test=100)


def course(task, folder, **changes):
    amounts = Labelling(rounds=3, images=8, trainings=2, seen=64, pool=60)
    recipe = Recipe(fresh=True, batch_size=16)
    amounts = amounts.model_copy(update=changes)
    return LabellingCourse(task, Variant("cnn", width=4, seed=3), recipe, amounts, Steps(folder))


@pytest.fixture(scope="module")
def labelling(task, tmp_path_factory):
    """A whole run, and the same one from what it left behind."""
    folder = tmp_path_factory.mktemp("labelling")
    first, second = course(task, folder), course(task, folder)
    state = torch.get_rng_state()
    found = first.measure(10)
    assert torch.equal(torch.get_rng_state(), state)
    assert second.measure(10) == found
    assert (first.steps.computed, second.steps.computed) == (24, 0)
    return found, second


def test_labelling_is_the_same_for_a_seed(task, labelling, tmp_path):
    found, _ = labelling
    assert course(task, tmp_path).measure(10) == found
    other = dataclasses.replace(course(task, tmp_path), variant=Variant("cnn", width=4, seed=4))
    assert other.measure(10)["auc"] != found["auc"]


def test_labelling_by_hand(task, labelling):
    found, again = labelling
    assert (found["network"], found["trainings"], found["labelled"]) == ("cnn", 2, [8, 16, 24])
    labels = task.test.labels.numpy()
    for name in STRATEGIES:
        areas = [
            [roc_auc_score(labels, z[:, 1] - z[:, 0]) for z in again.logits(name, c)]
            for c in (0, 1)
        ]
        values = [each["value"] for each in found["auc"][name]]
        np.testing.assert_allclose(values, np.mean(areas, axis=0))
        for base in ("random", "entropy"):
            if name != base:
                others = [each["value"] for each in found["auc"][base]]
                less = found[f"less_{base}"][name]["value"]
                # In the first round nothing was chosen.
                assert less == pytest.approx(np.mean(values[1:]) - np.mean(others[1:]))
        # All begin with the same images and the same weights.
        assert values[0] == found["auc"]["random"][0]["value"]
    assert set(found["less_random"]) == {*STRATEGIES} - {"random"}


def test_a_single_round_chooses_nothing(task, tmp_path):
    with pytest.raises(ValueError, match="at least 2 rounds, got 1"):
        course(task, tmp_path, rounds=1).measure(2)


def test_a_pool_that_is_too_small(task, tmp_path):
    with pytest.raises(ValueError, match=r"rounds \* images = 90, got 60"):
        course(task, tmp_path, images=30).measure(2)
