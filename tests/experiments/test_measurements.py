"""Changes, the quadratic law and controls on networks whose answers are known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from monai_ifim.core import eigenspace
from monai_ifim.experiments.measures.changes import changes_summary, measure_changes
from monai_ifim.experiments.measures.controls import (
    chance_angle,
    change_control,
    layer_control,
    precision_control,
    randomised,
    weighted_layers,
)
from monai_ifim.experiments.measures.directions import all_directions, change_directions
from monai_ifim.experiments.measures.law import law_summary, measure_law
from monai_ifim.experiments.measures.sensitivity import (
    maps_summary,
    measure_attributions,
    measure_maps,
    ranked,
)
from monai_ifim.experiments.networks.trained_classifier import (
    TrainedClassifier,
    largest_angles,
    template_cosines,
)

SHAPE = (1, 9, 7)


class Convolutional(nn.Sequential):
    """Smooth, and with a map for Grad-CAM."""

    def __init__(self, classes=3):
        super().__init__(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(4 * 9 * 7, classes),
        )


def classifier(network, likelihood="categorical"):
    return TrainedClassifier("test", network, likelihood, "0")


@pytest.fixture
def trained():
    torch.manual_seed(0)
    return classifier(Convolutional())


@pytest.fixture
def images():
    return torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(1))


def attributed(network, images):
    return measure_attributions(network, images, seed=0)


NORMS = (1e-3, 1e-2, 0.1, 1.0)


def test_changes(trained, images):
    labels = torch.arange(12) % 3
    raw = measure_changes(trained, images, labels, attributed(trained, images), NORMS, 0.1, seed=0)
    assert len(raw["directions"]) == 13
    assert raw["logits"].shape == (12, 13, 4, 3)
    found = changes_summary(raw, "categorical", (0.01, 0.1))
    leading = found["directions"]["leading"]
    # Far inside the quadratic regime the mean divergence is half of ε² times the mean eigenvalue.
    values = eigenspace(trained.network, images).eigenvalues[:, 0]
    step = NORMS[0] * float(images.flatten(1).norm(dim=1).double().median())
    expected = 0.5 * step**2 * float(values.mean())
    assert leading["divergence"][0]["value"] == pytest.approx(expected, rel=0.02)
    assert leading["quadratic"][0] == pytest.approx(expected, rel=1e-6)
    names = raw["directions"]
    inside, outside = names.index("random_in_eigenspace"), names.index("random_in_complement")
    divergence = raw["divergence"].numpy()
    ratio = divergence[:, inside, 1].mean() / divergence[:, outside, 1].mean()
    assert found["ratios"][0]["random"]["value"] == pytest.approx(ratio)
    assert found["ratios"][0]["random"]["low"] > 10
    assert found["ratios"][0]["relative_norm"] == 0.01
    after = raw["logits"][:, 0, 3].argmax(dim=1)
    accuracy = float((after == labels).double().mean())
    assert leading["accuracy"][3]["value"] == pytest.approx(accuracy)
    before = eigenspace(trained.network, images).logits.argmax(dim=1)
    assert leading["flip_rate"][3]["value"] == pytest.approx(
        float((after != before).double().mean())
    )


def test_changes_have_the_same_norm(trained, images):
    space = trained.eigenspace(images)
    maps = attributed(trained, images)
    units = all_directions(space, images, maps, 0.1, torch.Generator())
    for name, unit in units.items():
        assert unit.shape == images.shape
        torch.testing.assert_close(unit.flatten(1).norm(dim=1), torch.ones(12), msg=name)
    masked = units["gradient_mask"].flatten(1)
    assert (masked != 0).sum(dim=1).tolist() == [round(0.1 * 63)] * 12


def test_band_limited_noise_has_the_spectrum_of_the_image():
    torch.manual_seed(0)
    waves = torch.sin(2 * math.pi * 3 * torch.arange(16) / 16)[None, None, None].expand(
        2, 1, 16, 16
    )
    network = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
    space = eigenspace(network, waves.contiguous())
    noise = change_directions(space, waves, torch.Generator())["band_limited"]
    power = torch.fft.fftn(noise[0, 0]).abs().square()
    assert float(power[0, 3] + power[0, -3]) == pytest.approx(float(power.sum()), rel=1e-5)


def test_bernoulli_and_unknown_labels(images):
    torch.manual_seed(0)
    one = classifier(Convolutional(1), "bernoulli")
    maps = attributed(one, images)
    raw = measure_changes(one, images, torch.arange(12) % 2, maps, NORMS, 0.1, seed=0)
    assert changes_summary(raw, "bernoulli", (0.1,))["directions"]["leading"]["auc"] is not None
    raw = measure_changes(one, images, None, maps, NORMS, 0.1, seed=0)
    assert changes_summary(raw, "bernoulli", (0.1,))["directions"]["leading"]["auc"] is None


def test_a_network_that_does_not_react(images):
    network = Convolutional()
    nn.init.zeros_(network[3].weight)
    with pytest.raises(ValueError, match="expected an eigenpair for some image"):
        measure_changes(classifier(network), images, None, {}, NORMS, 0.1, seed=0)


def test_constant_maps_are_ranked_at_random():
    maps = torch.stack([torch.zeros(SHAPE), torch.randn(SHAPE)])
    found = ranked(maps, torch.Generator())
    assert torch.equal(found[1], maps[1])
    assert found[0].unique().numel() == 63


def test_radius_of_a_linear_network(images):
    """Two classes: KL as a function of the change of the logit is known, and so is its radius."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(63, 2))
    norm = float(images.flatten(1).norm(dim=1).median())
    raw = measure_law(classifier(network), images, torch.arange(12) % 2, norm)
    assert float(raw["error"].max()) < 1e-4
    logits = network.double()(images.double()).detach()
    difference = logits[:, 0] - logits[:, 1]
    weight = network[1].weight.detach()
    slope = float((weight[0] - weight[1]).norm())
    grid = np.logspace(-4, 0, 33) * norm
    for i, gap in enumerate(difference.tolist()):
        towards = -math.copysign(1, gap)  # along +v the other class gains
        p = 1 / (1 + math.exp(-gap))
        radius = 0.0
        for step in grid:
            move = towards * step * slope
            q = 1 / (1 + math.exp(-(gap + move)))
            divergence = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
            if abs(divergence - 0.5 * move**2 * p * (1 - p)) > 0.1 * 0.5 * move**2 * p * (1 - p):
                break
            radius = step
        assert float(raw["radius"][i]) == pytest.approx(radius, rel=1e-6)
    found = law_summary(raw)
    assert found["radius"]["percentiles"][2] == pytest.approx(float(raw["radius"].median()))
    assert found["float64_error"]["eigenpairs"] == 12


