"""Configurations: the shipped ones, and sentences about those that mean nothing."""

from pathlib import Path

import pytest
import yaml

from monai_ifim.experiments.run.settings import PROFILES, read_settings
from monai_ifim.experiments.tasks.task import TASKS

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "experiments").glob("*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations(file):
    for profile in PROFILES:
        settings = read_settings(file, profile)
        if settings is not None:
            assert settings.name == file.stem
            assert settings.task in (*TASKS, "bundle")
            assert settings.profile == profile
    standard = read_settings(file)
    if standard.task != "bundle":
        volumes = "3d" in standard.task or standard.task == "hippocampus"
        assert len(standard.networks) >= (2 if volumes else 5)
        assert set(standard.measures.ratio_norms) <= set(standard.measures.norms)


def test_every_task_has_a_configuration():
    assert {read_settings(file).task for file in CONFIGS} == {*TASKS, "bundle"}


def test_quick_is_one_controlled_and_one_clinical_task():
    quick = [s for file in CONFIGS if (s := read_settings(file, "quick")) and s.task != "bundle"]
    assert {settings.name for settings in quick} == {"signal_2d", "pneumoniamnist"}
    assert all(len(settings.networks) == 2 for settings in quick)


def write(folder, **content):
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump({"task": "signal_2d", "networks": {"cnn": None}, **content}))
    return file


def test_profiles_change_the_standard_one(tmp_path):
    file = write(
        tmp_path,
        networks={"cnn": None, "resnet18": {"width": 8}},
        recipe={"images": 5, "batch_size": 3},
        profiles={"quick": {"networks": {"cnn": None}, "recipe": {"images": 2}}},
    )
    standard, quick = read_settings(file), read_settings(file, "quick")
    assert standard.networks == {"cnn": {}, "resnet18": {"width": 8}}
    assert quick.networks == {"cnn": {}}
    assert (quick.recipe.images, quick.recipe.batch_size) == (2, 3)
    assert read_settings(file, "full") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epochs": 3}, r"expected keys from .* got \['epochs'\]"),
        ({"recipe": {"momentum": 1}}, r"recipe, got \['momentum'\]"),
        ({"train": "many"}, "expected a whole number >= 0 for train"),
        ({"train": 100.5}, "expected a whole number >= 0 for train"),
        ({"train": -1}, "expected a whole number >= 0 for train"),
        ({"seed": True}, "expected a whole number >= 0 for seed"),
        ({"recipe": {"learning_rate": "fast"}}, "expected a number >= 0 for learning_rate"),
        ({"recipe": 5}, "expected a mapping in"),
        ({"measures": None}, "expected a mapping in"),
        ({"networks": {"cnn": 8}}, "got cnn: 8"),
        ({"networks": {"cnn": {"width": "wide"}}}, "got cnn"),
        ({"networks": {}}, "expected networks in"),
        ({"measures": {"corruptions": ["fog"]}}, r"got \['fog'\]"),
        ({"measures": {"norms": [0, 1]}}, "expected positive norms"),
        ({"measures": {"top_share": 2}}, "expected top_share in"),
        ({"measures": {"changed_images": 1}}, "at least 2 images"),
        ({"task": "mednist", "training_sizes": [10]}, "with a known answer"),
        ({"title": 3}, "expected a text for title"),
        ({"controls": "cnn"}, "expected a list for controls"),
        ({"networks": ["cnn"]}, "expected networks as a mapping"),
        ({"networks": {"alexnet": None}}, "got alexnet"),
        ({"networks": {"cnn": {"depth": 3}}}, "at most a width"),
        ({"networks": {"cnn": None}, "controls": ["vit"]}, r"got \['vit'\]"),
    ],
)
def test_what_means_nothing(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_settings(write(tmp_path, **content))


def test_what_is_no_configuration(tmp_path):
    file = tmp_path / "mine.yaml"
    for text in ("- a\n", "networks: {}\n", "a: [\n"):
        file.write_text(text)
        with pytest.raises(ValueError, match="expected"):
            read_settings(file)
    with pytest.raises(ValueError, match="expected a profile"):
        read_settings(file, "large")
    with pytest.raises(FileNotFoundError):
        read_settings(tmp_path / "none.yaml")
