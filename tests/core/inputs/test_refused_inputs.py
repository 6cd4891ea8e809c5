"""What several inputs cannot be, each with a sentence; and images that do not stand alone."""

import pytest
import torch
from torch import nn

import monai_ifim as mi
from _helpers.fusion import Fusion, fusion_inputs


def made(**changes):
    inputs = {**fusion_inputs(), **changes.pop("inputs", {})}
    choices = {"wrt": ["mr", "ct"], "scale": 1.0} | changes
    return mi.SeveralInputs(choices.pop("network", Fusion()), inputs, **choices)


REFUSED = {
    "unknown": ({"wrt": ["MR"]}, ValueError, r"wrt from \['mr', 'ct', .*'MR'.*did you mean 'mr'"),
    "a position": ({"wrt": 0}, ValueError, r"wrt from \['mr', .*got \[0\]; name"),
    "none": ({"wrt": []}, ValueError, r"each once, got \[\]; name"),
    "twice": ({"wrt": ["mr", "mr"]}, ValueError, r"each once, got \['mr', 'mr'\]"),
    "integers": (
        {"wrt": ["mr", "stage"]},
        TypeError,
        r"torch.int64 for 'stage', which has no gradient; leave it out of wrt",
    ),
    "no tensor": ({"wrt": "flag", "inputs": {"flag": True}}, TypeError, "got bool for 'flag'"),
    "another batch": (
        {"inputs": {"clinical": torch.zeros(2, 5)}},
        ValueError,
        r"same number of images .*'mr': \(3, 1, 4, 5\).*'clinical': \(2, 5\).*; expand",
    ),
    "no axis": ({"inputs": {"age": torch.tensor(3.0)}}, ValueError, r"'age': \(\).*; expand"),
    "no scale": ({"scale": None}, ValueError, r"scale for each of \['mr', 'ct'\].*different units"),
    "a scale too few": ({"scale": {"mr": 1.0}}, ValueError, r"in wrt, got \['mr'\]; inputs that"),
    "zero": ({"scale": {"mr": 1.0, "ct": 0.0}}, ValueError, "scale > 0 for 'ct', got 0.0; is a"),
    "its shape": (
        {"scale": {"mr": 1.0, "ct": torch.ones(2)}},
        ValueError,
        r"for 'ct' that fits \(2, 3\).*got \(2,\); a number",
    ),
    "a way": ({"call": "dict"}, ValueError, "'separate', 'whole' or a function.*got 'dict'; "),
    "a function": ({"network": len}, TypeError, r"torch.nn.Module, got builtin.*; wrap"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    changes, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        made(**changes)


def test_inputs_that_are_no_collection():
    with pytest.raises(TypeError, match=r"dictionary or a tuple, got Tensor; a network of one"):
        mi.SeveralInputs(Fusion(), torch.zeros(2, 3), wrt=0)


def test_no_input_with_a_gradient():
    whole = {name: value.long() for name, value in fusion_inputs().items()}
    with pytest.raises(ValueError, match=r"at least one floating-point input, got .*'mr': 'torch"):
        mi.SeveralInputs(Fusion(), whole, wrt="mr")


@pytest.mark.parametrize("use", ["nothing", "whole numbers", "another"])
def test_an_input_to_which_the_network_does_not_react(use):
    class Deaf(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = Fusion()

        def forward(self, mr, ct, **others):
            if use == "nothing":
                ct = torch.zeros_like(ct)
            elif use == "whole numbers":
                ct = ct.round().long().double()
            return self.body(mr, ct, **others)

    several = made(network=Deaf())
    if use == "another":
        shares = several.shares(mi.eigenspace(several.network, several.images))
        assert bool((shares["ct"] > 0).all())
        return
    with pytest.raises(ValueError, match=r"reacts to each input in wrt.*depend on 'ct'.*Leave it"):
        mi.eigenspace(several.network, several.images)


def test_values_of_another_shape():
    several = made()
    with pytest.raises(ValueError, match=r"shape \('...', 1, 26\), got \(3, 20\); pass what"):
        several.parts(torch.zeros(3, 20))
    with pytest.raises(ValueError, match=r"parts of \['mr', 'ct'\], got \['clinical'\]; give some"):
        several.join({"clinical": torch.zeros(3, 5)})
    with pytest.raises(ValueError, match="and all the same axes before"):
        several.join({"mr": torch.zeros(3, 1, 4, 5), "ct": torch.zeros(2, 2, 3)})
    with pytest.raises(ValueError, match=r"whole batch of 3 images.*got 2; make SeveralInputs"):
        several.network(several.images[:2])


def test_images_that_are_not_finite():
    mr = fusion_inputs()["mr"]
    mr[1, 0, 0, 0] = torch.nan
    several = made(inputs={"mr": mr})
    with pytest.raises(ValueError, match=r"NaN or infinity in image 1"):
        mi.eigenspace(several.network, several.images)


class Mixing(nn.Module):
    """One input of all images takes part in the answer to each."""

    def __init__(self, name):
        super().__init__()
        self.name, self.body, self.passes = name, Fusion(), 0

    def forward(self, **given):
        self.passes += 1
        if self.name is not None:
            value = given[self.name]
            given[self.name] = value - value.mean(dim=0, keepdim=True)
        return self.body(**given)


@pytest.mark.parametrize("name", ["mr", "clinical"])
def test_patients_that_influence_each_other(name):
    several = made(network=Mixing(name), wrt="mr", scale=None)
    with pytest.raises(ValueError, match=r"treats the images of a batch one by one"):
        mi.eigenspace(several.network, several.images)


def test_a_network_is_asked_once_not_for_each_batch():
    network = Mixing(None)
    passes = []
    for seed in range(3):
        before = network.passes
        several = mi.SeveralInputs(network, fusion_inputs(seed=seed), wrt="mr")
        mi.eigenspace(several.network, several.images)
        passes.append(network.passes - before)
    assert passes[1:] == [1, 1]
    assert passes[0] > 1
    before = network.passes
    several = mi.SeveralInputs(network, fusion_inputs(), wrt="ct")
    mi.eigenspace(several.network, several.images)
    assert network.passes - before > 1
