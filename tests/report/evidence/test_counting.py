"""Which networks count in findings, and sentences that are there for some numbers alone."""

import pytest

from _helpers.results import HIGH, around, made_result, share, stored
from _helpers.trainings import about, made_block, made_trainings, made_uses
from monai_ifim.report.evidence.blocks import (
    COUNTED,
    Single,
    blocks_of,
    counted,
    groups,
    other_recipes,
    untried,
)
from monai_ifim.report.evidence.findings import (
    findings,
    moves_findings,
    picture_sentence,
    weighting,
)
from monai_ifim.report.evidence.page import _mapped, write_results_page
from monai_ifim.report.evidence.singles import (
    inside_sentence,
    map_findings,
    map_panels,
    single_findings,
)
from monai_ifim.report.evidence.tables import recipe_table
from monai_ifim.report.evidence.uses import use_findings
from monai_ifim.report.results.measured import standing
from monai_ifim.report.results.single import absences

MISSED = "a gain or a loss may have been missed"


@pytest.mark.parametrize(
    ("bar", "scores", "expected"),
    [
        ({"auc": 0.718}, (0.7181, 0.768456), "below"),  # no better than the largest class
        ({"auc": 0.718}, (0.7205, 0.728), "below"),
        ({"auc": 0.718}, (0.7181, 0.7685), "above"),
        ({"auc": 0.718}, (0.717, 0.9), "below"),
        ({"accuracy": 0.99}, (1.0, 0.955), "below"),
        ({"accuracy": 0.99}, (0.98, 0.99), "above"),
        ({"auc": 0.7}, (None, 0.9), "below"),
        (None, (1.0, 1.0), "no bar"),
    ],
)
def test_the_bar_and_the_largest_class(bar, scores, expected):
    result = {"task": {"bar": bar, "majority": 0.768456}}
    assert standing(result, dict(zip(("auc", "accuracy"), scores, strict=True))) == expected


def test_several_trainings_are_judged_by_their_means():
    result = made_trainings(cnn=[made_block(accuracy=0.5)], vit=[made_block(accuracy=0.51)])
    assert [each.network for each in counted(blocks_of([result]))] == ["vit"]
    one = result["networks"]["cnn"]["trainings"][0]
    one["trainings"] = [{**one["trainings"][0], "accuracy": a} for a in (0.4, 0.5, 0.66)]
    assert [each.network for each in counted(blocks_of([result]))] == ["cnn", "vit"]
    result["task"]["bar"] = {"accuracy": 0.515, "source": "made"}  # the means are 0.52 and 0.51
    assert [each.network for each in counted(blocks_of([result]))] == ["cnn"]


def test_a_longer_training_that_failed_takes_the_network_away():
    """Choosing the length that reached the bar would be choosing by the outcome."""
    lengths = [made_block(images=1000, auc=0.97), made_block(images=9000, auc=0.6)]
    result = made_trainings(cnn=lengths, vit=[made_block()], resnet18=[made_block(trainings=1)])
    blocks = blocks_of([result])
    assert [each.network for each in counted(blocks)] == ["vit"]
    sorted_ = {words: [(e.network, e.seen) for e in some] for words, some in groups(blocks).items()}
    assert sorted_.pop(COUNTED) == [("vit", 1000)]
    assert {words.split(";")[0]: found for words, found in sorted_.items()} == {
        "Above the bar, but not the longest training of the network": [("cnn", 1000)],
        "Below the bar": [("cnn", 9000)],
        "Trained once": [("resnet18", 1000)],
    }


def test_the_page_lists_every_network_once_with_the_reason(undrawn, tmp_path):
    result = made_trainings(cnn=[made_block(trainings=1)], vit=[made_block(auc=0.5)])
    # In the same file a network that has no block of trainings, beside those that do.
    result["networks"]["resnet18"] = made_result("any", 1)["networks"]["cnn"]
    bare = made_trainings("trainings_bare", bar=None, cnn=[made_block(auc=1.0)])
    folder = stored(tmp_path / "r", result, bare)
    text = write_results_page([folder], tmp_path / "p.md").read_text("utf-8")
    section = text.split("## Which networks count")[1].split("\n## ")[0]
    parts = section.split("these count in")
    assert "No network." in parts[1]
    for words, row in (
        ("Trained once; ", "| `signal` | CNN | 1,000 | 1 |"),
        ("Below the bar; ", "| `signal` | ViT | 1,000 | 3 |"),
        ("No bar was stated for the task; ", "| `bare` | CNN | 1,000 | 3 |"),
    ):
        (place,) = [i for i, part in enumerate(parts) if part.endswith(words)]
        assert row in parts[place + 1]
        assert section.count(row) == 1
    assert "`bare`: no bar was stated, no network counts." in section
    assert (
        "Of 1 network measured on one training alone, 1 count where such networks are asked"
        in section
    )
    # It is asked what single trainings are asked.
    assert "Must a network have learned" in text.split("## Which networks count")[0]


