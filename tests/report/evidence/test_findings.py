"""What the page of results says of made-up numbers, and what it leaves out."""

import copy

import pytest

from _helpers.results import HIGH, around, made_result, not_numbers, share, stored
from _helpers.trainings import OWN, about, made_block, made_labelling, made_trainings, made_uses
from monai_ifim.report.evidence.blocks import Single, blocks_of, counted
from monai_ifim.report.evidence.figures import learning_figure
from monai_ifim.report.evidence.finding import ANSWERS
from monai_ifim.report.evidence.findings import enough_images, findings, trained_twice
from monai_ifim.report.evidence.page import write_results_page
from monai_ifim.report.evidence.pictures import draw_pictures
from monai_ifim.report.evidence.singles import single_findings
from monai_ifim.report.evidence.uses import use_findings, use_panels


@pytest.fixture
def page(undrawn):
    """The page of results, without the drawing."""

    def text(folder, *results):
        return write_results_page([stored(folder / "r", *results)], folder / "p.md").read_text()

    return text


def found_in(result, make=findings):
    return {each.question: each for each in make(counted(blocks_of([result])))}


def answer(found, word):
    (one,) = [each for question, each in found.items() if word in question]
    return one.tally.answer


def test_the_answer_follows_the_numbers():
    good = found_in(made_trainings(cnn=[made_block(single=0.2, pooled=0.9)]))
    assert answer(good, "known answer") == "Yes"
    assert answer(good, "mean Jacobian") == "Not shown"
    bad = found_in(made_trainings(cnn=[made_block(single=0.9, pooled=0.2)]))
    assert answer(bad, "known answer") == "No"
    assert answer(bad, "do trainings share more of the pooled eigenspace than of one") == "No"


def test_pixels_are_asked_of_clinical_tasks_alone():
    low = made_trainings(known=None, cnn=[made_block(pooled=0.1, template=False)])
    assert answer(found_in(low), "single pixels") == "No"
    high = made_trainings(known=None, cnn=[made_block(pooled=0.9, template=False)])
    assert answer(found_in(high), "single pixels") == "Yes"
    assert not [q for q in found_in(made_trainings(cnn=[made_block()])) if "single pixels" in q]


def test_a_network_counts_once_and_only_above_the_bar():
    blocks = [made_block(images=10, pooled=0.3), made_block(images=1000, pooled=0.9)]
    one = [made_block(trainings=1)]
    result = made_trainings(cnn=blocks, vit=[made_block(auc=0.92)], resnet18=one)
    kept = counted(blocks_of([result]))
    assert [(each.network, each.seen) for each in kept] == [("cnn", 1000)]
    (known,) = [each for each in findings(kept) if "known answer" in each.question]
    assert known.tally.count == 1
    assert "1 network (3 trainings)" in known.sentence
    assert "pooled 0.900 [0.846, 0.954]" in known.sentence


def test_negative_answers_come_first(page, tmp_path):
    uses = made_uses(ours=0.6, best=0.7)
    result = made_trainings(cnn=[made_block(uses=uses)], resnet18=[made_block(uses=uses)])
    result["labelling"] = made_labelling()
    text = page(tmp_path, result)
    lines = [line for line in text.splitlines() if line.startswith("- **")]
    given = [next(a for a in ANSWERS if f"? {a}.**" in line) for line in lines]
    assert given == sorted(given, key=ANSWERS.index)
    assert given[0] == "No"
    assert lines[0].startswith("- **Do our scores find wrong predictions better than the best of 7")
    assert "chosen on the same images, 0.700 [0.675, 0.725]" in lines[0]
    assert "Not measured with several trainings" not in text


def used(*uses):
    """What networks with these blocks say, by question."""
    names = ("cnn", "resnet18", "vit")
    blocks = {n: [made_block(uses=each)] for n, each in zip(names, uses, strict=False)}
    return found_in(made_trainings(**blocks), lambda good: use_findings(good, []))


@pytest.mark.parametrize(("ours", "expected"), [(0.6, "No"), (0.7, "Not shown"), (0.8, "Yes")])
def test_detection_is_compared_with_the_best_baseline(ours, expected):
    found = used(made_uses(ours, 0.7))
    for words in ("wrong predictions", "corrupted images", "foreign images"):
        assert answer(found, words) == expected
    assert [each.tally.count for each in found.values()] == [1, 1, 1, 1]


def test_the_baseline_that_is_printed_is_the_one_compared():
    first, second = made_uses(0.6, 0.7), made_uses(0.6, 0.7)
    for case in second["cases"]:
        case["auc"]["margin"] = about(0.8)
        for score in OWN:
            case["above_best_baseline"][score] = {"baseline": "margin", **about(-0.2)}
    wrong = next(iter(used(first, second).values()))
    assert "best of ours, 0.600 [" in wrong.sentence
    assert "chosen on the same images, 0.750 [" in wrong.sentence
    assert "less best baseline: -0.150 [" in wrong.sentence


