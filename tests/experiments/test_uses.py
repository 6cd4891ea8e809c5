"""Scores, what they find, flips: against sklearn, scipy, numpy and formulas."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import entropy, spearmanr
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from torch import nn

from monai_ifim.experiments.logits import logits_of
from monai_ifim.experiments.networks.architectures import ARCHITECTURES, build_network
from monai_ifim.experiments.networks.trained_classifier import TrainedClassifier
from monai_ifim.experiments.run.experiment import run_experiment
from monai_ifim.experiments.run.settings import read_settings
from monai_ifim.experiments.steps import Steps
from monai_ifim.experiments.tasks.labelled import Split
from monai_ifim.experiments.trainings.training import Amounts, Training
from monai_ifim.experiments.uses import flips as measured_flips
from monai_ifim.experiments.uses import measurement
from monai_ifim.experiments.uses.features import class_gaussians, features_of, last_linear
from monai_ifim.experiments.uses.finding import findings
from monai_ifim.experiments.uses.flips import PREDICTORS, flips, gradient_norms
from monai_ifim.experiments.uses.labelling import STRATEGIES
from monai_ifim.experiments.uses.measurement import uses
from monai_ifim.experiments.uses.scored import Scored
from monai_ifim.experiments.uses.scores import OURS, image_statistics, network_scores
from monai_ifim.experiments.uses.smallest import smallest_changes

SHAPE, PIXELS = (2, 5, 7), 70


def images(count=40, seed=5):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def affine(seed=0, classes=4, scale=0.3):
    """Logits W x + b, with rows of unequal lengths."""
    generator = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, classes)).eval()
    lengths = scale * torch.linspace(0.5, 2, classes)[:, None]
    network[1].weight.data = lengths * torch.randn(classes, PIXELS, generator=generator)
    network[1].bias.data = 0.1 * torch.randn(classes, generator=generator)
    return TrainedClassifier(f"affine {seed}", network, "categorical", f"affine {seed} {classes}")


def training(folder, net, sample=None, draws=20):
    amounts = Amounts(images=11, smoothed=0, draws=draws, seed=1)
    sample = images(11) if sample is None else sample
    return Training(net, sample, 4, amounts, Steps(folder))


def exact_distances(net, sample):
    """To the nearest boundary of an affine classifier, in numpy, and the margins."""
    weight, bias = (p.detach().double().numpy() for p in net.network[1].parameters())
    logits = sample.flatten(1).double().numpy() @ weight.T + bias
    best = logits.argmax(axis=1)
    rows = np.arange(len(logits))
    gaps = logits[rows, best][:, None] - logits
    lengths = np.linalg.norm(weight[best][:, None] - weight[None], axis=2)
    gaps[rows, best], lengths[rows, best] = np.inf, 1
    return (gaps / lengths).min(axis=1), gaps.min(axis=1), logits


# --- scores ---------------------------------------------------------------------------------------


def test_scores_of_an_affine_classifier():
    net, sample = affine(), images()
    found = network_scores(net, sample)
    distances, margins, logits = exact_distances(net, sample)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    weight = net.network[1].weight.detach().double().numpy()
    fishers = [weight.T @ (np.diag(q) - np.outer(q, q)) @ weight for q in p]
    expected = {
        "trace": [np.trace(f) for f in fishers],
        "largest_eigenvalue": [np.linalg.eigvalsh(f)[-1] for f in fishers],
        "flip_distance": distances,
        "entropy": entropy(p, axis=1),
        "uncertainty": 1 - p.max(axis=1),
        "margin": margins,
        "predicted": logits.argmax(axis=1),
    }
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name].numpy(), values, rtol=2e-4, atol=1e-6)
    gradients = [weight.T @ (q - np.eye(4)[q.argmax()]) for q in p]
    precise = dataclasses.replace(net, network=net.network.double())
    np.testing.assert_allclose(
        gradient_norms(precise, sample.double()).detach().numpy(),
        np.linalg.norm(gradients, axis=1),
        rtol=1e-6,
    )


def test_statistics_of_the_image():
    sample = images().numpy().astype(np.float64)
    found = image_statistics(torch.from_numpy(sample))
    steps = [np.abs(np.diff(sample, axis=axis)).reshape(40, -1).mean(axis=1) for axis in (2, 3)]
    np.testing.assert_allclose(found["mean"], sample.mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(found["log_deviation"], np.log(sample.std(axis=(1, 2, 3))))
    np.testing.assert_allclose(found["log_gradient"], np.log(np.mean(steps, axis=0)))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_features_make_the_logits(name):
    network = build_network(name, (1, 32, 32), 3).eval()
    sample = torch.randn(2, 1, 32, 32)
    layer = last_linear(network, sample)
    again = features_of(network, sample) @ layer.weight.double().T + layer.bias.double()
    assert torch.allclose(again, logits_of(network, sample), atol=1e-5)
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_network_without_a_linear_layer():
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match=r"expected a network with an nn\.Linear"):
        features_of(network, images(2))


def test_mahalanobis_by_hand():
    """Ledoit and Wolf's shrinkage from their formulas, and the distance from an inverse."""
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = random.normal(size=(60, 8)) * np.linspace(0.2, 3, 8) + 2 * labels[:, None]
    others = 3 * random.normal(size=(20, 8))
    means = np.stack([features[labels == k].mean(axis=0) for k in range(3)])
    rows = features - means[labels]
    sample = rows.T @ rows / 60
    target = np.trace(sample) / 8 * np.eye(8)
    spread = ((sample - target) ** 2).sum()
    noise = sum(((np.outer(r, r) - sample) ** 2).sum() for r in rows) / 60**2
    shrinkage = min(noise, spread) / spread
    assert 0.01 < shrinkage < 0.9
    inverse = np.linalg.inv(shrinkage * target + (1 - shrinkage) * sample)
    differences = others[:, None] - means
    expected = np.sqrt(np.einsum("nkx,xy,nky->nk", differences, inverse, differences)).min(axis=1)
    found = class_gaussians(torch.from_numpy(features), torch.from_numpy(labels))
    np.testing.assert_allclose(found.distances(torch.from_numpy(others)), expected, rtol=1e-8)