def single(untrained=HIGH, name="signal"):
    result = made_result(name, 1, ratios=(HIGH,) * 3)
    cnn = result["networks"]["cnn"]
    for row in cnn["controls"]["random_weights"]["ratios"]:
        row["random"] = untrained
    return Single(result, "cnn", cnn)


@pytest.mark.parametrize(("pooled", "said"), [(0.1, True), (0.9, False), (0.5, False)])
def test_pixels_are_warned_of_where_they_are_not_shared(pooled, said):
    result = made_trainings(known=None, cnn=[made_block(pooled=pooled, template=False)])
    (found,) = [e for e in findings(blocks_of([result])) if "single pixels" in e.question]
    assert ("No single pixel of such a map should be read." in found.sentence) is said
    assert "Mean cos² in pixels on `signal` (32 × 28): one image" in found.sentence


@pytest.mark.parametrize(("ratio", "said"), [(80, True), (0.1, False)])
def test_nothing_learned_is_said_where_untrained_networks_do_it_too(ratio, said):
    one = single(around(ratio, 64))
    (found,) = single_findings([one], alarm=False)
    assert ("is no evidence of learning" in found.sentence) is said
    assert ("is no evidence of learning" in inside_sentence([one])) is said


def test_controls_are_compared_on_the_networks_that_have_all_of_them():
    one, other = single(), single()
    controls = one.numbers["controls"]
    controls["shuffled_labels"] = controls["random_weights"]
    text = inside_sentence([one, other])
    assert "Of the 1 network with all three: 12.3 trained" in text
    assert "with all three" not in inside_sentence([one])
    assert "with all three" not in inside_sentence([other])


def test_networks_that_were_not_trained_are_no_trainings():
    (found,) = single_findings([single(name=n) for n in ("a", "b", "c")], alarm=False)
    assert found.sentence.endswith("of 3 networks (with random weights).")
    assert "training)" not in found.sentence
    assert "trainings)" not in found.sentence


def test_the_caption_has_the_numbers_of_the_networks_shown():
    numbers = made_block()
    numbers["agreement"]["pixels"]["leading"]["unit_trace"] = about(0.946)
    other = made_block(template=False)
    other["agreement"]["pixels"]["leading"]["unit_trace"] = about(0.089)
    results = [made_trainings(cnn=[numbers]), made_trainings("trainings_x", cnn=[other])]
    # Half of the width times √(3/2) and 4.303, the quantile of Student's t with 2 degrees of
    # freedom, divided by 1.960: 0.0538.
    assert picture_sentence(blocks_of(results)) == (
        "Mean cos² of the pooled ones of the networks shown: `signal` 0.946 [0.892, 1.00] in "
        "pixels, 0.900 [0.846, 0.954] filtered; `x` 0.0890 [0.0352, 0.143] in pixels, "
        "0.900 [0.846, 0.954] filtered."
    )


def test_what_was_compared_unpaired_says_so_where_nothing_is_shown():
    def alarm(trace):
        one = single()
        one.numbers["detection"]["error_auc"] |= {
            "trace": share(trace, 400, 0.03),
            "entropy": share(0.8, 400, 0.03),
        }
        return next(iter(single_findings([one], alarm=True))).sentence

    assert MISSED in alarm(0.79)
    assert MISSED not in alarm(0.5)


def test_directions_are_compared_at_the_same_images():
    numbers = made_block()
    numbers["moves"]["own_ratios"]["pooled"] = about(0.99, 0.1)
    (close,) = moves_findings(blocks_of([made_trainings(cnn=[numbers])]))
    assert close.tally.answer == "Not shown"
    (far,) = moves_findings(blocks_of([made_trainings(cnn=[made_block()])]))
    assert far.tally.answer == "No"
    assert "own direction is 2.00 [" in far.text


def test_maps_are_compared_image_by_image_where_that_was_measured():
    one = single()
    methods = one.numbers["maps"]["methods"]
    for name in [each for each in methods if each != "ifim"]:
        for key in ("deletion", "insertion"):
            methods[name][f"{key}_advantage"] = share(0.123, 64, 0.001)
    for finding in map_findings([one]):
        assert finding.cases[0].difference["value"] == 0.123
        assert MISSED not in finding.sentence


def test_what_an_earlier_version_measured_is_left_out_and_said():
    old = made_block(uses={**made_uses(), "flips": {**made_uses()["flips"], "search": None}})
    old["moves"] = {"ratios": old["moves"]["ratios"]}
    new = made_block(uses=made_uses())
    result = made_trainings(cnn=[new], vit=[old])
    (moved,) = moves_findings(blocks_of([result]))
    assert (len(moved.cases), "1 network of an earlier version" in moved.text) == (1, True)
    found = [
        each for each in use_findings(blocks_of([result]), [result]) if "smallest" in each.text
    ]
    assert [len(each.cases) for each in found] == [1]
    assert "Left out: 1 network of an earlier search." in found[0].text