@pytest.mark.parametrize("scale", [1, 60], ids=["unsure", "sure"])
def test_law_of_a_smooth_network(scale, images):
    torch.manual_seed(0)
    network = Convolutional()
    with torch.no_grad():
        network[3].weight.mul_(scale)
    raw = measure_law(classifier(network), images, None, 5.0)
    assert float(raw["error"].max()) < 0.01
    assert raw["correct"] is None
    assert law_summary(raw)["radius_wrong"] is None
    assert network[3].weight.dtype == torch.float32


def test_angles_between_eigenspaces(trained, images):
    spaces = trained.eigenspaces(images)
    torch.testing.assert_close(
        largest_angles(spaces, spaces), torch.zeros(12).double(), rtol=0, atol=1e-4
    )
    zero = Convolutional()
    nn.init.zeros_(zero[3].weight)
    assert largest_angles(spaces, classifier(zero).eigenspaces(images)).tolist() == [90.0] * 12


def test_template_cosines(images):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(63, 3))
    weights = network[1].weight.detach().double()
    templates = (weights[1:] - weights[0]).view(1, 2, *SHAPE)
    spaces = classifier(network).eigenspaces(images)
    torch.testing.assert_close(
        template_cosines(spaces, templates), torch.ones(12).double(), rtol=0, atol=1e-6
    )
    more = torch.randn(1, 3, *SHAPE, dtype=torch.float64)
    assert template_cosines(spaces, more).tolist() == [0.0] * 12