def test_networks_without_errors_are_counted_as_left_out():
    without = made_uses()
    without["cases"] = without["cases"][1:]
    wrong, corrupted, *_ = used(made_uses(), without, without).values()
    assert "Left out: 2 networks with fewer than 5 wrong or 5 correct ones" in wrong.sentence
    assert "below in 1 of 1 network (3 trainings)" in wrong.sentence
    assert "Left out" not in corrupted.sentence
    assert "of 3 networks (9 trainings)" in corrupted.sentence


@pytest.mark.parametrize("ours", [0.67, 0.69, 0.72, 0.74])
def test_copies_of_a_number_change_no_answer(ours):
    """With two classes F has rank 1: its trace is its largest eigenvalue."""
    copied, once = (made_uses(ours, 0.7) for _ in range(2))
    copied["cases"] += [copy.deepcopy(each) for each in copied["cases"] for _ in range(5)]
    for case in once["cases"]:
        for score in OWN[1:]:
            case["above_best_baseline"][score] = None
    for rival in ("trace", "margin"):
        copied["flips"]["spearman"][rival] = copied["flips"]["spearman"]["largest_eigenvalue"]
        copied["flips"]["above"][rival] = copied["flips"]["above"]["largest_eigenvalue"]
        once["flips"]["above"][rival] = None
    many, few = used(copied, copied).values(), used(once, once).values()
    for first, second in zip(many, few, strict=True):
        one, other = first.tally, second.tally
        assert (one.answer, one.above, one.below) == (other.answer, other.above, other.below)
        assert one.mean == pytest.approx(other.mean)


def test_the_flip_distance_is_best_only_where_no_rival_is_better():
    def flips(margin):
        uses = made_uses()
        values = {"flip_distance": 0.97, "margin": margin, "gradient_norm": 0.6}
        values |= {"trace": 0.7, "largest_eigenvalue": 0.7}
        found = uses["flips"]
        found["spearman"] = {name: about(value, 0.005) for name, value in values.items()}
        del values["flip_distance"]
        found["above"] = {name: about(0.97 - value, 0.001) for name, value in values.items()}
        return uses

    ahead, behind = used(*[flips(0.975)] * 3), used(*[flips(0.9)] * 3)
    assert answer(ahead, "flip distance") == "No"
    assert answer(behind, "flip distance") == "Yes"
    (sentence,) = [each.sentence for q, each in ahead.items() if "flip distance" in q]
    assert "best other predictor of each network: -0.00500" in sentence
    few = flips(0.975)
    few["flips"] |= {"norm": None, "spearman": None, "above": None}
    (sentence,) = [each.sentence for q, each in used(flips(0.9), few).items() if "flip" in q]
    assert "Left out: 1 network with fewer than 5 found." in sentence


def test_labelling_is_compared_with_the_better_of_entropy_and_random():
    result = made_trainings(cnn=[made_block(auc=0.5)])
    result["labelling"] = made_labelling()
    (labelling,) = use_findings([], [result])
    assert labelling.tally.answer == "Not shown"
    assert labelling.trainings == 5
    assert "at random 0.760 [0.740, 0.780]" in labelling.sentence
    assert "No bar applies" in labelling.sentence
    result["labelling"]["less_entropy"]["trace"] = about(0.3)
    (labelling,) = use_findings([], [result])
    assert labelling.tally.answer == "Yes"
    # Random is better from the second round on; what is chosen at random is the rival then.
    result["labelling"]["auc"]["random"][1:] = [about(0.99)] * 4
    result["labelling"]["less_random"] |= {"trace": about(-0.2), "flip_distance": about(-0.3)}
    (labelling,) = use_findings([], [result])
    assert labelling.tally.answer == "No"
    assert labelling.tally.mean["value"] == pytest.approx(-0.2)


def test_parts_of_uses_that_were_not_measured_are_left_out():
    uses = made_uses()
    uses["flips"] = None
    uses["cases"] = uses["cases"][:1]
    uses["cases"][0]["auc"]["mahalanobis"] = None
    uses["cases"][0]["above_best_baseline"]["trace"] = None
    blocks = counted(blocks_of([made_trainings(cnn=[made_block(uses=uses)])]))
    (found,) = use_findings(blocks, [])
    assert "largest eigenvalue, best of ours" in found.text
    assert [panel.label for panel in use_panels(blocks)] == ["AUC, wrong predictions"]
    assert "mahalanobis" not in use_panels(blocks)[0].rows


def single(name="signal", **changes):
    result = made_result(name, 1, ratios=(HIGH,) * 3)
    cnn = result["networks"]["cnn"]
    cnn["detection"]["error_auc"] = changes.get("aucs", cnn["detection"]["error_auc"])
    if "untrained" in changes:
        for row in cnn["controls"]["random_weights"]["ratios"]:
            row["random"] = changes["untrained"]
    return Single(result, "cnn", cnn)


def test_what_untrained_networks_do_too_is_not_learned():
    (same,) = single_findings([single(untrained=around(80, 64))], alarm=False)
    assert same.tally.answer == "No"
    assert "trained 12.3 [11.1, 13.5], random weights 80.0 [72.0, 88.0]" in same.sentence
    (other,) = single_findings([single(untrained=around(0.1, 64))], alarm=False)
    assert other.tally.answer == "Yes"


