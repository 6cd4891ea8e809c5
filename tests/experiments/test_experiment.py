"""A whole experiment at a small size: what must hold, what must vanish, and what a stop costs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from _helpers import foreign_bundles as foreign
from monai_ifim.__main__ import main
from monai_ifim.experiments.run.experiment import run_experiment
from monai_ifim.experiments.run.settings import read_settings
from monai_ifim.experiments.steps import Steps
from monai_ifim.experiments.tasks.blobs import signal_task
from monai_ifim.experiments.tasks.signal_images import write_signal_images

ROOT = Path(__file__).parents[2]
SMALL = {
    "title": "Small",
    "task": "signal_2d",
    "networks": {"cnn": {"width": 8}},
    "train": 3000,
    "test": 240,
    "recipe": {"images": 9000},
    "controls": ["cnn"],
    "training_sizes": [100],
    "sized_networks": ["cnn"],
    "measures": {
        "changed_images": 16,
        "law_images": 6,
        "scored_images": 60,
        "agreement_images": 60,
        "control_images": 8,
        "map_images": 6,
        "norms": [0.003, 0.01, 0.1, 0.3],
    },
}


def write(folder, name="small", **changes):
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({**SMALL, **changes}))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("experiment")


@pytest.fixture(scope="module")
def config(folder):
    return write(folder)


@pytest.fixture(scope="module")
def network(folder, config):
    """Results of the one network, after a run that was stopped and went on."""
    settings = read_settings(config)
    state = torch.get_rng_state()
    first = Steps(folder / "cache")
    once = run_experiment(settings, first, say=lambda line: None)
    second = Steps(folder / "cache")
    again = run_experiment(settings, second, say=lambda line: None)
    assert torch.equal(torch.get_rng_state(), state)
    assert second.computed == 0
    assert (first.reused, second.reused) == (0, first.computed)
    assert once["networks"] == again["networks"]
    json.dumps(again, allow_nan=False)
    return again["networks"]["cnn"]


def test_the_known_answer_is_found(network):
    cosine = network["agreement"]["cosine"]
    assert cosine["low"] > 0.5
    assert network["training"]["auc"]["low"] > 0.85
    sizes = network["agreement"]["by_training_size"]
    assert [row["images"] for row in sizes] == [100, 3000]
    assert sizes[0]["cosine"]["value"] < sizes[1]["cosine"]["value"]
    assert sizes[1]["cosine"] == cosine


def test_of_fresh_images_all_that_were_seen_are_counted(tmp_path):
    recipe = {"images": 640, "fresh": True}
    measures = dict.fromkeys(
        ("changed_images", "law_images", "scored_images", "control_images", "map_images"), 0
    ) | {"agreement_images": 8, "quantus_images": 0}
    file = write(tmp_path, train=200, test=40, recipe=recipe, controls=[], measures=measures)
    steps = Steps(tmp_path / "cache")
    found = run_experiment(read_settings(file), steps, say=lambda line: None)
    sizes = found["networks"]["cnn"]["agreement"]["by_training_size"]
    assert [row["images"] for row in sizes] == [100, 640]


@pytest.mark.parametrize("control", ["random_weights", "shuffled_labels"])
def test_the_agreement_vanishes_without_learning(network, control):
    """The experiment can fail: no labels, no template."""
    found = network["controls"][control]
    assert found["cosine"]["high"] < 0.25
    assert found["cosine"]["high"] < 0.5 * network["agreement"]["cosine"]["low"]
    assert found["auc"]["low"] < 0.55
    assert found["auc"]["high"] > 0.4
    assert found["angle"]["low"] > 60


def test_two_trainings_agree_better_than_chance(network):
    found = network["controls"]["two_seeds"]
    assert found["angle"]["high"] < found["chance_angle"]


def test_inside_moves_the_prediction_more_than_outside(network):
    for ratios in network["perturbation"]["ratios"]:
        assert ratios["random"]["low"] > 1
    assert network["law"]["float64_error"]["median"] < 1e-3
    assert network["controls"]["float64"]["eigenvalue"] < 1e-3


# --- the command ----------------------------------------------------------------------------------


def test_missing_data_are_said(folder, config, network, tmp_path, capsys):
    write(tmp_path, "clinical", task="pneumoniamnist", training_sizes=[])
    shutil.copy(config, tmp_path)
    arguments = ["experiment", str(tmp_path), "--output", str(tmp_path / "results")]
    assert main([*arguments, "--cache", str(folder / "cache")]) == 0
    page = (tmp_path / "results" / "results.md").read_text()
    assert "pneumoniamnist" in page
    assert "docs/experiments.md" in page
    out = capsys.readouterr().out
    assert "done in an earlier run" in out
    assert "Research use only" in out
    for name in ("perturbation", "law", "agreement", "controls", "maps", "detection"):
        assert (tmp_path / "results" / "small" / f"{name}.png").stat().st_size > 5_000
    anew = tmp_path / "page.md"
    assert main(["evidence-page", str(tmp_path / "results"), str(anew)]) == 0
    assert "](results/small/perturbation.png" in (tmp_path / "page_single.md").read_text()
    assert "](page_single.md)" in anew.read_text()


def test_a_named_experiment_without_its_data_fails(tmp_path, capsys):
    """Status 1, and a sentence with the files that are missing and where they come from."""
    (tmp_path / "data").mkdir()
    for data in ([], ["--data", str(tmp_path / "data")]):
        arguments = ["experiment", "pneumoniamnist", "--profile", "quick", *data]
        assert main([*arguments, "--output", str(tmp_path / "results")]) == 1
        out = capsys.readouterr().out
        assert "expected the images of pneumoniamnist as" in out
        assert "pneumoniamnist.npz" in out
        assert 'medmnist.PneumoniaMNIST("train", download=True, root=DATA)' in out
    assert "pneumoniamnist.npz" in (tmp_path / "results" / "results.md").read_text()


def test_a_folder_of_experiments_without_any_data_fails(tmp_path):
    write(tmp_path, "clinical", task="pneumoniamnist", training_sizes=[])
    assert main(["experiment", str(tmp_path), "--output", str(tmp_path / "results")]) == 1


def test_a_failing_experiment_leaves_the_others(folder, config, network, tmp_path, capsys):
    wrong = {"efficientnet_b0": {"width": 3}}
    write(tmp_path, "a_wrong", networks=wrong, controls=[], sized_networks=[])
    shutil.copy(config, tmp_path)
    arguments = ["experiment", str(tmp_path), "--output", str(tmp_path / "results")]
    assert main([*arguments, "--cache", str(folder / "cache")]) == 1
    assert (
        "a_wrong efficientnet_b0: expected no width for efficientnet_b0" in capsys.readouterr().out
    )
    assert (tmp_path / "results" / "small" / "perturbation.png").is_file()
    page = (tmp_path / "results" / "results.md").read_text()
    assert "**Absent: Small.** EfficientNet-B0: expected no width" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.yaml"], "expected a configuration file"),
        (["perturbation"], "needs --bundle and --data"),
        (["hippocampus", "--profile", "quick"], "with the profile quick"),
        (["perturbation", "--bundle", "b"], "expected --data"),
        (["signal_2d", "--data", "nowhere"], "expected a folder of images"),
    ],
)
def test_impossible_commands(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["experiment", *arguments, "--output", str(tmp_path / "results")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


# --- a bundle from outside ------------------------------------------------------------------------


def own(tmp_path, bundle, images, *options):
    arguments = ["experiment", "perturbation", "--profile", "quick", "--bundle", str(bundle)]
    output = tmp_path / "results"
    assert main([*arguments, "--data", str(images), "--output", str(output), *options]) == 0
    result = json.loads((output / bundle.name / "results.json").read_text())
    assert (output / "results.md").is_file()
    return result["networks"][bundle.name]


def test_a_bundle_of_ours(tmp_path):
    images = tmp_path / "images"
    write_signal_images(signal_task("2d"), images, 20, 0)
    found = own(tmp_path, ROOT / "bundles" / "ifim_signal_2d", images)
    assert found["training"]["accuracy"]["n"] == 16
    assert found["perturbation"]["directions"]["leading"]["auc"] is not None
    assert found["perturbation"]["ratios"][0]["random"]["low"] > 1
    assert found["law"]["float64_error"]["worst"] < 0.01


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of MONAI's Orientationd
@pytest.mark.parametrize("name", ["oblique_3d", "sigmoid_labels"])
def test_bundles_of_other_people(name, tmp_path):
    bundle = foreign.install(name, tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    foreign.BY_NAME[name].write_images(images)
    found = own(tmp_path, bundle, images)
    assert found["perturbation"]["images"] == 3
    assert found["perturbation"]["ratios"][0]["random"]["low"] > 1
    assert found["law"]["float64_error"]["median"] < 0.01


def test_a_bundle_without_labels(tmp_path):
    """The MedNIST bundle on pictures without labels."""
    images = tmp_path / "images"
    images.mkdir()
    generator = torch.Generator().manual_seed(0)
    for i in range(6):
        picture = torch.rand(8, 8, generator=generator).kron(torch.ones(8, 8)) * 255
        Image.fromarray(picture.to(torch.uint8).numpy()).save(images / f"{i}.png")
    found = own(tmp_path, ROOT / "bundles" / "ifim_mednist_2d", images)
    assert found["training"]["accuracy"] is None
    assert found["detection"]["errors"] is None
    assert found["perturbation"]["directions"]["leading"]["accuracy"] is None
    assert len(found["perturbation"]["ratios"]) == 3
