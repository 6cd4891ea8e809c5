"""Anybody's bundle as a network, its images and their labels."""

import csv
import hashlib
import importlib.util
import json
import logging
import pkgutil
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator
from monai.inferers import SimpleInferer
from PIL import Image

import monai_ifim
from _helpers import foreign_bundles as foreign
from monai_ifim.bundle import load_bundle_classifier, load_bundle_images
from monai_ifim.core import eigenspace
from monai_ifim.experiments import SignalDataset, signal_task, write_signal_images

HERE = Path(__file__).parent
SIGNAL = HERE.parent / "bundles" / "ifim_signal_2d"

orientation = pytest.mark.filterwarnings("ignore::FutureWarning")  # of MONAI's Orientationd


@pytest.fixture(scope="module")
def signals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals")
    write_signal_images(signal_task("2d"), folder, 7, 3)
    return folder


@pytest.fixture(scope="module")
def foreigners(tmp_path_factory):
    """Bundle and images by the name of the shape."""
    places = {}
    for shape in foreign.SHAPES:
        folder = tmp_path_factory.mktemp(shape.name)
        (folder / "images").mkdir()
        shape.write_images(folder / "images")
        places[shape.name] = foreign.install(shape.name, folder), folder / "images"
    return places


def copy_of(bundle, folder, change=None):
    root = Path(shutil.copytree(bundle, folder / bundle.name))
    if change:
        file = root / "configs" / "inference.json"
        config = json.loads(file.read_text())
        change(config)
        file.write_text(json.dumps(config))
    return root