def test_three_norms_of_a_network_are_one_number():
    found = single_findings([single(name=n) for n in ("one", "two")], alarm=False)
    assert [each.tally.count for each in found] == [2]


@pytest.mark.parametrize(("trace", "expected"), [(0.5, "No"), (0.79, "Not shown"), (0.95, "Yes")])
def test_an_alarm_needs_more_than_the_entropy(trace, expected):
    aucs = {"trace": share(trace, 400, 0.03), "entropy": share(0.8, 400, 0.03)}
    found = next(iter(single_findings([single(aucs=aucs)], alarm=True)))
    assert "wrong predictions" in found.question
    assert found.tally.answer == expected


def test_the_number_of_images_that_is_enough():
    blocks = blocks_of([made_trainings(cnn=[made_block()])])
    rows = blocks[0].numbers["template"]["by_count"]
    assert [row["images"] for row in rows] == [1, 10, 100]
    assert "with 100 images" in enough_images(blocks)
    rows[1]["unit_trace"]["value"] = 0.85
    assert "with 10 images" in enough_images(blocks)


def test_a_page_without_anything_says_so(page, tmp_path):
    result = made_trainings(cnn=[made_block(auc=0.5)])
    text = page(tmp_path, result)
    assert "No network was trained more than once, or none of them reaches the bar" in text
    assert "Below the bar; these count in no finding" in text
    assert not_numbers(text) == []


def test_the_learning_curves_are_of_tasks_with_a_choice_or_below_the_bar():
    lengths = [made_block(images=1000, auc=0.8), made_block(images=4000, auc=0.95)]
    learned = made_trainings(cnn=lengths, vit=[made_block(images=4000, auc=0.96)])
    easy = made_trainings("trainings_easy", cnn=[made_block()])
    figure = learning_figure(blocks_of([easy, learned]))
    assert [axis.get_title() for axis in figure.axes] == ["signal"]
    curve = figure.axes[0].lines[0]
    assert list(curve.get_xdata()) == [1, 4]
    assert list(curve.get_ydata()) == pytest.approx([0.8, 0.95])
    assert learning_figure(blocks_of([easy])) is None
    weak = made_trainings("trainings_weak", cnn=[made_block(auc=0.6)])
    assert [axis.get_title() for axis in learning_figure(blocks_of([easy, weak])).axes] == ["weak"]
    # Two architectures of two lengths are no curve.
    other = made_trainings(cnn=[made_block(images=10)], vit=[made_block(images=20)])
    assert learning_figure(blocks_of([other])) is None


def test_networks_that_were_trained_twice_are_counted():
    twice = made_block()
    twice["trainings"] = twice["trainings"][:2]
    three = [*twice["trainings"], twice["trainings"][0]]
    result = made_trainings(cnn=[twice], vit=[{**twice, "trainings": three}])
    assert trained_twice(blocks_of([result])).startswith("Trained twice: 1 network of 2;")
    assert trained_twice(blocks_of([result])[1:]) == ""


def test_missing_numbers_are_survived(page, tmp_path):
    """Blocks that are null, one after the other, and intervals without ends."""
    whole = made_trainings(cnn=[made_block(uses=made_uses())], vit=[made_block()])
    for count, name in enumerate(("moves", "pictures", "uses", "template", "untrained_template")):
        changed = copy.deepcopy(whole)
        changed["networks"]["cnn"]["trainings"][0][name] = None
        text = page(tmp_path / str(count), changed)
        assert not_numbers(text) == [], name
    cosine = whole["networks"]["cnn"]["trainings"][0]["template"]
    cosine["unit_trace_less"]["single"]["low"] = None
    assert "1 network (3 trainings)" in page(tmp_path / "ends", whole)


def test_pictures_have_a_row_for_each_network_and_say_what_is_shared():
    result = made_trainings(cnn=[made_block()], vit=[made_block(template=False)])
    blocks = blocks_of([result])
    figure = draw_pictures(blocks)
    shown = [axis for axis in figure.axes if axis.images]
    assert len(shown) == 9 + 2 + 9  # an image, four kinds of two trainings; two of the template
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert texts.count("shared: 0.300") == 2
    assert texts.count("not known") == 1
    blocks[0].numbers["pictures"] = blocks[1].numbers["pictures"] = None
    assert draw_pictures(blocks) is None


def test_the_page_names_the_answers_further_below_that_there_are(page, tmp_path):
    with_moves = page(tmp_path / "a", made_trainings(cnn=[made_block(), made_block()]))
    assert "With answers of their own below: [how far the pooled direction moves" in with_moves
    without = {**made_block(), "moves": None}
    assert "With answers of their own below" not in page(
        tmp_path / "b", made_trainings(cnn=[without])
    )
    maps = page(tmp_path / "c", made_result())
    assert "With answers of their own below: [how the sensitivity map stands" in maps
    assert "\n## Beside attribution maps\n" in maps  # where the link leads
    both = page(tmp_path / "d", made_trainings(cnn=[made_block()]), made_result())
    assert "-along-which-direction) and [how the sensitivity map stands" in both
