"""The sentence of a finding: which networks are behind it, and why others may not be."""

import pytest

from _helpers.trainings import about, made_block, made_trainings
from monai_ifim.report.evidence.blocks import blocks_of
from monai_ifim.report.evidence.comparisons import logarithm
from monai_ifim.report.evidence.finding import Case, Finding


def finding(*cases, **options):
    """With differences of (value, half the interval's width, trainings)."""
    found = []
    for number, (value, half, trainings) in enumerate(cases):
        made = made_trainings(f"trainings_t{number}", cnn=[made_block(trainings=trainings)])
        made["task"]["name"] = f"t{number}"
        (block,) = blocks_of([made])
        difference = about(value, half) | {"trainings": trainings}
        found.append(Case(block, logarithm(difference) if options.get("ratio") else difference))
    return Finding("Is it so?", found, "Numbers.", "Difference", **options)


def test_networks_for_which_alone_it_is_so_are_named():
    text = finding((0.3, 0.01, 5), (-0.3, 0.01, 5), (0.2, 0.01, 5)).sentence
    assert text.startswith("**Is it so? In part.** Numbers.")
    assert "above 0 in 2 and below in 1 of 3 networks (15 trainings)." in text
    assert text.endswith(
        " Above: `t0`, CNN, 0.300 [0.290, 0.310]; `t2`, CNN, 0.200 [0.190, 0.210]."
    )


def test_ratios_are_named_as_ratios():
    text = finding((3.0, 0.03, 5), (0.3, 0.003, 5), ratio=True).sentence
    assert text.endswith(" Above: `t0`, CNN, 3.00 [2.97, 3.03].")


@pytest.mark.parametrize("value", [0.3, -0.3])
def test_networks_are_not_named_where_the_answer_is_for_all(value):
    text = finding((value, 0.01, 5), (value, 0.01, 5)).sentence
    assert "Above:" not in text


def test_undecided_networks_that_were_trained_twice_are_counted():
    """A pair of trainings leaves one degree of freedom: the same number, the other answer."""
    cases = [(0.3, 0.02, 5), (0.3, 0.1, 2), (0.3, 0.1, 2), (0.01, 0.3, 5)]
    assert finding(*cases).sentence.endswith(
        "Of the 3 that are neither, 2 were trained only twice."
    )
    assert "trained only twice" not in finding(*cases[:1], cases[3]).sentence
    assert "trained only twice" not in finding(*cases[:2], cases[3], cases[3]).sentence
    assert finding(*cases[:2]).sentence.endswith("1 is neither, and was trained only twice.")
