"""The page and the figures of the experiments, from results that are made here."""

import copy
import json
import math
import random
import re
import shlex

import pytest

from monai_ifim.__main__ import main
from monai_ifim.messages import RESEARCH_ONLY
from monai_ifim.report.results.figures import write_figures
from monai_ifim.report.results.numbers import interval, number
from monai_ifim.report.results.page import write_results_page
from monai_ifim.report.results.sections import SECTIONS
from monai_ifim.report.results.sections.detection import draw_detection
from monai_ifim.report.results.style import settings
from monai_ifim.report.results.summary import summary_text
from monai_ifim.report.results.verdicts import compare, verdict

FIGURES = tuple(section.name for section in SECTIONS)

NETWORKS = ("cnn", "resnet18", "densenet121", "efficientnet_b0", "vit")
METHODS = ("gradient", "integrated_gradients", "smoothgrad", "grad_cam", "occlusion")
# How strongly each direction moves the prediction.
STRENGTHS = {
    "leading": 30.0,
    "leading_reversed": 26.0,
    "random_in_eigenspace": 22.0,
    "random_in_complement": 0.02,
    "random": 0.1,
    "band_limited": 0.4,
    "attenuate_high": 24.0,
    "attenuate_orth": 0.3,
    **{f"{method}_mask": 2.0 + i for i, method in enumerate(METHODS)},
}
IMAGE_NORM = 12.0
RELATIVE = (0.01, 0.03, 0.1)
NORMS = [IMAGE_NORM * share for share in (0.001, 0.003, *RELATIVE, 0.3)]


def around(value, n, width=0.1):
    """An interval around a value."""
    return {"value": value, "low": value * (1 - width), "high": value * (1 + width), "n": n}


def share(value, n, width=0.04):
    """An interval of a share, which cannot leave 0 to 1."""
    value = min(1.0, max(0.0, value))
    return {"value": value, "low": max(0.0, value - width), "high": min(1.0, value + width), "n": n}


def perturbation(draw, ratios):
    directions = {}
    for name, strength in STRENGTHS.items():
        strength *= draw.uniform(0.7, 1.4)
        quadratic = [0.5 * strength * e**2 for e in NORMS]
        divergence = [q / (1 + q / 3) for q in quadratic]
        directions[name] = {
            "quadratic": quadratic,
            "divergence": [around(d, 128, 0.2) for d in divergence],
            "probability_change": [around(-0.4 * math.tanh(d), 128) for d in divergence],
            "flip_rate": [share(0.5 * math.tanh(d), 128) for d in divergence],
            "accuracy": [share(0.9 - 0.5 * math.tanh(d), 128) for d in divergence],
            "auc": [share(0.95 - 0.5 * math.tanh(d), 128) for d in divergence],
        }
    steps = [
        {
            "norm": relative * IMAGE_NORM,
            "relative_norm": relative,
            "random": ratio,
            "along_components": around(draw.uniform(20, 90), 128, 0.3),
            "leading": around(draw.uniform(900, 25000), 128, 0.3),
            "masks": {method: around(draw.uniform(2, 9), 128, 0.3) for method in METHODS},
            "share": share(0.97, 128),
            "effective_images": 21.5,
            "alpha": 40 * relative,
        }
        for relative, ratio in zip(RELATIVE, ratios, strict=True)
    ]
    return {
        "images": 128,
        "pixels": 1024,
        "image_norm": IMAGE_NORM,
        "norms": NORMS,
        "directions": directions,
        "top_share": 0.1,
        "ratios": steps,
        "attenuation": [
            {
                "alpha": alpha,
                "norm": alpha,
                "relative_norm": alpha / IMAGE_NORM,
                "attenuation": around(draw.uniform(20, 90), 128, 0.3),
                "law": 1 - 0.4 * alpha,
            }
            for alpha in (0.25, 0.5, 1.0)
        ],
    }