def picture(path, shape=(13, 11, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(values).save(path)


# --- the network ----------------------------------------------------------------------------------


def test_logits_are_those_of_the_network_by_hand(signals):
    classifier = load_bundle_classifier(SIGNAL)
    images, labels, names = load_bundle_images(SIGNAL, signals)
    data = SignalDataset(signal_task("2d"), 7, 3)
    torch.testing.assert_close(images, torch.stack([item["image"] for item in data]))
    assert labels.tolist() == [item["label"] for item in data]
    assert set(labels.tolist()) == {0, 1}
    assert labels.dtype == torch.int64
    assert names == [f"signal_{i:04d}.nii.gz" for i in range(7)]
    assert (type(images), images.dtype) == (torch.Tensor, torch.float32)
    network = ConfigParser(
        json.loads((SIGNAL / "configs" / "inference.json").read_text())
    ).get_parsed_content("network_def")
    network.load_state_dict(torch.load(SIGNAL / "models" / "model.pt", weights_only=True))
    with torch.no_grad():
        assert torch.equal(classifier.network(images), network.eval()(images))
    assert (classifier.likelihood, classifier.name) == ("categorical", "ifim_signal_2d")


def test_no_graph_is_kept_between_calls():
    """As the bundle's IFIMInferer would; what it wraps is called instead."""
    network = load_bundle_classifier(SIGNAL).network
    (inferer,) = (m.inferer for m in network.modules() if hasattr(m, "inferer"))
    assert type(inferer) is SimpleInferer


@orientation
@pytest.mark.parametrize("shape", foreign.SHAPES, ids=lambda shape: shape.name)
def test_foreign_bundles(shape, foreigners):
    bundle, data = foreigners[shape.name]
    classifier = load_bundle_classifier(bundle)
    images, labels, names = load_bundle_images(bundle, data)
    assert classifier.likelihood == shape.likelihood
    assert images.shape[:2] == (3, shape.channels)
    assert labels is None
    assert all((data / name).is_file() for name in names)
    with torch.no_grad():
        logits = classifier.network(images)
    assert logits.shape == (3, shape.outcomes)
    space = eigenspace(classifier.network, images, likelihood=classifier.likelihood)
    torch.testing.assert_close(space.logits, logits, rtol=1e-4, atol=1e-6)
    assert space.eigenvalues.shape == (3, shape.eigenvalues)


def test_the_mask_is_the_bundles_own_channel(foreigners):
    bundle, data = foreigners["mask_channel"]
    images, _, names = load_bundle_images(bundle, data)
    parser = foreign.parse(bundle, dataset_dir=str(data))
    for image, item in zip(images, parser.get_parsed_content("dataset"), strict=True):
        assert torch.equal(image, item["image"].as_tensor())
    assert len(images[:, 3].unique()) == 2  # inside and outside of the nucleus
    assert names == [f"Images/nucleus{i}.png" for i in range(3)]


def test_likelihood_can_be_said():
    assert load_bundle_classifier(SIGNAL, likelihood="bernoulli").likelihood == "bernoulli"
    with pytest.raises(ValueError, match="poisson"):
        load_bundle_classifier(SIGNAL, likelihood="poisson")


def test_the_callers_random_numbers_stay(signals):
    before = torch.get_rng_state()
    with torch.inference_mode():
        network = load_bundle_classifier(SIGNAL).network
    load_bundle_images(SIGNAL, signals, limit=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(p.is_inference() for p in network.parameters())
    assert not network.training


def test_digest(tmp_path):
    same, weights, config = (tmp_path / name for name in ("same", "weights", "config"))
    original = load_bundle_classifier(SIGNAL).digest
    assert len(original) == len(hashlib.sha256().hexdigest())
    assert load_bundle_classifier(copy_of(SIGNAL, same)).digest == original
    root = copy_of(SIGNAL, weights)
    state = torch.load(root / "models" / "model.pt", weights_only=True)
    torch.save({key: value * 0.5 for key, value in state.items()}, root / "models" / "model.pt")
    other = load_bundle_classifier(root).digest
    third = load_bundle_classifier(copy_of(SIGNAL, config, lambda c: c.update(batch_size=5))).digest
    assert len({original, other, third}) == 3


def test_scripts_of_two_bundles(signals, tmp_path):
    """Both bring a package of that name and import it late; each forward finds its own."""

    def scaled(config):
        own = config["network_def"]
        config["network_def"] = {"_target_": "scripts.scaled.Scaled", "network": own}

    networks = []
    for factor in (1.0, 3.0):
        root = copy_of(SIGNAL, tmp_path / str(factor), scaled)
        (root / "scripts").mkdir()
        (root / "scripts" / "__init__.py").write_text("")
        (root / "scripts" / "factor.py").write_text(f"f = {factor}\n")
        (root / "scripts" / "scaled.py").write_text(
            "import torch\n\n\nclass Scaled(torch.nn.Module):\n"
            "    def __init__(self, network):\n"
            "        super().__init__()\n        self.network = network\n\n"
            "    def forward(self, images):\n        import scripts.factor\n"
            "        return self.network(images) * scripts.factor.f\n"
        )
        file = root / "models" / "model.pt"
        state = torch.load(file, weights_only=True)
        torch.save({"model": {f"network.{k}": v for k, v in state.items()}}, file)
        networks.append(load_bundle_classifier(root).network)
    images, _, _ = load_bundle_images(SIGNAL, signals)
    with torch.no_grad():
        once, thrice = (network(images) for network in networks)
        assert torch.equal(networks[0](images), once)  # after the other has run
        assert torch.equal(once, load_bundle_classifier(SIGNAL).network(images))
    torch.testing.assert_close(thrice, 3 * once)
    assert not any(str(tmp_path) in place for place in sys.path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: shutil.rmtree(root), "expected inference.json or inference.yaml"),
        (lambda root: (root / "models" / "model.pt").unlink(), "expected model.pt or model.ts"),
        (lambda root: (root / "configs" / "metadata.json").unlink(), "expected metadata.json"),
        (lambda root: (root / "configs" / "metadata.json").write_text("{"), "JSONDecodeError"),
        (lambda root: torch.save({"a": torch.zeros(1)}, root / "models" / "model.pt"), "Missing"),
        (lambda root: (root / "configs" / "inference.json").write_text("{}"), "network_def"),
    ],
    ids=["none", "weights", "metadata", "no json", "other weights", "no network"],
)
def test_no_bundle(damage, message, tmp_path):
    root = copy_of(SIGNAL, tmp_path)
    damage(root)
    with pytest.raises(ValueError, match=message) as caught:
        load_bundle_classifier(root)
    assert "expected the folder of a classification bundle, got" in str(caught.value)


# --- the images -----------------------------------------------------------------------------------


def test_damaged_and_odd_images_are_left_out(foreigners, tmp_path, caplog):
    bundle, data = foreigners["sigmoid_labels"]  # its CacheDataset alone would die of them
    data = Path(shutil.copytree(data, tmp_path / "images"))
    (data / "a_broken.jpg").write_text("not an image")
    picture(data / "c_colour.jpg")
    with caplog.at_level(logging.ERROR):
        images, labels, names = load_bundle_images(bundle, data)
    assert names == ["breast0.jpg", "breast1.jpg", "breast2.jpg"]
    assert len(images) == 3
    assert labels is None
    (broken, colour) = (
        record.getMessage() for record in caplog.records if "left out" in record.msg
    )
    assert "a_broken.jpg is left out: " in broken
    assert "c_colour.jpg is left out: ValueError: expected finite values and" in colour


def test_nan_is_left_out(signals, tmp_path, caplog):
    import nibabel as nib

    data = Path(shutil.copytree(signals, tmp_path / "images"))
    scan = nib.load(data / "signal_0001.nii.gz")
    values = scan.get_fdata(dtype=np.float32)
    values[3, 4] = np.nan
    nib.save(nib.Nifti1Image(values, scan.affine), data / "signal_0001.nii.gz")
    images, labels, names = load_bundle_images(SIGNAL, data)
    assert [len(images), len(labels), len(names)] == [6, 6, 6]
    assert "signal_0001.nii.gz" not in names
    assert "NaN" in caplog.text
    rest = load_bundle_images(SIGNAL, signals)[1].tolist()
    assert labels.tolist() == rest[:1] + rest[2:]


def test_nothing_is_left(tmp_path):
    with pytest.raises(ValueError, match="expected images below"):
        load_bundle_images(SIGNAL, tmp_path / "nowhere")
    (tmp_path / "a.nii.gz").write_text("not an image")
    with pytest.raises(ValueError, match="got none among 1"):
        load_bundle_images(SIGNAL, tmp_path)


def test_a_limit_is_spread_over_the_list_and_meets_every_class(foreigners, tmp_path):
    bundle, _ = foreigners["softmax_rgb"]
    rows = []
    for i in range(60):
        picture(tmp_path / f"{i:02d}.png", (5, 4, 3))
        rows.append([f"{i:02d}.png", i % 3])
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *rows])
    images, labels, names = load_bundle_images(bundle, tmp_path, limit=20)
    positions = [int(name[:2]) for name in names]
    assert [position // 3 for position in positions] == list(range(20))
    assert labels.tolist() == [position % 3 for position in positions]
    assert labels.bincount().min() >= 3  # a fixed step of 3 would meet one class alone
    assert len(images) == 20
    assert load_bundle_images(bundle, tmp_path, limit=20)[2] == names
    assert len(load_bundle_images(bundle, tmp_path, limit=99)[0]) == 60
    with pytest.raises(ValueError, match="limit of at least 1"):
        load_bundle_images(bundle, tmp_path, limit=0)


def test_a_list_of_other_images_is_not_taken(foreigners, tmp_path, caplog):
    """Some bundles list their own sample data, whatever the folder."""
    bundle, elsewhere = foreigners["softmax_rgb"]
    fixed = copy_of(
        bundle,
        tmp_path,
        lambda c: c.update(
            datalist=f"$[{{'image': i}} for i in sorted(glob.glob({str(elsewhere)!r} + '/*.png'))]"
        ),
    )
    picture(tmp_path / "images" / "mine.png")
    assert load_bundle_images(fixed, tmp_path / "images")[2] == ["mine.png"]
    assert "every image below" in caplog.text
    assert "frame0.png" in caplog.text
    caplog.clear()
    assert len(load_bundle_images(fixed, elsewhere)[0]) == 3
    assert "every image below" not in caplog.text


# --- the labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("i + 1", [1, 2, 3]),
        ("torch.tensor(2 - i)", [2, 1, 0]),
        ("float(i)", None),
        ("[i, 1 - i]", None),
        ("torch.ones(2, dtype=torch.int64)", None),
        ("i if i else None", None),
    ],
)
def test_labels_of_the_bundles_own_list(label, expected, foreigners, tmp_path):
    bundle, data = foreigners["softmax_rgb"]
    entries = f"$[{{**e, 'label': {label}}} for i, e in enumerate(@datalist)]"
    root = copy_of(bundle, tmp_path, lambda c: c["dataset"].update(data=entries))
    labels = load_bundle_images(root, data)[1]
    assert (labels if labels is None else labels.tolist()) == expected


