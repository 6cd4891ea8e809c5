"""Nuisances by what a configuration says, and what is no choice."""

import math

import pytest
import torch

import monai_ifim as mi
from monai_ifim.nuisances import BiasField, Gain, Rotation, Shift


def test_names_in_a_configuration():
    chosen = mi.NuisanceColumns(["blur", {"rotation": {"reach": 10}, "shift": {"axis": 1}}, Gain()])
    assert list(chosen.nuisances) == ["blur", "rotation", "shift_along_axis_1", "gain"]
    assert chosen.ranges["rotation"] == {"reach": 10, "unit": "degrees", "one_sided": False}
    every = [{"rotation": {"axis": axis}} for axis in range(3)]
    assert len(mi.NuisanceColumns(every).nuisances) == 3
    assert list(mi.NuisanceColumns("gain").nuisances) == ["gain"]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["rotations"], r"got 'rotations' \(did you mean 'rotation'\?\)"),
        ([{"rotation": {"raech": 3}}], r"got 'raech' \(did you mean 'reach'\?\)"),
        ([{"gain": {"reach": -1}}], "expected a number > 0 as the reach of gain, got -1"),
        (["gain", Gain(3.0)], "expected nuisances of different names, got gain, gain"),
        ([], "expected at least one nuisance"),
        ([3], "expected nuisances with name"),
    ],
)
def test_bad_nuisances(chosen, message):
    with pytest.raises(ValueError, match=message):
        mi.NuisanceColumns(chosen)


@pytest.mark.parametrize("axis", [-1, 3, 5, "2", 1.0, True])
def test_no_such_axis_of_a_volume(axis):
    """All cells would be empty, as if everything were tolerated."""
    for nuisance in (Rotation(axis=axis), Shift(axis=axis), BiasField(axis=axis)):
        with pytest.raises(ValueError, match="expected an axis from 0 to 2 of images"):
            nuisance(torch.rand(1, 1, 5, 4, 3), torch.ones(1))


@pytest.mark.parametrize("size", [0, 0.0, -1.0, math.nan, math.inf, "1", True, [1.0, 2.0]])
def test_sizes_of_voxels_are_numbers_above_0(size):
    for chosen in ({"shift": {"spacing": size}}, {"rotation": {"spacing": [[1.0, size]]}}):
        with pytest.raises(ValueError, match="expected sizes of voxels in mm, > 0, as the spacing"):
            mi.NuisanceColumns([chosen])
    with pytest.raises(ValueError, match="expected sizes of voxels in mm"):
        mi.NuisanceColumns([{"rotation": {"spacing": [size, 1.0]}}])


@pytest.mark.parametrize("level", ["a", None, True, 0, -1.0, math.nan, math.inf])
def test_a_level_is_a_number_above_0(level):
    with pytest.raises(ValueError, match=r"a level > 0 in nats, got 1 and level="):
        mi.chosen_questions(nuisances=["gain"], level=level)