def maps(draw):
    def curve(speed):
        return [0.1 + 0.85 * math.exp(-speed * i) for i in range(11)]

    methods = {}
    for name in ("ifim", *METHODS):
        speed = draw.uniform(0.1, 0.5)
        other = name != "ifim"
        methods[name] = {
            "rank_correlation": share(draw.uniform(0.2, 0.8), 64) if other else None,
            "angle": around(draw.uniform(20, 85), 64) if other else None,
            "inside": share(draw.uniform(0, 0.5), 64) if name == "gradient" else None,
            "deletion": share(sum(curve(speed)) / 11, 64),
            "insertion": share(1 - sum(curve(speed)) / 22, 64),
            "deletion_curve": curve(speed),
            "insertion_curve": curve(speed)[::-1],
        }
    return {"images": 64, "methods": methods, "shares": [i / 10 for i in range(11)]}


def controls(draw):
    shares = (0.02, 0.1, 0.3, 0.6, 1.0)
    ratios = [
        {"norm": r * IMAGE_NORM, "relative_norm": r, "random": around(70, 128, 0.3)}
        for r in RELATIVE
    ]
    return {
        "random_weights": {"cosine": share(0.08, 8), "auc": share(0.52, 8), "ratios": ratios},
        "shuffled_labels": {"cosine": share(0.11, 100), "auc": share(0.47, 624)},
        "two_seeds": {"angle": around(48.0, 100), "chance_angle": 88.2},
        "layers": [
            {"layers": i + 1, "share": s, "angle": around(30 + 57 * s, 100, 0.05)}
            for i, s in enumerate(shares)
        ],
        "recomputed": [
            {"relative_norm": r, "direction": name, "angle": around(1 + s * r, 100)}
            for name, s in (("leading", 400), ("random_in_complement", 150))
            for r in RELATIVE
        ],
        "float64": {"eigenvalue": 1.2e-5, "angle": 0.013},
    }


def network(draw, ratios):
    events = ("noise", "blur", "bias_field", "motion", "gibbs")
    scores = ("trace", "largest_eigenvalue", "entropy", "uncertainty")

    def aucs():
        return {score: share(draw.uniform(0.45, 0.85), 400, 0.06) for score in scores}

    percentiles = [0.05, 0.11, 0.25, 0.6, 1.3]
    return {
        "training": {
            "parameters": draw.randrange(10**5, 10**7),
            "images_seen": 12000,
            "seconds": 50.0,
            "accuracy": share(0.88, 624, 0.025),
            "auc": share(0.94, 624, 0.02),
        },
        "perturbation": perturbation(draw, ratios),
        "law": {
            "images": 32,
            "float64_error": {"median": 1e-4, "worst": 0.004},
            "radius": {
                "percentiles": percentiles,
                "relative_to_image_norm": [p / IMAGE_NORM for p in percentiles],
                "fisher_length": [2 * p for p in percentiles],
            },
            "radius_confidence": around(0.61, 32),
            "radius_wrong": around(0.012, 9, 0.5),
            "radius_correct": around(0.031, 23),
        },
        "detection": {
            "images": 400,
            "errors": 37,
            "error_auc": aucs(),
            "corruption_auc": {event: aucs() for event in events},
        },
        "agreement": {
            "images": 100,
            "cosine": share(0.84, 100),
            "percentiles": [0.7, 0.84, 0.9],
            "chance": 0.03,
            "by_training_size": [
                {
                    "images": n,
                    "cosine": share(0.2 + 0.17 * i, 100),
                    "auc": share(0.7 + 0.06 * i, 624),
                    "accuracy": share(0.65 + 0.06 * i, 624),
                }
                for i, n in enumerate((250, 1000, 4000, 16000))
            ],
        },
        "controls": controls(draw),
        "maps": maps(draw),
    }


HIGH, OPEN, LOW = around(12.3, 128), around(1.05, 128), around(0.5, 128)


