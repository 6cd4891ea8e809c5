"""The page of single trainings: sections, links, and what follows from the intervals."""

import re
import shlex

import pytest
from matplotlib.figure import Figure

from _helpers.results import HIGH, LOW, OPEN, made_result, not_numbers, share, stored
from monai_ifim.__main__ import main
from monai_ifim.messages import RESEARCH_ONLY
from monai_ifim.report.evidence.page import write_results_page
from monai_ifim.report.results.sections import SECTIONS, Section
from monai_ifim.report.results.sections.law import LAW
from monai_ifim.report.results.style import settings
from monai_ifim.report.results.summary import summary_text

FIGURES = tuple(section.name for section in SECTIONS)


def test_the_page_has_every_section(written):
    page = (written / "docs" / "results_single.md").read_text()
    headings = re.findall(r"^##+ (.+)$", page, re.MULTILINE)
    assert headings == [
        "What was run",
        "What counts as evidence",
        "Does the claim hold?",
        "Ratios",
        "Trained networks",
        "The quadratic law",
        "Agreement with the known template",
        "Detection of wrong predictions",
        "Made task bare",
        "Made task mednist",
        "Made task signal",
        *(section.title or section.name.capitalize() for section in SECTIONS),
    ]
    assert not_numbers(page) == []
    assert f"> {RESEARCH_ONLY}" in page
    assert "**Absent: Made task mednist.** the folder of the MedNIST images." in page
    assert "Not measured here: perturbation; law; detection; controls; maps; quantus." in page
    assert "No answer is known for Made task bare." in page
    assert "| 3.10 % [2.79 %, 3.41 %] | 1.20 % [0.600 %, 1.80 %] |" in page