# --- what they find -------------------------------------------------------------------------------


def labelled(net, flipped, seed=5):
    """Images with the predicted classes, but for those nearest to a boundary."""
    sample = images(60, seed)
    distances, _, logits = exact_distances(net, sample)
    labels = logits.argmax(axis=1)
    wrong = distances.argsort()[:flipped]
    labels[wrong] = (labels[wrong] + 1) % 4
    return Split(sample, torch.from_numpy(labels))


@pytest.mark.parametrize("errors", [4, 9])
def test_wrong_predictions_need_five_of_them(tmp_path, errors):
    """The wrong ones are the nearest to a boundary: the distance finds all of them."""
    net = affine()
    split = labelled(net, errors)
    found = findings([training(tmp_path, net)], Scored(labelled(net, 0, 6), split))
    assert found["errors"] == [errors]
    if errors < 5:
        assert found["cases"] == []
        return
    (case,) = found["cases"]
    assert (case["kind"], case["positives"]) == ("wrong", [9])
    assert case["auc"]["flip_distance"]["value"] == 1
    _, margins, logits = exact_distances(net, split.images)
    wrong = logits.argmax(axis=1) != split.labels.numpy()
    assert case["auc"]["margin"]["value"] == pytest.approx(roc_auc_score(wrong, -margins))
    # An image statistic counts by its distance from the training images' median.
    usual, mean = (each.mean(dim=(1, 2, 3)).numpy() for each in (images(60, 6), split.images))
    assert case["auc"]["mean"]["value"] == pytest.approx(
        roc_auc_score(wrong, np.abs(mean - np.median(usual)))
    )


def test_a_baseline_wins_where_the_network_sees_nothing(tmp_path):
    """A constant is added, to which the network does not react: the mean alone finds it."""
    net = affine()
    layer = net.network[1]
    layer.weight.data -= layer.weight.data.mean(dim=1, keepdim=True)
    clean = images(60)
    scored = Scored(
        labelled(net, 0, 6),
        Split(clean, torch.zeros(60, dtype=torch.long)),
        {"offset": clean + 3},
        {"others": images(50, 9) - 3},
    )
    cases = {case["name"]: case for case in findings([training(tmp_path, net)], scored)["cases"]}
    for name, kind, count in (("offset", "corrupted", 60), ("others", "foreign", 50)):
        case = cases[name]
        assert (case["kind"], case["positives"]) == (kind, [count])
        assert case["auc"]["mean"]["low"] == 1
        for ours in OURS:
            above = case["above_best_baseline"][ours]
            assert case["auc"][ours]["value"] == pytest.approx(0.5, abs=0.12)
            assert above["high"] < 0
    offset = cases["offset"]["above_best_baseline"]["trace"]
    assert offset["value"] == pytest.approx(-0.5, abs=0.02)


