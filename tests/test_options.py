"""The choices about an eigenspace are the same, under the same names, at every entry point."""

import inspect
from dataclasses import fields, replace

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

import monai_ifim as mi
from monai_ifim.core import OptionKeywords

FIELDS = {field.name: field for field in fields(mi.EigenspaceOptions)}
# What each one needs beside the options.
ENTRIES = {
    "IFIMHandler": {},
    "IFIMComponents": {"network": "$torch.nn.Flatten()"},
    "IFIMComponentsd": {"keys": "image", "network": "$torch.nn.Flatten()"},
    "ComponentOfPredictiond": {"keys": "pred", "inferer": "$monai_ifim.IFIMInferer()"},
}
CHOICES = {
    "likelihood": "bernoulli",
    "rank": 2,
    "tolerance": 1e-3,
    "method": "truncated",
    "output_transform": "$torch.neg",
    "vjp_chunk": None,
    "offload": True,
}


def configured(name, **choices):
    """What a configuration file makes of an entry point."""
    parser = ConfigParser({"imports": ["$import torch", "$import monai_ifim"]})
    parser["it"] = {"_target_": f"monai_ifim.{name}", **ENTRIES[name], **choices}
    return parser.get_parsed_content("it")


def options_of(entry):
    return getattr(entry, "components", entry).options


@pytest.mark.parametrize("entry", [mi.eigenspace, *(getattr(mi, name) for name in ENTRIES)])
def test_every_signature_shows_every_option(entry):
    parameters = inspect.signature(entry).parameters
    for name, field in FIELDS.items():
        assert parameters[name].default == field.default
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["options"].default is None
    assert "self" not in parameters


def test_type_checkers_know_the_same_options():
    assert set(OptionKeywords.__annotations__) == set(FIELDS)


@pytest.mark.parametrize("name", ENTRIES)
def test_keywords_of_a_configuration(name):
    expected = mi.EigenspaceOptions(**{**CHOICES, "output_transform": torch.neg})
    assert options_of(configured(name, **CHOICES)) == expected


@pytest.mark.parametrize("name", ENTRIES)
def test_one_value_in_a_configuration_and_a_keyword_that_comes_before_it(name):
    value = {"_target_": "monai_ifim.EigenspaceOptions", "rank": 3, "offload": True}
    options = options_of(configured(name, options=value, rank=1))
    assert options == mi.EigenspaceOptions(rank=1, offload=True)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_misspelt_keyword_of_a_configuration(name):
    with pytest.raises(RuntimeError) as raised:
        configured(name, vjp_chnk=2)
    cause = str(raised.value.__cause__)
    assert cause.startswith("expected one of ")
    assert cause.endswith("got 'vjp_chnk'; did you mean 'vjp_chunk'?")


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"likelihood": "gaussian"}, "expected likelihood in"),
        ({"rank": 0}, "expected 1 <= rank"),
        ({"energy": 95}, "0 < energy <= 1"),
        ({"method": "lanczos"}, "expected method"),
    ],
)
def test_an_impossible_choice_is_refused_when_it_is_made(name, choice, message):
    with pytest.raises(RuntimeError) as raised:
        configured(name, **choice)
    assert message in str(raised.value.__cause__)


def predicted(**choices):
    """The numbers that take the place of a prediction."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(20, 8), nn.Tanh(), nn.Linear(8, 6)).eval()
        image = torch.randn(1, 4, 5)
    inferer = mi.IFIMInferer()
    with torch.no_grad():
        prediction = inferer(image[None], network)[0]
    transform = mi.ComponentOfPredictiond("pred", inferer, **choices)
    return transform({"image": image, "pred": prediction})["result"], network, image


@pytest.mark.parametrize(
    "choices",
    [
        {"method": "krylov", "rank": 2},
        {"tolerance": 0.5},
        {"energy": 0.5, "offload": True},
        {"likelihood": "bernoulli", "output_transform": lambda z: z[:, :3]},
    ],
    ids=", ".join,  # the names alone: a function has another address in each process
)
def test_a_component_in_the_place_of_a_prediction_takes_all_of_them(choices):
    result, network, image = predicted(**choices)
    space = mi.eigenspace(network, image[None], **choices)
    assert result["eigenvalues"] == pytest.approx(space.eigenvalues[0].tolist(), rel=1e-5)
    assert result["rank"] == space.rank[0]
    assert ("residual" in result) == (space.approximation is not None)


def test_a_request_keeps_the_other_options():
    transform = mi.ComponentOfPredictiond("pred", mi.IFIMInferer(), offload=True, rank=2)
    component, options = transform._requested({"energy": "0.5", "component": "orth"})
    assert component == "orth"
    assert options == replace(transform.options, rank=None, energy=0.5)