def test_links_lead_to_figures(written):
    page = (written / "docs" / "results_single.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert len(links) == len(FIGURES)
    for link in links:
        assert link.startswith("../results/signal/")
        assert (written / "docs" / link).stat().st_size > 1000
    assert not list(written.rglob(".partial-*"))
    assert not list((written / "results" / "bare").glob("*.png"))


def test_the_last_line_makes_the_same_bytes(written):
    page = written / "docs" / "results.md"
    files = [file for file in written.rglob("*") if file.suffix in (".md", ".png")]
    before = {file: file.read_bytes() for file in files}
    assert len(before) > 3 + len(FIGURES)
    page.unlink()
    last = before[page].decode().splitlines()[-1]
    assert main(shlex.split(re.search(r"`python -m monai_ifim (.+)`$", last)[1])) == 0
    assert [file.name for file in files if file.read_bytes() != before[file]] == []


@pytest.mark.parametrize(
    ("ratio", "words", "sentence"),
    [
        (HIGH, "12.3 [11.1, 13.5] holds", "the claim holds for CNN at 1 %, 3 % and 10 %."),
        (OPEN, "1.05 [0.945, 1.16] **undecided**", "the claim is **undecided** for CNN at 1 %,"),
        (LOW, "0.500 [0.450, 0.550] **fails**", "the claim **fails** for CNN at 1 %, 3 % and 10"),
    ],
    ids=["above", "undecided", "below"],
)
def test_the_claim_follows_from_the_intervals(text_only, tmp_path, ratio, words, sentence):
    page = text_only(tmp_path, made_result("signal", 1, ratios=(ratio,) * 3))
    row = next(line for line in page.splitlines() if line.startswith("| Made task signal | CNN |"))
    assert row.count(f"| {words} ") == 3
    assert f"For random directions inside against outside the eigenspace {sentence}" in page
    # The other comparison has its own verdict.
    assert (
        "against the orthogonal one the claim holds for CNN at α = 0.25, α = 0.5 and α = 1" in page
    )
    # The page says that networks which have learned nothing pass it.
    assert "the claim for random directions holds in 1 of 1 networks" in page


def test_too_few_images_decide_nothing(text_only, tmp_path):
    few = {**HIGH, "n": 5}
    page = text_only(tmp_path, made_result("signal", 1, ratios=(few,) * 3))
    row = next(line for line in page.splitlines() if line.startswith("| Made task signal | CNN |"))
    assert row.count("12.3 [11.1, 13.5] **undecided**") == 3


def test_where_arithmetic_decides_is_counted_apart(text_only, tmp_path):
    result = made_result("signal", 1, ratios=(HIGH, OPEN, LOW))
    inside = result["networks"]["cnn"]["perturbation"]["directions"]["random_in_eigenspace"]
    for index, factor in ((2, 1.05), (3, 0.95), (4, 0.5)):  # at 1, 3 and 10 % of the norm
        inside["divergence"][index]["value"] = factor * inside["quadratic"][index]
    page = text_only(tmp_path, result)
    assert "it holds in 0 of 1 networks, is undecided in 0 and fails in 1." in page
    assert "| 1.05, 0.950, 0.500 |" in page


def test_sentences_have_the_numbers(text_only, tmp_path):
    page = text_only(tmp_path, made_result("signal", 2))
    says = "At 10 % of the image's norm, a random change inside the eigenspace has"
    assert f"{says} 0.500 [0.450, 0.550] (CNN) and 0.500 [0.450, 0.550] (ResNet-18)" in page
    assert "ideal observer's templates is 0.840 [0.800, 0.880] (CNN)" in page
    assert "0.200 [0.160, 0.240] with 250 training images" in page
    assert "interval contains 0.5 everywhere" in page


def test_a_control_that_fails_is_said(text_only, tmp_path):
    result = made_result("signal", 1)
    controls = result["networks"]["cnn"]["controls"]
    controls["shuffled_labels"] = {"cosine": share(0.83, 100), "auc": share(0.7, 624)}
    page = text_only(tmp_path, result)
    assert "its interval **does not contain 0.5 for CNN**" in page
    assert "| 0.830 [0.790, 0.870] | **undecided** |" in page
    controls["shuffled_labels"]["cosine"] = share(0.95, 100)
    assert "| **no** |" in text_only(tmp_path / "again", result)


def test_a_cosine_at_chance_is_not_above_its_controls(text_only, tmp_path):
    """Above both controls, and yet below what random directions have."""
    result = made_result("signal", 1)
    cnn = result["networks"]["cnn"]
    cnn["agreement"] |= {"cosine": share(0.017, 100, 0.002), "chance": 0.022}
    for control in ("random_weights", "shuffled_labels"):
        cnn["controls"][control]["cosine"] = share(0.01, 8, 0.001)
    assert "| **no**, not above chance |" in text_only(tmp_path, result)
    cnn["agreement"]["chance"] = 0.014
    assert "| yes |" in text_only(tmp_path / "again", result)


def test_networks_below_the_bar_have_tables_of_their_own_and_no_claim(text_only, tmp_path):
    result = made_result("signal", 2, ratios=(HIGH,) * 3)
    result["task"]["bar"] = {"auc": 0.9, "source": "made"}
    result["networks"]["resnet18"]["training"]["auc"] = share(0.6, 100)
    page = text_only(tmp_path, result)
    above, below = page.split("## Below the bar")
    assert "| Made task signal | ResNet-18 |" not in above
    assert below.count("| Made task signal | ResNet-18 |") >= 5
    assert "| Made task signal | CNN |" not in below
    assert "## No bar was stated" not in page
    assert "against outside the eigenspace, the claim holds in 1 of 1 networks" in page


def test_an_accuracy_of_the_largest_class_or_no_bar_makes_no_claim(text_only, tmp_path):
    result = made_result("signal", 2, ratios=(HIGH,) * 3)
    result["networks"]["resnet18"]["training"]["accuracy"]["value"] = result["task"]["majority"]
    page = text_only(tmp_path, result)
    assert "| Made task signal | ResNet-18 |" in page.split("## Below the bar")[1]
    assert "against outside the eigenspace, the claim holds in 1 of 1 networks" in page
    own = made_result("own", 2, ratios=(HIGH,) * 3)
    own["task"]["bar"] = None
    page = text_only(tmp_path / "no_bar", result, own)
    claims, tables = page.split("## No bar was stated")
    assert "against outside the eigenspace, the claim holds in 1 of 1 networks" in claims
    assert "| Made task own |" not in claims.split("## Below the bar")[0]
    assert "| Made task own | CNN |" in tables


def test_a_bundle_of_ones_own_counts_by_itself(text_only, tmp_path):
    own = made_result("own", 2, ratios=(HIGH,) * 3)
    own["task"]["bar"] = None
    page = text_only(tmp_path, own)
    assert "against outside the eigenspace, the claim holds in 2 of 2 networks" in page
    assert "## No bar was stated" not in page
    first = (tmp_path / "p.md").read_text()
    assert "so every network counts" in first
    assert "**Must a network have learned" in first
    assert "bar, " not in first


def test_a_radius_of_zero_is_said(tmp_path):
    """A logarithmic axis has no place for it."""
    result = made_result("signal", 2)
    shares = [0.0, 0.0, 0.01, 0.02, 0.03]
    result["networks"]["cnn"]["law"]["radius"]["relative_to_image_norm"] = shares
    result["networks"]["resnet18"]["law"]["radius"]["fisher_length"] = [0.0] * 5
    with settings():
        texts = [text.get_text() for axis in LAW.draw(result).axes for text in axis.texts]
    assert sorted(texts) == ["2 smallest: 0", "all 0"]


def test_summary_is_short(written):
    text = summary_text(written / "results")
    assert len(text.splitlines()) <= 14
    assert "signal: CNN" in text
    assert "missing: the folder of the MedNIST images" in text
    assert not_numbers(text) == []


def test_refusals_say_how_to_fix_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected .*results\.json.* run an experiment"):
        write_results_page([tmp_path], tmp_path / "page.md")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "results.json").write_text("{")
    page = write_results_page([tmp_path], tmp_path / "page.md").read_text()
    assert "**Absent: one.** results.json is damaged" in page
    (tmp_path / "one" / "results.json").write_text('{"experiment": "one"}')
    assert "it has no title, networks" in summary_text(tmp_path)


def test_a_new_measure_is_one_section(monkeypatch, tmp_path):
    toy = Section(
        name="toy",
        alt="A toy",
        draw=lambda result: Figure(figsize=(1, 1)) if "toy" in result["networks"]["cnn"] else None,
        sentences=lambda result: [f"It is {result['networks']['cnn']['toy']['value']}."],
        below=lambda result: ["A table."],
        gaps=lambda result: ["half of the toy"],
    )
    monkeypatch.setattr("monai_ifim.report.results.single.SECTIONS", (*SECTIONS, toy))
    monkeypatch.setattr("monai_ifim.report.results.figures.SECTIONS", (toy,))
    with_it, without_it = made_result("with", 1), made_result("without", 1)
    with_it["networks"]["cnn"]["toy"] = {"value": 3}
    write_results_page([stored(tmp_path, with_it, without_it)], tmp_path / "p.md")
    page = (tmp_path / "p_single.md").read_text()
    there, gap = page.split("## Made task with\n")[1].split("## Made task without\n")
    assert "### Toy\n\n![A toy](with/toy.png)\n\nIt is 3.\n\nA table.\n\nNot measured" in there
    assert "### Toy" not in gap
    assert "Not measured here: toy; half of the toy." in gap
    assert (tmp_path / "with" / "toy.png").is_file()
