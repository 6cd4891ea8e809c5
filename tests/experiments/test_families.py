"""Every measure asks the family: a family from outside gives the numbers of its twin."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, roc_auc_score
from torch import nn

from monai_ifim.core import Bernoulli, Categorical
from monai_ifim.experiments import agreement, signal_task
from monai_ifim.experiments.logits import logits_of, one_prediction
from monai_ifim.experiments.measures.changes import changes_summary, measure_changes
from monai_ifim.experiments.measures.law import law_summary, measure_law
from monai_ifim.experiments.measures.sensitivity import measure_attributions, measure_maps
from monai_ifim.experiments.measures.spectra import prediction_scores
from monai_ifim.experiments.networks.trained_classifier import TrainedClassifier
from monai_ifim.experiments.statistics import classification_scores
from monai_ifim.experiments.statistics.classification import has_classes

METHODS = [
    *("check", "contrasts", "factor", "probabilities", "most_probable", "outcome_probability"),
    *("entropy", "uncertainty", "divergence", "predicted", "class_table", "outcome_logits"),
    "dense",
]


def outside(family):
    """An object with the family's methods and none of its types."""
    return type("Outside", (), {name: staticmethod(getattr(family, name)) for name in METHODS})()


@pytest.fixture
def images():
    return torch.randn(8, 1, 7, 9, generator=torch.Generator().manual_seed(1))


def network(outputs):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 5 * 7, outputs))


def everything(family, outputs, images, labels):
    classifier = TrainedClassifier("test", network(outputs), family, "0")
    maps = measure_attributions(classifier, images, seed=0)
    raw = measure_changes(classifier, images, labels, maps, (0.01, 0.1), 0.1, seed=0)
    scores = prediction_scores(classifier.network, images, likelihood=family)
    return {
        "changes": changes_summary(raw, family, (0.1,)),
        "law": law_summary(measure_law(classifier, images, labels, 5.0)),
        "maps": {
            n: {k: v.tolist() for k, v in m.items()}
            for n, m in measure_maps(classifier, images, maps).items()
        },
        "scores": {name: value.tolist() for name, value in scores.items()},
    }


@pytest.mark.parametrize(
    ("family", "outputs", "labels"),
    [(Categorical(), 3, torch.arange(8) % 3), (Bernoulli(), 1, torch.arange(8) % 2)],
)
def test_a_family_from_outside(family, outputs, labels, images):
    found = everything(outside(family), outputs, images, labels)
    assert found == everything(family, outputs, images, labels)
    assert found["changes"]["directions"]["leading"]["auc"] is not None


def test_several_labels_have_no_classes(images):
    found = everything(Bernoulli(), 2, images, torch.arange(16).view(8, 2) % 2)
    leading = found["changes"]["directions"]["leading"]
    assert leading["accuracy"] is leading["auc"] is None
    assert found["law"]["radius_correct"] is not None or found["law"]["radius_wrong"] is not None


def test_a_classifier_holds_a_family_and_accepts_its_name():
    by_name = TrainedClassifier("test", network(3), "bernoulli", "0")
    by_object = dataclasses.replace(by_name, likelihood=Bernoulli())
    assert by_name.family == by_object.family == Bernoulli()
    assert by_name.family_name == by_object.family_name == "bernoulli"
    other = outside(Bernoulli())
    assert dataclasses.replace(by_name, likelihood=other).family_name == repr(other)


# --- accuracy and AUC -----------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_of_a_softmax(classes):
    logits = torch.randn(40, classes, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.arange(40) % classes
    found = classification_scores(labels, Categorical(), logits)
    p = logits.softmax(dim=1).numpy()
    area = roc_auc_score(labels, p[:, 1] if classes == 2 else p, multi_class="ovr")
    assert found["auc"]["value"] == pytest.approx(area)
    assert found["accuracy"]["value"] == accuracy_score(labels, p.argmax(axis=1))


def test_scores_of_one_sigmoid():
    logits = torch.randn(40, 1, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.arange(40) % 2
    found = classification_scores(labels, Bernoulli(), logits)
    assert found["auc"]["value"] == pytest.approx(roc_auc_score(labels, logits[:, 0]))
    assert found["accuracy"]["value"] == accuracy_score(labels, np.ravel(logits > 0))


def test_scores_that_do_not_exist():
    logits = torch.randn(10, 3)
    none = {"accuracy": None, "auc": None}
    assert classification_scores(None, Categorical(), logits) == none
    assert classification_scores(torch.zeros(10, 3), Bernoulli(), logits) == none
    two_of_three = classification_scores(torch.arange(10) % 2, Categorical(), logits)
    assert two_of_three["auc"] is None
    assert two_of_three["accuracy"] is not None


def test_labels_that_are_classes():
    three, one = torch.zeros(1, 3), torch.zeros(1, 1)
    assert has_classes(torch.tensor([0, 2]), Categorical(), three)
    assert not has_classes(torch.tensor([0, 3]), Categorical(), three)
    assert not has_classes(torch.tensor([-1, 1]), Categorical(), three)
    assert not has_classes(torch.zeros(2, 3), Categorical(), three)
    assert has_classes(torch.tensor([0, 1]), Bernoulli(), one)
    assert not has_classes(torch.tensor([0, 2]), Bernoulli(), one)
    assert not has_classes(torch.tensor([0, 1]), Bernoulli(), three)


# --- one prediction per image ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "measure",
    [
        logits_of,
        prediction_scores,
        lambda net, x: TrainedClassifier("test", net, "categorical", "0").eigenspaces(x),
        lambda net, x: measure_law(
            TrainedClassifier("test", net, "categorical", "0"), x, None, 1.0
        ),
    ],
)
def test_a_segmentation_is_refused(measure, images):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"expected one prediction per image.*\(8, 3, 7, 9\)"):
        measure(nn.Conv2d(1, 3, 1), images)


def test_a_segmentation_does_not_agree_with_an_observer():
    with pytest.raises(ValueError, match="expected one prediction per image"):
        agreement(nn.Conv2d(1, 2, 1), signal_task("2d_small"), decisions=4, eigenspaces=2)


def test_axes_of_length_one_are_a_prediction(images):
    head = nn.Sequential(nn.Conv2d(1, 3, 1), nn.AdaptiveAvgPool2d(1))
    assert logits_of(head, images, batch_size=3).shape == (8, 3)


def test_what_is_no_logits():
    with pytest.raises(TypeError, match="expected the network to return one tensor"):
        one_prediction((torch.zeros(2, 3), None))
    with pytest.raises(ValueError, match="choose them with output_transform"):
        one_prediction(torch.zeros(3))