def test_a_distance_that_falls_finds_nothing(tmp_path):
    """Fainter images lie nearer to the class means: raw Mahalanobis distances by hand."""
    net, train, split = affine(), labelled(affine(), 0, 6), labelled(affine(), 4)
    for name, factor in (("faint", 0.6), ("strong", 1.3)):
        scored = Scored(train, split, {name: factor * split.images})
        (case,) = findings([training(tmp_path / name, net)], scored)["cases"]
        rows, labels = train.images.flatten(1).double().numpy(), train.labels.numpy()
        means = np.stack([rows[labels == k].mean(axis=0) for k in np.unique(labels)])
        gaussian = LedoitWolf(assume_centered=True).fit(
            rows - means[np.unique(labels, return_inverse=True)[1]]
        )
        both = torch.cat([split.images, scored.corrupted[name]]).flatten(1).double().numpy()
        differences = both[:, None] - means
        squares = np.einsum("nkx,xy,nky->nk", differences, gaussian.precision_, differences)
        area = roc_auc_score(np.arange(120) >= 60, squares.min(axis=1))
        assert case["auc"]["mahalanobis"]["value"] == pytest.approx(area, abs=1e-12)
        assert area < 0.2 if name == "faint" else area > 0.8


def test_scores_are_kept(tmp_path):
    net, split = affine(), labelled(affine(), 9)
    scored = Scored(labelled(net, 0, 6), split, {"offset": split.images + 1})
    once = findings([training(tmp_path, net)], scored)
    again = training(tmp_path, net)
    assert findings([again], scored) == once
    assert (again.steps.computed, again.steps.reused) == (0, 1)


# --- flips ----------------------------------------------------------------------------------------


def test_the_flip_distance_is_the_norm_of_an_affine_classifier(tmp_path):
    nets, sample = [affine(s) for s in (0, 1)], images(16)
    found = flips([training(tmp_path, net) for net in nets], sample)
    assert (found["images"], found["found"]) == (16, 1.0)
    exact = [exact_distances(net, sample) for net in nets]
    sizes = sample.flatten(1).norm(dim=1).numpy()
    expected = np.mean([np.median(distances / sizes) for distances, _, _ in exact])
    assert found["norm"]["value"] == pytest.approx(expected, rel=0.05)
    assert found["spearman"]["flip_distance"]["value"] > 0.98
    margins = np.mean([spearmanr(m, d).statistic for d, m, _ in exact])
    assert found["spearman"]["margin"]["value"] == pytest.approx(margins, abs=0.03)
    assert margins < 0.95
    assert set(found["above"]) == {*PREDICTORS} - {"flip_distance"}
    assert found["above"]["margin"]["value"] == pytest.approx(
        found["spearman"]["flip_distance"]["value"] - found["spearman"]["margin"]["value"]
    )


@pytest.mark.parametrize(("classes", "spread"), [(2, 1.0), (4, 0.3), (4, 1.0), (6, 1.0)])
def test_the_search_finds_the_smallest_change_whatever_the_nearest_margin(classes, spread):
    """Rows of very unequal lengths: the class with the smallest margin is often not the nearest."""
    net, sample = affine(3, classes), images(24)
    scales = torch.randn(classes, 1, generator=torch.Generator().manual_seed(0))
    net.network[1].weight.data *= torch.exp(spread * scales)
    distances, margins, _ = exact_distances(net, sample)
    ratios = smallest_changes(net, sample).numpy() / distances
    assert ratios.min() + 1e-5 >= 1
    assert ratios.max() < 1.02
    if classes > 2:
        assert spearmanr(margins, distances).statistic < 0.99


