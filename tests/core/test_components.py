"""The names and numbers that every door hands on."""

import pytest
import torch

import monai_ifim as mi
from _helpers.problems import smooth_images, smooth_network
from monai_ifim.outputs import VOLUMES, check_volumes, components

ALWAYS = {"ifim_eigenvalues", "ifim_trace", "ifim_rank"}


@pytest.mark.parametrize(
    "volumes", [(), ("high",), ("orth",), ("sensitivity",), ("orth", "high"), VOLUMES]
)
def test_names_and_numbers(volumes):
    images = smooth_images(2)
    space = mi.eigenspace(smooth_network(2, 3), images, rank=1)
    found = components(space, images, volumes)
    assert set(found) == ALWAYS | {f"ifim_{name}" for name in volumes}
    high, orth = space.split(images)
    expected = {
        "ifim_eigenvalues": space.eigenvalues,
        "ifim_trace": space.trace,
        "ifim_rank": space.rank,
        "ifim_high": high,
        "ifim_orth": orth,
        "ifim_sensitivity": space.sensitivity(),
    }
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_prefix():
    images = smooth_images(2)
    space = mi.eigenspace(smooth_network(2, 3), images)
    found = components(space, images, ("high",), prefix="fim")
    assert set(found) == {"fim_eigenvalues", "fim_trace", "fim_rank", "fim_high"}


def test_volumes_are_checked():
    assert check_volumes(["orth", "high"]) == ("orth", "high")
    with pytest.raises(ValueError, match=r"expected volumes from .*got \['low'\]"):
        check_volumes(["high", "low"])
