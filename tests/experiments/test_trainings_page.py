"""Several trainings from the command to the page, at a small size."""

import json

import pytest
import torch
import yaml
from PIL import Image

from monai_ifim.__main__ import main
from monai_ifim.report.trainings.blocks import Block, read_blocks
from monai_ifim.report.trainings.figure import low_pass
from monai_ifim.report.trainings.findings import findings, verdict
from monai_ifim.report.trainings.page import write_trainings_page

OFF = ("changed_images", "law_images", "scored_images", "agreement_images", "control_images")
CONFIG = {
    "title": "Several trainings, small",
    "task": "signal_2d",
    "networks": {"cnn": {"width": 8}, "resnet18": {"width": 4, "trainings": 2, "images": 640}},
    "train": 120,
    "test": 200,
    "recipe": {"images": 6400, "fresh": True},
    "trainings": 3,
    "lengths": [320],
    "measures": {
        **dict.fromkeys((*OFF, "map_images", "quantus_images"), 0),
        "pooled_images": 40,
        "smoothed_images": 4,
        "moved_images": 12,
        "image_draws": 8,
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("trainings")
    (made / "small.yaml").write_text(yaml.safe_dump(CONFIG))
    arguments = ["experiment", str(made / "small.yaml"), "--output", str(made / "results")]
    assert main(arguments) == 0
    first = (made / "results" / "small" / "results.json").read_text()
    assert main(arguments) == 0
    assert (
        json.loads(first)["networks"]
        == json.loads((made / "results" / "small" / "results.json").read_text())["networks"]
    )
    return made / "results"


@pytest.fixture(scope="module")
def blocks(folder):
    return read_blocks(folder)


def test_a_block_for_each_network_and_length(blocks):
    found = [(each.network, each.seen, len(each.trainings)) for each in blocks]
    assert found == [
        ("cnn", 320, 3),
        ("cnn", 6400, 3),
        ("resnet18", 320, 2),
        ("resnet18", 640, 2),
    ]
    assert blocks[1].mean("auc") > blocks[0].mean("auc")
    task = blocks[0].result["task"]
    assert blocks[0].bar == pytest.approx(0.95 * task["ideal"]["auc"], rel=1e-4)
    assert task["bar"]["source"] == "0.95 of the AUC of the ideal observer"
    assert task["majority"] == 0.5
    for each in blocks:
        for training in each.trainings:
            # The public function finds the same directions as what is drawn anew.
            assert training["pooled"]["unit_trace"]["angle_to_resampled"] < 0.5


def test_learning_and_its_absence_are_told_apart(blocks):
    """What learned is nearer to the template, pooled nearer still; random weights are not."""
    long = blocks[1].numbers
    cosine = long["template"]["cosine"]["pixels"]
    assert cosine["unit_trace"]["value"] > cosine["single"]["value"] > 0.3
    assert long["untrained_template"]["pixels"]["unit_trace"]["high"] < 0.3
    agreement = long["agreement"]["low_pass"]["leading"]
    assert agreement["unit_trace"]["low"] > agreement["random_weights"]["high"]
    assert agreement["unit_trace_less"]["single"]["low"] > 0
    assert long["moves"]["ratios"]["own"]["low"] > 1 > long["moves"]["ratios"]["complement"]["high"]


def test_the_page_says_what_the_numbers_say(folder, blocks):
    page = (folder / "trainings.md").read_text(encoding="utf-8")
    long = blocks[1].numbers["template"]["cosine"]["pixels"]["unit_trace"]
    assert f"{long['value']:.3f} [{long['low']:.3f}, {long['high']:.3f}]" in page
    assert "Research use only" in page
    assert "Single pixels of a pooled eigenvector depend on the training" in page
    below = page.split("## Below the bar")[1]
    assert "ResNet-18" in below
    assert "ResNet-18" not in page.split("## The known answer")[1].split("## Agreement of diff")[0]
    # These experiments measure nothing that the other page shows.
    assert "Several trainings" not in (folder / "results.md").read_text(encoding="utf-8")
    with Image.open(folder / "small" / "pooled.png") as picture:
        assert picture.width > 600


def test_the_page_is_drawn_anew_by_its_command(folder, tmp_path):
    page = tmp_path / "page.md"
    assert main(["evidence-page", "--trainings", str(folder), str(page)]) == 0
    written = page.read_text(encoding="utf-8")
    assert "results/small/pooled.png" in written
    assert (
        written.split("## Findings")[1].split("![")[0]
        == (folder / "trainings.md")
        .read_text(encoding="utf-8")
        .split("## Findings")[1]
        .split("![")[0]
    )


def test_drift_is_shown_where_it_was_measured(folder, tmp_path):
    angle = {"value": 12.0, "low": 10.0, "high": 14.0}
    far = {"value": 80.0, "low": 79.0, "high": 81.0}
    rows = {"blurred": angle, "other half of the images": angle, "random weights": far}
    angles = {"low_pass": {"1": rows}}
    drift = {"networks": {"ifim_signal_2d": {"pooled_images": 30, "angles": angles}}}
    (folder / "drift.json").write_text(json.dumps(drift))
    page = write_trainings_page(folder, tmp_path / "page.md").read_text(encoding="utf-8")
    (folder / "drift.json").unlink()
    assert "| ifim_signal_2d | 30 | 1 | 12.0° [10.0°, 14.0°] | 12.0° [10.0°, 14.0°] |" in page
    assert "blurred 12.0°, in 0 of 1 above that" in page
    assert "random weights 80.0°, in 1 of 1 above that" in page


def test_a_task_without_a_bar_takes_every_network(blocks):
    task = {**blocks[0].result["task"], "bar": None}
    each = Block({**blocks[0].result, "task": task}, "cnn", blocks[0].numbers)
    assert each.competent
    assert not blocks[0].competent


def test_networks_below_the_bar_are_in_no_finding(blocks):
    below = [each for each in blocks if not each.competent]
    assert below
    assert not list(findings(below))


def test_verdicts_follow_from_intervals():
    differences = [
        {"low": 0.1, "high": 0.3},
        {"low": -0.1, "high": 0.3},
        {"low": -0.3, "high": -0.1},
        {"low": 0.0, "high": 0.1},
    ]
    assert verdict(differences) == (1, 1, 2)


def test_low_pass_keeps_a_constant_and_spreads_a_point():
    point = torch.zeros(15, 17, dtype=torch.float64)
    point[7, 8] = 1
    filtered = low_pass(point.numpy())
    assert filtered.sum() == pytest.approx(1, abs=0.02)  # rows add up to 1, not columns
    assert filtered.max() < 0.05
    constant = low_pass(torch.ones(5, 6, dtype=torch.float64).numpy())
    assert constant.min() == pytest.approx(1)


def test_no_results_of_several_trainings(tmp_path):
    (tmp_path / "a").mkdir()
    content = {"experiment": "a", "title": "A", "networks": {"cnn": {"law": None}}}
    (tmp_path / "a" / "results.json").write_text(json.dumps(content))
    with pytest.raises(FileNotFoundError, match="expected results of several trainings"):
        read_blocks(tmp_path)
