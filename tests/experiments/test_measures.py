"""The list of measures, and what a new one takes."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from monai_ifim.experiments.measures import measurement
from monai_ifim.experiments.measures.amounts import Measures
from monai_ifim.experiments.measures.measurement import MEASURES, Measure, measure_all
from monai_ifim.experiments.measures.subject import LabelledImages, Subject
from monai_ifim.experiments.networks.trained_classifier import TrainedClassifier
from monai_ifim.experiments.steps import Steps

NONE = dict.fromkeys((m.amount for m in MEASURES.values()), 0)


@pytest.fixture
def subject(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(20, 2))
    images = torch.randn(6, 1, 4, 5)
    sample = LabelledImages(images, torch.arange(6) % 2, "images")
    classifier = TrainedClassifier("test", network, "categorical", "weights")
    return Subject(classifier, sample, Measures(**NONE), Steps(tmp_path))


def test_amounts_are_fields():
    assert {m.amount for m in MEASURES.values()} <= set(Measures.model_fields)


def test_nothing_is_asked_for(subject):
    assert measure_all(subject) == dict.fromkeys(MEASURES)
    assert subject.steps.computed == 0


def test_a_new_measure_is_one_entry(subject, monkeypatch):
    def brightness(subject):
        images, _ = subject.first(4)
        return {"mean": subject.step("brightness", len(images), lambda: float(images.mean()))}

    monkeypatch.setitem(measurement.MEASURES, "brightness", Measure("control_images", brightness))
    amounts = Measures(**{**NONE, "control_images": 4})
    subject = Subject(subject.classifier, subject.sample, amounts, subject.steps)
    expected = float(subject.sample.images[:4].mean())
    assert measure_all(subject)["brightness"] == {"mean": expected}
    assert measure_all(subject)["brightness"] == {"mean": expected}
    assert subject.steps.computed == 1


def test_steps_depend_on_everything(subject):
    def computed(subject, **options):
        before = subject.steps.computed
        subject.step("part", 1, lambda: 0, **options)
        return subject.steps.computed - before

    assert computed(subject) == 1
    assert computed(subject) == 0
    assert computed(subject, version=5) == 1
    changes = {
        "classifier": [
            TrainedClassifier("test", nn.Identity(), "categorical", "other weights"),
            TrainedClassifier("test", nn.Identity(), "bernoulli", "weights"),
        ],
        "sample": [LabelledImages(torch.zeros(1), None, "other images")],
        "seed": [1],
    }
    given = {"amounts": subject.amounts, "steps": subject.steps}
    for name, values in changes.items():
        for value in values:
            kept = {key: getattr(subject, key) for key in changes} | given
            assert computed(Subject(**{**kept, name: value})) == 1


def test_the_public_names_need_no_extra():
    """Bundles train on the signal task in an environment without captum and pydantic."""
    code = (
        "import sys\n"
        "for name in ('captum', 'pydantic', 'tqdm'):\n"
        "    sys.modules[name] = None\n"
        "from monai_ifim.experiments import *\n"
        "print(signal_task('2d').classes)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "2", done.stderr