def made_result(name="signal", count=2, *, known="exact", ratios=(HIGH, OPEN, LOW)):
    """What one experiment writes, with all its blocks."""
    draw = random.Random(name)
    networks = {kind: network(draw, ratios) for kind in NETWORKS[:count]}
    if known is None:  # nothing to agree with
        for part in networks.values():
            part["agreement"] = None
            part["controls"]["random_weights"]["cosine"] = None
            part["controls"]["shuffled_labels"]["cosine"] = None
    return {
        "experiment": name,
        "title": f"Made task {name}",
        "profile": "standard",
        "complete": True,
        "missing": "",
        "command": f"python -m monai_ifim experiment configs/experiments/{name}.yaml",
        "settings": {"seed": 0},
        "environment": {
            "python": "3.11.7",
            "torch": "2.13.0",
            "device": "cpu",
            "processor": "made|processor",
            "threads": 2,
            "date": "2026-11-24",
        },
        "seconds": 1234.5,
        "task": {
            "name": name,
            "classes": ["normal", "pneumonia"],
            "shape": [32, 32],
            "train": 4708,
            "test": 624,
            "source": "made for this test",
            "known_answer": known,
            "ideal": {"accuracy": 0.9, "auc": 0.96} if known else None,
        },
        "networks": networks,
    }


def absent_result(name="mednist"):
    """What an experiment writes when its data are not there."""
    return made_result(name, 0) | {
        "complete": False,
        "missing": "the folder of the MedNIST images",
    }