def test_randomised_copies(trained):
    layers = weighted_layers(trained.network)
    assert layers == [trained.network[0], trained.network[3]]
    state = torch.get_rng_state()
    copied, share = randomised(trained.network, 1, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(copied[0].weight, trained.network[0].weight)
    assert not torch.equal(copied[3].weight, trained.network[3].weight)
    assert share == pytest.approx((252 * 3 + 3) / (252 * 3 + 3 + 40))
    assert randomised(trained.network, 2, seed=0)[1] == 1


def test_controls_move_the_eigenspace(trained, images):
    spaces = trained.eigenspaces(images)
    rows = layer_control(trained, images, spaces, seed=0)
    assert [row["layers"] for row in rows] == [1, 2]
    assert all(row["angle"]["low"] > 45 for row in rows)
    changes = change_control(trained, images, spaces, 1.0, seed=0)
    assert len(changes) == 8
    small, large = changes[0]["angle"]["value"], changes[3]["angle"]["value"]
    assert small < large
    assert chance_angle(spaces, 0) > 60


def test_float64_agrees(trained, images):
    found = precision_control(trained, images, trained.eigenspaces(images))
    assert found["eigenvalue"] < 1e-5
    assert found["angle"] < 0.01


def test_linear_components_do_not_turn(images):
    torch.manual_seed(0)
    linear = classifier(nn.Sequential(nn.Flatten(), nn.Linear(63, 2)))
    rows = change_control(linear, images, linear.eigenspaces(images), 1.0, seed=0)
    assert max(row["angle"]["value"] for row in rows) < 0.01


def test_maps(trained, images):
    raw = measure_maps(trained, images[:6], attributed(trained, images[:6]))
    found = maps_summary(raw)
    assert set(found["methods"]) == {
        "ifim",
        "gradient",
        "integrated_gradients",
        "smoothgrad",
        "grad_cam",
        "occlusion",
    }
    assert found["methods"]["ifim"]["rank_correlation"] is None
    for row in found["methods"].values():
        # Nothing deleted leaves the prediction, all of it is the same for every map.
        assert row["deletion_curve"][0] == pytest.approx(row["insertion_curve"][-1], abs=1e-6)
        assert row["deletion_curve"][-1] == pytest.approx(
            found["methods"]["ifim"]["deletion_curve"][-1], abs=1e-6
        )
        for key, sign in (("deletion", -1), ("insertion", 1)):
            gain = sign * (found["methods"]["ifim"][key]["value"] - row[key]["value"])
            if row is not found["methods"]["ifim"]:
                assert row[f"{key}_advantage"]["value"] == pytest.approx(gain, abs=1e-6)
    # For three classes the gradient of one logit is not all of the eigenspace, but near it.
    assert found["methods"]["gradient"]["inside"]["value"] > 0.5


def test_areas_are_compared_image_by_image():
    """One map is better at every image by as much, though the images differ by far more."""
    areas = torch.linspace(0, 1, 20, dtype=torch.float64)
    curve = torch.zeros(20, 3, dtype=torch.float64)
    of = {"deletion_curve": curve, "insertion_curve": curve}
    other = {"deletion": areas + 0.01, "insertion": areas - 0.01}
    found = maps_summary(
        {"ifim": {"deletion": areas, "insertion": areas, **of}, "mine": other | of}
    )
    for key in ("deletion", "insertion"):
        gain = found["methods"]["mine"][f"{key}_advantage"]
        assert (gain["value"], gain["low"], gain["high"]) == pytest.approx((0.01, 0.01, 0.01))
        assert f"{key}_advantage" not in found["methods"]["ifim"]


def test_constant_regions_lie_on_the_kinks_of_max_pooling():
    """In a mask all entries of a window are equal: autograd picks one, a change picks another."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 16, 2)
    )
    masks = torch.zeros(6, 1, 8, 8)
    masks[:, :, 2:5, 1:6] = 1
    noise = 1e-3 * torch.randn(masks.shape, generator=torch.Generator().manual_seed(0))
    on_kinks, beside = (
        measure_law(classifier(network), images, None, 5.0) for images in (masks, masks + noise)
    )
    assert float(on_kinks["error"].median()) > 0.01
    assert float(beside["error"].max()) < 1e-4
    assert law_summary(on_kinks)["float64_error"]["above_one_percent"] == 6