def test_a_method_of_the_user_is_among_the_maps():
    """It deletes fastest and inserts worst, so that it is the best other map of one alone."""
    one = single()
    one.numbers["quantus"] = None
    methods = one.numbers["maps"]["methods"]
    methods["my_own_method"] = {
        "rank_correlation": share(0.99, 64),
        "deletion": share(0.02, 64, 0.01),
        "insertion": share(0.01, 64, 0.01),
    }
    for panel in map_panels([one]):
        assert "my_own_method" in panel.rows
    deletion, insertion = map_findings([one])
    assert "my own method 0.0200 [0.0100, 0.0300]" in deletion.text
    assert deletion.cases[0].difference["value"] == pytest.approx(
        0.02 - methods["ifim"]["deletion"]["value"]
    )
    assert "my own method" not in insertion.text


def test_maps_are_shown_of_the_tasks_at_the_top_of_the_page():
    kept = [single(), single(), single()]
    for name, each in zip("abc", kept, strict=True):
        each.result["task"] = {"name": name, "known_answer": "exact"}
        each.numbers["maps"]["pictures"] = {"images": []}
    (shown,) = blocks_of([made_trainings(cnn=[made_block()])])
    shown.result["task"]["name"] = "b"
    assert [each.task for each in _mapped(kept, [shown])] == ["b"]
    assert [each.task for each in _mapped(kept, [])] == ["a"]
    del kept[1].numbers["maps"]["pictures"]
    assert [each.task for each in _mapped(kept, [shown])] == ["a"]


def test_architectures_that_were_not_trained_several_times():
    results = [
        made_trainings(cnn=[made_block()], vit=[{**made_block(), "trainings": [{}]}]),
        made_trainings("trainings_x", cnn=[made_block()], resnet18=[made_block()]),
    ]
    names = ["vit", "cnn", "resnet18", "my own"]
    assert untried(blocks_of(results), names) == {"signal": ["ResNet-18", "ViT"], "x": ["ViT"]}
    assert untried(blocks_of(results), ["cnn"]) == {}


def test_the_largest_network_of_a_kind_is_the_one_that_is_missed():
    results = [
        made_trainings(cnn=[made_block()]),
        made_trainings("trainings_x", densenet41=[made_block()]),
    ]
    names = ["densenet121", "densenet41", "cnn"]
    found = untried(blocks_of(results), names)
    assert set(found) == {"signal", "x"}
    assert found["signal"] == ["DenseNet-121"]
    assert set(found["x"]) == {"CNN", "DenseNet-121"}


def test_networks_with_a_recipe_of_their_own_are_named():
    plain = made_block()
    strong = {**plain, "recipe": {**plain["recipe"], "strength": 6.0}}
    thin = {**strong, "max_pool": False}
    results = [
        made_trainings(cnn=[plain], resnet18=[thin], vit=[strong, strong]),
        made_trainings("trainings_x", cnn=[plain]),
    ]
    assert other_recipes(blocks_of(results)) == (
        "`signal`: ResNet-18 (no max-pooling after the first convolution, signals 6 times as "
        "strong at first) and ViT (signals 6 times as strong at first)"
    )
    assert other_recipes(blocks_of(results[1:])) == ""
    header, _, *rows = recipe_table(blocks_of(results[:1])).splitlines()
    names = header.strip("| ").split(" | ")
    cells = [dict(zip(names, row.strip("| ").split(" | "), strict=True)) for row in rows]
    assert [row["Network"] for row in cells] == ["CNN", "ResNet-18", "ViT", "ViT"]
    assert [row["network"] for row in cells] == ["", "no first max-pooling", "", ""]
    assert [row["signals at first, times"] for row in cells] == ["1", "6", "6", "6"]


def test_weights_are_of_all_trainings():
    result = made_trainings(cnn=[made_block()])
    block = result["networks"]["cnn"]["trainings"][0]
    counts = (40.0, 7.0, 63.0)  # of 100 images
    block["trainings"] = [
        {**block["trainings"][0], "pooled": {"equal": {"effective_count": count}}}
        for count in counts
    ]
    assert "only 7.00 to 63.0 % of the images count" in weighting(blocks_of([result]))


def test_flips_that_were_not_searched_for_are_said():
    uses = {**made_uses(), "flips": None, "flips_missing": "foolbox is not installed"}
    whole = {**made_uses(), "flips_missing": ""}
    result = made_trainings(
        cnn=[made_block(uses=uses), made_block(uses=uses)],
        resnet18=[made_block(uses=uses)],
        vit=[made_block(uses=whole)],
        densenet121=[made_block()],
    )
    (line,) = absences([result])
    assert line == (
        "- **No smallest change: Several trainings, trainings_signal, CNN and ResNet-18.** "
        "foolbox is not installed."
    )
