"""What every host hands on of a batch: names, numbers, rows and reasons."""

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

import monai_ifim as mi
from _helpers.problems import Affine, smooth_images, smooth_network
from monai_ifim.outputs import (
    VOLUMES,
    batch_outputs,
    check_volumes,
    outputs_of_network,
    with_class_names,
)

ALWAYS = {"ifim_eigenvalues", "ifim_trace", "ifim_rank"}


@pytest.mark.parametrize(
    "volumes", [(), ("high",), ("orth",), ("sensitivity",), ("orth", "high"), VOLUMES]
)
def test_names_and_numbers(volumes):
    images = smooth_images(2)
    space = mi.eigenspace(smooth_network(2, 3), images, rank=1)
    found = batch_outputs(space, images, volumes).values
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
    found = batch_outputs(space, images, ("high",), prefix="fim").values
    assert set(found) == {"fim_eigenvalues", "fim_trace", "fim_rank", "fim_high"}


def test_values_have_the_metadata_of_the_images():
    images = MetaTensor(smooth_images(2), meta={"filename_or_obj": list("abcde")})
    images.is_batch = True
    space = mi.eigenspace(smooth_network(2, 3), images)
    for value in batch_outputs(space, images, VOLUMES).values.values():
        assert value.meta["filename_or_obj"] == list("abcde")


def test_volumes_are_checked():
    assert check_volumes(["orth", "high"]) == ("orth", "high")
    assert check_volumes("high") == ("high",)
    for wrong in (["high", "low"], "low"):
        with pytest.raises(ValueError, match=r"expected volumes from .*got 'low'"):
            check_volumes(wrong)


def test_from_a_network_it_is_what_its_eigenspace_gives():
    network, images = smooth_network(2, 4), smooth_images(2)
    options = mi.EigenspaceOptions(energy=0.8)
    found = outputs_of_network(network, images, options, VOLUMES)
    expected = batch_outputs(mi.eigenspace(network, images, options=options), images, VOLUMES)
    assert found.numbers == expected.numbers
    assert found.statuses == expected.statuses == ("ok",) * len(images)
    for name, value in expected.values.items():
        assert torch.equal(found.values[name], value)


def test_rows_have_numbers_where_there_is_a_result():
    network, images = smooth_network(2, 3), smooth_images(2)
    images[1, 0, 2, 3] = torch.nan
    outputs = outputs_of_network(network, images, mi.EigenspaceOptions(), ())
    rows = outputs.rows(list("abcde"))
    assert [row["file"] for row in rows] == list("abcde")
    failed = {"file": "b", "status": "failed: the preprocessed image holds NaN or infinity"}
    assert rows[1] == failed
    assert set(rows[0]) == {
        *("file", "status", "predicted_class", "probability", "trace", "rank"),
        *("eigenvalue_1", "eigenvalue_2", "trace_share", "high_energy_share"),
        *("flip_distance", "flip_class"),
        *("probability_0", "probability_1", "probability_2"),
    }
    named = outputs.rows(list("abcde"), ["x", "y", "z"])[0]
    assert [named[f"probability_{c}"] for c in "xyz"] == outputs.numbers[0]["probabilities"]
    assert rows[0]["trace"] == outputs.numbers[0]["trace"]


def test_the_nearest_other_class_is_in_the_row_and_by_name():
    network, images = smooth_network(2, 3), smooth_images(2)
    outputs = outputs_of_network(network, images, mi.EigenspaceOptions(), ())
    flips = mi.eigenspace(network, images).flip_distance()
    for row, numbers, distance, index in zip(
        outputs.rows(list("abcde")), outputs.numbers, flips.distance, flips.index, strict=True
    ):
        assert row["flip_distance"] == distance
        assert row["flip_class"] == str(int(index))
        assert row["flip_class"] != row["predicted_class"]
        assert with_class_names(numbers, ["x", "y", "z"])["flip_class"] == "xyz"[index]


def test_a_classifier_that_does_not_react_has_no_other_class():
    outputs = outputs_of_network(
        Affine(torch.zeros(3, 20)), torch.randn(1, 1, 4, 5), mi.EigenspaceOptions(), ()
    )
    (row,) = outputs.rows(["a"])
    assert row["flip_distance"] is None
    assert row["flip_class"] is None
    assert with_class_names(outputs.numbers[0], ["x", "y", "z"])["flip_class"] is None


# Why a trace is 0 -------------------------------------------------------------------------------

CONFIDENT = "ok, but the prediction is too confident for float64, in which F is 0"
DEAD = "ok, but the prediction does not react to the image at all"
SOLVERS = pytest.mark.parametrize(
    "options", [{}, {"method": "truncated"}, {"method": "krylov", "rank": 1}], ids=str
)


def status(network, **options):
    images = torch.randn(2, 1, 4, 5)
    outputs = outputs_of_network(network, images, mi.EigenspaceOptions(**options), ())
    assert outputs.values["ifim_trace"].tolist() == [0, 0]
    assert outputs.statuses[0] == outputs.statuses[1]
    return outputs.statuses[0]


@SOLVERS
@pytest.mark.parametrize("gap", [1e3, 1e10])
def test_a_prediction_too_confident_for_float64_is_not_called_dead(options, gap):
    weight = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    assert status(Affine(weight, torch.tensor([gap, 0, 0])), **options) == CONFIDENT


@SOLVERS
def test_a_network_that_does_not_react_is_called_so(options):
    assert status(Affine(torch.zeros(3, 20), torch.tensor([2.0, 0, 0])), **options) == DEAD


def test_a_dead_network_is_called_so_however_confident_it_is():
    assert status(Affine(torch.zeros(3, 20), torch.tensor([1e10, 0, 0]))) == DEAD


@pytest.mark.parametrize("gap", [1e3, 1e10])
def test_a_segmentation_too_confident_for_float64(gap):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(1, 2, 3)

        def forward(self, x):
            return self.body(x) + torch.tensor([gap, 0.0])[:, None, None]

    assert status(Shifted(), rank=1) == CONFIDENT


def test_a_segmentation_has_rows_too():
    outputs = outputs_of_network(
        nn.Conv2d(1, 3, 3), torch.randn(2, 1, 6, 7), mi.EigenspaceOptions(rank=2), VOLUMES
    )
    assert outputs.values["ifim_high"].shape == (2, 1, 6, 7)
    row = outputs.rows(["a", "b"])[0]
    assert {"residual", "trace_error", "eigenvalue_2"} <= set(row)
    assert "flip_distance" not in row
    assert row["status"] == "ok"


@pytest.mark.parametrize(
    ("choice", "numbers", "names"),
    [
        ({}, ["0", "1", "2"], ["cat", "dog", "cow"]),
        ({"classes": [0, 2]}, ["0", "2"], ["cat", "cow"]),
        ({"groups": [[2], [0, 1]]}, ["2", "0 or 1"], ["cow", "cat or dog"]),
    ],
)
def test_columns_of_probabilities_say_whose_they_are(choice, numbers, names):
    """Not the position among the chosen ones: probability_1 of classes 0 and 2 is nobody's."""
    images, options = smooth_images(2), mi.EigenspaceOptions(**choice)
    outputs = outputs_of_network(smooth_network(2, 3), images, options, ())
    for class_names, expected in ((("cat", "dog", "cow"), names), ((), numbers), (("a",), numbers)):
        row = outputs.rows([f"{i}" for i in range(len(images))], class_names)[0]
        columns = [n.removeprefix("probability_") for n in row if n.startswith("probability_")]
        assert columns == expected
