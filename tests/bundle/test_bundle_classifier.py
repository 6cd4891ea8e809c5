"""A bundle's network as a classifier: its logits, likelihood, digest and scripts."""

import hashlib
import json
import shutil
import sys

import pytest
import torch
from monai.bundle import ConfigParser
from monai.inferers import SimpleInferer

from _helpers import foreign_bundles as foreign
from _helpers.bundles import SIGNAL, copy_of
from monai_ifim.bundle import load_bundle_classifier, load_bundle_images
from monai_ifim.core import eigenspace
from monai_ifim.experiments import SignalDataset, signal_task

orientation = pytest.mark.filterwarnings("ignore::FutureWarning")  # of MONAI's Orientationd


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
