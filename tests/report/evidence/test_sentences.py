"""The sentence of a finding: which networks are behind it, and why others may not be."""

import pytest

from _helpers.trainings import about, made_block, made_trainings, made_uses
from monai_ifim.report.evidence.appendix import bars
from monai_ifim.report.evidence.blocks import blocks_of
from monai_ifim.report.evidence.comparisons import logarithm
from monai_ifim.report.evidence.finding import Case, Finding
from monai_ifim.report.evidence.findings import answer_findings
from monai_ifim.report.evidence.uses import use_findings


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
        " Below: `t1`, CNN, -0.300 [-0.310, -0.290]."
    )


def test_ratios_are_named_as_ratios():
    text = finding((3.0, 0.03, 5), (0.3, 0.003, 5), ratio=True).sentence
    assert " Above: `t0`, CNN, 3.00 [2.97, 3.03]." in text


@pytest.mark.parametrize("value", [0.3, -0.3])
def test_networks_are_not_named_where_the_answer_is_for_all(value):
    text = finding((value, 0.01, 5), (value, 0.01, 5)).sentence
    assert "Above:" not in text


def test_the_number_of_f_stands_beside_one_that_is_not_of_f():
    """The best of our scores takes the gradients alone; the table says what F itself does."""
    uses = made_uses(ours=0.6, best=0.7)
    for case in uses["cases"]:
        case["above_best_baseline"]["flip_distance"] |= about(-0.05)
        case["above_best_baseline"]["trace"] |= about(-0.1)
    rows = {
        each.row[0]: each.row[2]
        for each in use_findings(blocks_of([made_trainings(cnn=[made_block(uses=uses)])]), [])
    }
    (wrong,) = [text for question, text in rows.items() if "wrong predictions" in question]
    assert "flip distance (gradients, not F) less best baseline: -0.0500 [" in wrong
    assert "; trace of F -0.100 [" in wrong
    (flips,) = [text for question, text in rows.items() if "smallest change" in question]
    assert "; less the trace of F " in flips
    assert "; " not in finding((0.3, 0.01, 5)).row[2]


def test_the_known_answer_is_compared_with_gradients_alone():
    made = made_block()
    made["template"]["unit_trace_less"]["mean_jacobian"] = about(-0.2, 0.01, 5)
    (against,) = answer_findings(blocks_of([made_trainings(cnn=[made])]))
    assert against.tally.answer == "No"
    assert "Pooled less mean Jacobian: -0.200" in against.sentence
    # Of the lumpy background the best linear template is known, which is no answer.
    assert not list(answer_findings(blocks_of([made_trainings(known="linear", cnn=[made])])))


def test_two_bars_of_a_task_are_both_said():
    first, second = (made_trainings(bar=bar, cnn=[made_block()]) for bar in (0.93, 0.94))
    found = list(bars([first, second, first]))
    assert len(found) == 2
    assert ["0.930" in found[0], "0.940" in found[1]] == [True, True]


def test_undecided_networks_that_were_trained_twice_are_counted():
    """A pair of trainings leaves one degree of freedom: the same number, the other answer."""
    cases = [(0.3, 0.02, 5), (0.3, 0.1, 2), (0.3, 0.1, 2), (0.01, 0.3, 5)]
    assert finding(*cases).sentence.endswith(
        "Of the 3 that are neither, 2 were trained only twice."
    )
    assert "trained only twice" not in finding(*cases[:1], cases[3]).sentence
    assert "trained only twice" not in finding(*cases[:2], cases[3], cases[3]).sentence
    assert finding(*cases[:2]).sentence.endswith("1 is neither, and was trained only twice.")
