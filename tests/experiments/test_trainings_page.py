"""Several trainings from the command to the page, at a small size."""

import json
import re

import pytest
import torch
import yaml
from PIL import Image

from monai_ifim.__main__ import main
from monai_ifim.report.evidence.blocks import Block, blocks_of, counted
from monai_ifim.report.evidence.pictures import low_pass
from monai_ifim.report.results.measured import read_results

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
    return blocks_of(read_results(folder))


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
    assert blocks[0].bar.least == pytest.approx(0.95 * task["ideal"]["auc"], rel=1e-4)
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
    page = (folder / "results.md").read_text(encoding="utf-8")
    tables = (folder / "results_tables.md").read_text(encoding="utf-8")
    long = blocks[1].numbers["template"]["cosine"]["pixels"]["unit_trace"]
    assert f"{long['value']:.3f} [{long['low']:.3f}, {long['high']:.3f}]" in tables
    assert "Research use only" in page
    raw, filtered = (
        blocks[1].numbers["agreement"][metric]["leading"]["unit_trace"]["value"]
        for metric in ("pixels", "low_pass")
    )
    words = rf"`signal_2d` {raw:.3f} \[.+\] in pixels, {filtered:.3f} \[.+\] filtered\.\*"
    assert re.search(words, page)
    assert "ResNet-18" in tables.split("## Below the bar")[1]
    assert (
        "ResNet-18" not in tables.split("## The known answer")[1].split("## Agreement of diff")[0]
    )
    assert "Not measured with several trainings." in page
    assert not (folder / "results_single.md").exists()
    for name in ("pictures", "answer", "shared", "moves"):
        assert f"]({name}.png)" in page
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.width > 400


def test_the_page_is_drawn_anew_by_its_command(folder, tmp_path):
    page = tmp_path / "page.md"
    assert main(["evidence-page", str(folder), str(page)]) == 0
    written = page.read_text(encoding="utf-8")
    assert "results/pictures.png" in written
    assert (
        written.split("## Findings")[1].split("![")[0]
        == (folder / "results.md")
        .read_text(encoding="utf-8")
        .split("## Findings")[1]
        .split("![")[0]
    )


def test_without_a_bar_no_network_counts(blocks):
    task = {**blocks[1].result["task"], "bar": None}
    each = Block({**blocks[1].result, "task": task}, "cnn", blocks[1].numbers)
    assert blocks[1].competent
    assert each.standing == "no bar"
    assert counted([each]) == []


def test_networks_below_the_bar_are_in_no_finding(blocks):
    below = [each for each in blocks if not each.competent]
    assert below
    assert not [each for each in counted(blocks) if each in below]


def test_low_pass_keeps_a_constant_and_spreads_a_point():
    point = torch.zeros(15, 17, dtype=torch.float64)
    point[7, 8] = 1
    filtered = low_pass(point.numpy())
    assert filtered.sum() == pytest.approx(1, abs=0.02)  # rows add up to 1, not columns
    assert filtered.max() < 0.05
    constant = low_pass(torch.ones(5, 6, dtype=torch.float64).numpy())
    assert constant.min() == pytest.approx(1)