def test_a_constant_predictor_is_left_out(tmp_path, monkeypatch):
    def constant(classifier, sample):
        return torch.ones(len(sample), dtype=torch.float64)

    monkeypatch.setattr(measured_flips, "gradient_norms", constant)
    found = flips([training(tmp_path, affine())], images(12))
    assert set(found["spearman"]) == {*PREDICTORS} - {"gradient_norm"}
    assert "gradient_norm" not in found["above"]
    monkeypatch.setattr(measured_flips, "smallest_changes", constant)
    found = flips([training(tmp_path / "b", affine())], images(12))
    assert (found["found"], found["norm"], found["spearman"]) == (1, None, None)


def test_two_classes_are_ordered_alike_by_all(tmp_path):
    """With one boundary, every predictor knows the distance; each has its sign."""
    found = flips([training(tmp_path, affine(2, classes=2, scale=0.1))], images(12))
    for name in PREDICTORS:
        assert found["spearman"][name]["value"] == pytest.approx(1, abs=1e-9), name


def test_no_other_answer_is_found(tmp_path):
    net = affine()
    net.network[1].weight.data.zero_()
    net.network[1].bias.data = torch.tensor([-1.0, 1.0, 0.0, 0.5])
    found = flips([training(tmp_path, net)], images(6))
    assert found["found"] == 0
    assert found["norm"] is found["spearman"] is found["above"] is None


def test_without_foolbox_a_line_says_so(tmp_path, monkeypatch):
    def missing(*_):
        raise ModuleNotFoundError("expected foolbox, got none")

    lines = []
    net = affine()
    scored = Scored(labelled(net, 0, 6), labelled(net, 9))
    assert uses([training(tmp_path, net)], None, None, lines.append) is None
    monkeypatch.setattr(measurement, "flips", missing)
    found = uses([training(tmp_path, net)], scored, images(4), lines.append)
    assert found["flips"] is None
    assert found["flips_missing"] == "expected foolbox, got none"
    assert found["images"] == 60
    assert lines == ["changes to another answer are not measured: expected foolbox, got none"]
    assert "flip_images: 0" in uses([training(tmp_path, net)], scored, None, print)["flips_missing"]


def test_strategies_take_what_they_say():
    net, sample = affine(), images()
    distances, _, logits = exact_distances(net, sample)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    generator = torch.Generator().manual_seed(0)
    first = {name: int(s(net, sample, generator).argmax()) for name, s in STRATEGIES.items()}
    assert first["entropy"] == entropy(p, axis=1).argmax()
    assert first["flip_distance"] == distances.argmin()
    assert first["trace"] == int(network_scores(net, sample)["trace"].argmax())


# --- in an experiment -----------------------------------------------------------------------------


def test_an_experiment_with_uses(tmp_path):
    content = {
        "task": "signal_2d",
        "networks": {"cnn": {"width": 4}},
        "train": 60,
        "test": 60,
        "trainings": 2,
        "recipe": {"images": 640, "fresh": True},
        "measures": {
            **dict.fromkeys(("changed_images", "law_images", "scored_images"), 0),
            **dict.fromkeys(("agreement_images", "control_images", "map_images"), 0),
            **dict.fromkeys(("quantus_images", "smoothed_images", "moved_images"), 0),
            "pooled_images": 8,
            "image_draws": 5,
        },
    }
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(content))
    plain = run_experiment(read_settings(file), Steps(tmp_path / "cache"), say=lambda line: None)
    (block,) = plain["networks"]["cnn"]["trainings"]
    assert block["uses"] is None
    assert plain["labelling"] is None
    content["measures"].update(
        used_images=20,
        flip_images=6,
        corruptions=["noise"],
        labelling={"rounds": 2, "images": 6, "trainings": 1, "seen": 32},
    )
    file.write_text(yaml.safe_dump(content))
    steps = Steps(tmp_path / "cache")
    found = run_experiment(read_settings(file), steps, say=lambda line: None)
    assert found["complete"]
    (block,) = found["networks"]["cnn"]["trainings"]
    assert {**block, "uses": None} == next(iter(plain["networks"]["cnn"]["trainings"]))
    assert {case["name"] for case in block["uses"]["cases"]} >= {"noise", "lumpy background"}
    assert block["uses"]["flips"]["images"] == 6
    assert block["uses"]["flips_missing"] == ""
    assert found["labelling"]["labelled"] == [6, 12]
    assert steps.computed == 2 + 2 + 2 * 4  # scores, flips, rounds: no training of before
    json.dumps(found, allow_nan=False)
