"""Configurations: the shipped ones, and sentences about those that mean nothing."""

from pathlib import Path

import pytest
import yaml

from monai_ifim.experiments.run.settings import PROFILES, read_settings
from monai_ifim.experiments.tasks.catalogue import TASKS

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
        assert standard.networks
        assert standard.trainings >= (3 if standard.measures.pooled_images else 1)
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


def test_mistakes_of_several_networks_are_named(tmp_path):
    networks = {"cnn": {"width": "a"}, "vit": {"images": -1}, "resnet18": {"max_pol": True}}
    with pytest.raises(ValueError, match="networks") as raised:
        read_settings(write(tmp_path, networks=networks))
    places = [line.split(": ")[1] for line in str(raised.value).splitlines()]
    assert places == ["networks.cnn.width", "networks.resnet18.max_pol", "networks.vit.images"]


def test_a_network_can_have_lengths_of_its_own(tmp_path):
    own = {"lengths": [40, 20, 40, 900], "images": 50}
    networks = {"cnn": None, "vit": own, "resnet18": {"lengths": []}}
    settings = read_settings(
        write(tmp_path, networks=networks, lengths=[30], recipe={"images": 100})
    )
    assert [settings.lengths_of(name) for name in networks] == [(30, 100), (20, 40, 50), (100,)]


def test_profiles_change_the_standard_one(tmp_path):
    file = write(
        tmp_path,
        networks={"cnn": None, "resnet18": {"width": 8}},
        recipe={"images": 5, "batch_size": 3},
        profiles={"quick": {"networks": {"cnn": None}, "recipe": {"images": 2}}},
    )
    standard, quick = read_settings(file), read_settings(file, "quick")
    assert {name: options.width for name, options in standard.networks.items()} == {
        "cnn": None,
        "resnet18": 8,
    }
    assert list(quick.networks) == ["cnn"]
    assert (quick.recipe.images, quick.recipe.batch_size) == (2, 3)
    assert read_settings(file, "full") is None