def stored(folder, *results):
    for result in results:
        (folder / result["experiment"]).mkdir(parents=True)
        text = json.dumps(result)
        (folder / result["experiment"] / "results.json").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A page of three experiments: a whole one, one with training alone, one that is absent."""
    root = tmp_path_factory.mktemp("page")
    bare = made_result("bare", 1, known=None)
    bare["networks"] = {"vit": {"training": bare["networks"]["cnn"]["training"]}}
    stored(root / "results", made_result("signal", 1), bare, absent_result())
    write_results_page(root / "results", root / "docs" / "results.md")
    return root


@pytest.fixture
def text_only(monkeypatch):
    """A page as if all figures had been drawn, which takes most of the time."""

    def all_of_them(result, folder):
        return [folder / f"{name}.png" for name in FIGURES]

    monkeypatch.setattr("monai_ifim.report.results.page.write_figures", all_of_them)

    def text(folder, *results):
        return write_results_page(stored(folder / "r", *results), folder / "p.md").read_text()

    return text


def not_numbers(text):
    return re.findall(r"\b(?:nan|None|inf|NaN|null)\b", text)


def test_the_page_has_every_section(written):
    page = (written / "docs" / "results.md").read_text()
    headings = re.findall(r"^##+ (.+)$", page, re.MULTILINE)
    assert headings == [
        "What was run",
        "What counts as evidence",
        "Does the claim hold?",
        "Trained networks",
        "The quadratic law",
        "Agreement with the known template",
        "Detection of wrong predictions",
        "Made task bare",
        "Made task mednist",
        "Made task signal",
        *(name.capitalize() for name in FIGURES),
    ]
    assert not_numbers(page) == []
    assert f"> {RESEARCH_ONLY}" in page
    assert "**Absent: Made task mednist.** the folder of the MedNIST images." in page
    assert "Not measured here: perturbation; law; detection; controls; maps." in page
    assert "No answer is known for Made task bare." in page
    assert "| 3.10 % [2.79 %, 3.41 %] | 1.20 % [0.600 %, 1.80 %] |" in page


def test_links_lead_to_figures(written):
    page = (written / "docs" / "results.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert len(links) == len(FIGURES)
    for link in links:
        assert link.startswith("../results/signal/")
        assert (written / "docs" / link).stat().st_size > 1000
    assert not list(written.rglob(".partial-*"))
    assert not list((written / "results" / "bare").glob("*.png"))


def test_the_last_line_makes_the_same_bytes(written):
    page = written / "docs" / "results.md"
    files = [page, *(written / "results" / "signal").iterdir()]
    before = {file: file.read_bytes() for file in files}
    assert len(before) == 2 + len(FIGURES)
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
    assert "the claim for random directions holds in 3 of 3 comparisons" in page


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
    assert "it holds in 0 of 1 comparisons, is undecided in 0 and fails in 1." in page
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


def paths(source, depth):
    """All keys, down to a depth, as tuples."""
    for key, value in source.items():
        yield (key,)
        if isinstance(value, dict) and depth > 1:
            yield from ((key, *rest) for rest in paths(value, depth - 1))


def without(source, path):
    changed = copy.deepcopy(source)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = None
    return changed


def test_any_missing_block_is_survived(text_only, tmp_path):
    result = made_result("signal", 1)
    blocks = list(paths(result["networks"]["cnn"], 3))
    assert len(blocks) > 60
    for count, path in enumerate(blocks):
        changed = without(result, ("networks", "cnn", *path))
        page = text_only(tmp_path / str(count), changed)
        assert not_numbers(page) == [], path
        assert "## Made task signal" in page, path


def test_missing_blocks_leave_out_their_figures(tmp_path):
    result = made_result("signal", 1)
    cnn = result["networks"]["cnn"]
    for name in ("law", "agreement", "controls", "maps"):
        cnn[name] = None
    cnn["detection"]["error_auc"] = None
    cnn["perturbation"]["directions"] = {
        "leading": cnn["perturbation"]["directions"]["leading"] | {"auc": None}
    }
    cnn["perturbation"]["ratios"] = None
    drawn = write_figures(result, tmp_path)
    names = [path.name for path in drawn]
    assert names == ["perturbation.png", "detection.png"]
    with settings():
        drawn = draw_detection(result)
    events = [label.get_text() for label in drawn.axes[0].get_yticklabels()]
    assert "noise" in events
    assert "wrong prediction" not in events


def test_figures_survive_what_is_not_known(tmp_path):
    """Single numbers that are null, of every kind, in otherwise whole blocks."""

    def emptied(part):
        if isinstance(part, dict) and "low" in part:
            return {**part, "low": None, "high": float("nan")}
        if isinstance(part, dict):
            return {key: emptied(value) for key, value in part.items()}
        return [emptied(value) for value in part] if isinstance(part, list) else part

    result = made_result("signal", 2)
    result["networks"]["cnn"] = emptied(result["networks"]["cnn"])
    cnn = result["networks"]["cnn"]
    cnn["law"] |= {"radius": None, "radius_wrong": None, "radius_correct": None}
    cnn["controls"]["layers"] = cnn["controls"]["two_seeds"] = None
    cnn["controls"]["recomputed"] = cnn["agreement"]["by_training_size"] = None
    cnn["detection"]["corruption_auc"] = cnn["maps"]["methods"]["grad_cam"] = None
    assert len(write_figures(result, tmp_path)) == len(FIGURES)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (around(12.3, 5), "12.3 [11.1, 13.5]"),
        ({"value": 21000, "low": 18000, "high": 25000}, "2.1e4 [1.8e4, 2.5e4]"),
        ({"value": 9000, "low": 8000, "high": 25000}, "9.0e3 [8.0e3, 2.5e4]"),
        ({"value": -0.25, "low": -0.5, "high": 0.0}, "-0.250 [-0.500, 0]"),
        ({"value": 1.5, "low": None, "high": 2.0}, "1.50"),
        ({"value": float("nan"), "low": 0.0, "high": 1.0}, "–"),
        (None, "–"),
    ],
)
def test_intervals_in_words(given, text):
    assert interval(given) == text
    assert number(None) == "–"


def test_rules_at_the_border():
    assert verdict({"value": 1.2, "low": 1.0, "high": 1.4}) == "undecided"
    assert verdict({"value": 0.8, "low": 0.6, "high": 1.0}) == "undecided"
    assert verdict({"value": 2.0, "low": None, "high": None}) == "undecided"
    assert verdict({"value": None, "low": 2.0, "high": 3.0}) == "–"
    assert compare(around(2, 5), around(1, 5)) == "holds"
    assert compare(around(1, 5), around(2, 5)) == "fails"
    assert compare(around(1, 5), around(1.1, 5)) == "undecided"


def test_summary_is_short(written):
    text = summary_text(written / "results")
    assert len(text.splitlines()) <= 14
    assert "signal: CNN" in text
    assert "missing: the folder of the MedNIST images" in text
    assert not_numbers(text) == []


def test_refusals_say_how_to_fix_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected .*results\.json.* run an experiment"):
        write_results_page(tmp_path, tmp_path / "page.md")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "results.json").write_text("{")
    page = write_results_page(tmp_path, tmp_path / "page.md").read_text()
    assert "**Absent: one.** results.json is damaged" in page
    (tmp_path / "one" / "results.json").write_text('{"experiment": "one"}')
    assert "it has no title, networks" in summary_text(tmp_path)