def test_labels_of_class_folders(foreigners, tmp_path):
    bundle, _ = foreigners["softmax_rgb"]
    for name in ("class 3", "class 0", "class 2/deeper"):
        picture(tmp_path / name / "x.png")  # one file name in three folders
    _, labels, names = load_bundle_images(bundle, tmp_path)
    assert names == ["class 0/x.png", "class 2/deeper/x.png", "class 3/x.png"]
    assert labels.tolist() == [0, 2, 3]
    picture(tmp_path / "unknown" / "x.png")
    assert load_bundle_images(bundle, tmp_path)[1] is None


@pytest.mark.parametrize(
    "table",
    [
        "file,label\nframe0.png,1\n",
        "file,label\nframe0.png,1\nframe1.png,2\nframe2.png,dog\n",
        "name,class\n",
    ],
    ids=["rows", "words", "columns"],
)
def test_half_a_table_is_no_table(table, foreigners, tmp_path, caplog):
    bundle, data = foreigners["softmax_rgb"]
    data = Path(shutil.copytree(data, tmp_path / "images"))
    (data / "labels.csv").write_text(table)
    images, labels, _ = load_bundle_images(bundle, data)
    assert len(images) == 3
    assert labels is None
    assert "no labels: expected in" in caplog.text


def test_no_name_of_ours_hides_one_of_monai():
    """MONAI looks up ``_target_`` by bare name in every package whose name begins with monai."""
    for module in pkgutil.walk_packages(monai_ifim.__path__, "monai_ifim."):
        if ".label" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    locator = ComponentLocator()
    locator.get_component_module_name("Compose")
    shared = {
        name: places
        for name, places in locator._components_table.items()
        if len({place.split(".")[0] for place in places}) > 1
    }
    assert shared == {}