def test_a_network_can_have_its_own_recipe(tmp_path):
    vit = {"width": 24, "trainings": 2, "images": 7, "warm_up": 0.1}
    file = write(tmp_path, networks={"cnn": None, "vit": vit}, trainings=5, seed=3)
    settings = read_settings(file)
    assert settings.recipe_of("cnn") == settings.recipe
    assert (settings.recipe_of("vit").images, settings.recipe_of("vit").warm_up) == (7, 0.1)
    assert settings.recipe_of("vit").learning_rate == settings.recipe.learning_rate
    assert [settings.trainings_of(name) for name in ("cnn", "vit")] == [5, 2]
    assert (settings.variant_of("vit").width, settings.variant_of("cnn").seed) == (24, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epochs": 3}, r"mine.yaml: epochs: expected keys from .*take it out"),
        ({"recipe": {"momentum": 1}}, r"recipe.momentum: expected keys from .*'learning_rate'"),
        ({"train": "many"}, "train: expected a whole number >= 0, got 'many'"),
        ({"train": 100.5}, "train: expected a whole number >= 0, got 100.5"),
        ({"train": "100"}, "train: expected a whole number >= 0, got '100'"),
        ({"train": -1}, "train: expected a whole number >= 0, got -1"),
        ({"test": 1}, "test: expected at least 2 images"),
        ({"seed": True}, "seed: expected a whole number >= 0, got True"),
        (
            {"recipe": {"learning_rate": "fast"}},
            "recipe.learning_rate: expected a number >= 0, got 'fast'",
        ),
        ({"recipe": {"learning_rate": True}}, "expected a number >= 0, got True"),
        ({"recipe": 5}, "recipe: expected a mapping, name: value, got 5"),
        ({"measures": None}, "measures: expected a mapping, name: value, got None"),
        ({"networks": {"cnn": 8}}, r"networks.cnn: expected .*with its width \(above 0\).*got 8"),
        ({"networks": {"cnn": {"width": "wide"}}}, "networks.cnn.width: expected .*got 'wide'"),
        ({"networks": {"cnn": {"width": True}}}, "networks.cnn.width: expected .*got True"),
        ({"networks": {}}, "networks: expected at least one"),
        ({"measures": {"corruptions": ["fog"]}}, r"measures.corruptions: .*got \['fog'\]"),
        ({"measures": {"norms": [0, 1]}}, "measures.norms.0: expected .*positive norms.*got 0"),
        ({"measures": {"norms": [float("inf")]}}, "expected .*positive norms.*got inf"),
        ({"measures": {"top_share": 2}}, r"measures.top_share: expected a share in \(0, 1\]"),
        ({"measures": {"changed_images": 1}}, "measures.changed_images: .*at least 2 images"),
        ({"task": "mednist", "recipe": {"fresh": True}}, "made on the spot, got mednist"),
        ({"recipe": {"strength": 4.0}}, "recipe.strength: expected recipe.fresh: true"),
        ({"recipe": {"strength": 0.5}}, "recipe.strength: expected a number >= 1, got 0.5"),
        (
            {"networks": {"cnn": {"max_pool": 0}}},
            "networks.cnn.max_pool: expected true or false, or nothing, got 0",
        ),
        (
            {"networks": {"vit": {"strength": 0}}},
            "networks.vit.strength: expected a number >= 1, or nothing, got 0",
        ),
        (
            {"networks": {"cnn": {"lengths": 5}}},
            "networks.cnn.lengths: expected a list of whole numbers > 0, or nothing, got 5",
        ),
        ({"lengths": [0]}, "lengths.0: expected a list of whole numbers > 0, got 0"),
        (
            {"networks": {"cnn": {"max_pol": False}}},
            r"networks.cnn.max_pol: expected keys from \['batch_size', .*'width'\], got this one",
        ),
        (
            {"networks": {"vit": {"max_pool": False}}},
            r"networks.vit.max_pool: expected it for a network in \['resnet18', .*got it for vit",
        ),
        (
            {"task": "mednist", "networks": {"cnn": {"strength": 4.0}}},
            "networks.cnn.strength: expected a task whose signals are added on .* got mednist",
        ),
        (
            {"task": "bundle", "networks": {}, "recipe": {"strength": 4.0}},
            "recipe.strength: expected a task whose signals are added on the spot, got bundle",
        ),
        (
            {
                "training_sizes": [10],
                "sized_networks": ["cnn"],
                "recipe": {"strength": 4.0, "fresh": True},
            },
            r"training_sizes: expected sized_networks without strength, got \['cnn'\]",
        ),
        ({"networks": {"cnn": {"trainings": 0}}}, "networks.cnn.trainings: expected .*got 0"),
        ({"recipe": {"warm_up": 1}}, r"recipe.warm_up: expected a share in \(0, 1\), got 1"),
        (
            {"train": 10, "training_sizes": [5, 10]},
            r"training_sizes: .* below train \(10\), .*got 10",
        ),
        ({"task": "mednist", "training_sizes": [10]}, "with a known answer, got mednist"),
        ({"task": "signals"}, "task: expected a task in .*got 'signals'"),
        ({"title": 3}, "title: expected a text, got 3"),
        ({"controls": "cnn"}, "controls: expected a list of names.*got 'cnn'"),
        ({"networks": ["cnn"]}, "networks: expected a mapping of networks"),
        ({"networks": {"alexnet": None}}, "expected a network in .*got 'alexnet'"),
        ({"networks": {"cnn": {"depth": 3}}}, "networks.cnn.depth: .*"),
        ({"networks": {"cnn": None}, "controls": ["vit"]}, r"got \['vit'\]"),
    ],
)
def test_what_means_nothing(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_settings(write(tmp_path, **content))


def test_every_mistake_is_named_at_once(tmp_path):
    with pytest.raises(ValueError, match="train: expected") as raised:
        read_settings(write(tmp_path, train=-1, seed="a", recipe={"images": None}))
    lines = str(raised.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["train", "recipe.images", "seed"]
    assert all(line.startswith(str(tmp_path / "mine.yaml")) for line in lines)


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
