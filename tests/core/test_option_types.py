"""Options of the wrong type are refused when they are made, with their true cause."""

import pytest
import torch
from torch import nn

import monai_ifim as mi
from _helpers.problems import smooth_images, smooth_network


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"rank": "3"}, "expected rank as a whole number, got '3'"),
        ({"rank": True}, "expected rank as a whole number, got True"),
        ({"rank": 2.0}, "expected rank as a whole number, got 2.0"),
        ({"energy": "0.9"}, "expected energy as a number, got '0.9'"),
        ({"tolerance": "1e-3"}, "expected tolerance as a number, got '1e-3'; write 0.001"),
        ({"vjp_chunk": "fast"}, "expected vjp_chunk >= 1, None or 'auto', got 'fast'"),
        ({"method": mi.Exact}, "an object such as Exact"),
        ({"likelihood": mi.Bernoulli}, "an object such as Categorical"),
    ],
)
def test_refused_when_made(choice, message):
    with pytest.raises(ValueError, match=message):
        mi.EigenspaceOptions(**choice)
    with pytest.raises(ValueError, match=message):
        mi.IFIMHandler(**choice)


def test_options_as_a_mapping():
    assert mi.IFIMHandler(options={"rank": 3}).options == mi.EigenspaceOptions(rank=3)
    with pytest.raises(TypeError, match="did you mean 'rank'"):
        mi.IFIMHandler(options={"rnk": 3})


@pytest.mark.parametrize("rank", [65, 109, 1000])
def test_a_solver_with_more_pairs_than_a_segmentation_can_have(rank):
    network = nn.Conv2d(1, 3, 3).double()
    with pytest.raises(ValueError, match="expected 1 <= rank <= 64 "):
        mi.eigenspace(network, torch.randn(1, 1, 8, 8).double(), method=mi.Krylov(rank=rank))


@pytest.mark.parametrize("outputs", [4, 90])
def test_a_solver_with_a_rank_and_an_energy(outputs):
    network, images = smooth_network(2, outputs), smooth_images(2)
    with pytest.raises(ValueError, match="expected rank or energy"):
        mi.eigenspace(network, images, method=mi.Krylov(rank=2), energy=0.5)
    with pytest.raises(ValueError, match="expected 1 <= rank"):
        mi.eigenspace(network, images, method=mi.Krylov(rank=5000))


def test_a_failure_that_is_not_the_batch_axis_is_told():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    with pytest.raises(ValueError, match=r"mat1 and mat2 shapes.*perhaps"):
        mi.eigenspace(network, torch.randn(2, 1, 4, 8))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        mi.eigenspace(network, torch.randn(3, 1, 4, 4))
