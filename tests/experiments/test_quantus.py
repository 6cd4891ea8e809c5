"""Quantus' own metrics on our maps, on established ones and on somebody's own method."""

import numpy as np
import pytest
import torch
from torch import nn

import monai_ifim as mi
from _helpers.comparisons import assert_close
from monai_ifim.experiments.maps.attributions import attribution_maps
from monai_ifim.experiments.maps.explainers import OwnMethod, explainer, predicted_classes
from monai_ifim.experiments.maps.methods import GradCam, Gradient, SmoothedGradient
from monai_ifim.experiments.maps.quantus import (
    METRICS,
    edge_map,
    measure_quantus,
    quantus_summary,
    random_map,
)

WEIGHTS = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def linear():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    with torch.no_grad():
        network[1].weight.copy_(WEIGHTS)
    return network


IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def times_input(model, inputs, targets, **ignored):
    """Gradient times input, which is faithful for a linear network."""
    return WEIGHTS[torch.as_tensor(targets).long()].view(-1, 1, 8, 8) * torch.as_tensor(inputs)


def test_quantus_metrics(linear):
    pytest.importorskip("quantus")
    state = np.random.get_state()[1].copy(), torch.get_rng_state()
    explained_by = {
        "ifim": mi.quantus_explain,
        "gradient": explainer(Gradient()),
        "faithful": lambda **call: times_input(**call).double().numpy(),
        "random_numbers": random_map,
        "edges": edge_map,
    }
    found = measure_quantus(linear, IMAGES, explained_by, seed=0)
    assert (np.random.get_state()[1] == state[0]).all()
    assert torch.equal(torch.get_rng_state(), state[1])
    assert set(found) == set(explained_by)
    for metrics in found.values():
        assert list(metrics) == list(METRICS)
        assert all(value.shape == (4,) for value in metrics.values())
    # Known answers: each image's gradient is a constant of its class, the same at every image.
    assert found["faithful"]["faithfulness_correlation"].min() > 0.9
    assert found["random_numbers"]["faithfulness_correlation"].mean() < 0.5
    assert_close(found["gradient"]["max_sensitivity"], torch.zeros(4).double())
    assert_close(found["ifim"]["random_logit"], torch.ones(4).double())
    again = measure_quantus(linear, IMAGES, explained_by, seed=0)
    assert_close(
        again["ifim"]["faithfulness_correlation"], found["ifim"]["faithfulness_correlation"]
    )
    summary = quantus_summary(found, 4)
    assert summary["methods"]["ifim"]["sparseness"]["value"] > 0


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3, -1.0])
def test_maps_that_quantus_refuses_cost_no_other_map_its_number(linear, value, caplog):
    pytest.importorskip("quantus")
    drawn = random_map(linear, IMAGES.numpy(), None)
    refused = np.full(IMAGES.shape, value) - (drawn if value < 0 else 0)
    explained_by = {"refused": lambda **call: refused, "gradient": explainer(Gradient())}
    state = torch.get_rng_state()
    found = measure_quantus(linear, IMAGES, explained_by, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.isfinite(found["gradient"]["pixel_flipping"]).all()
    assert torch.isnan(found["refused"]["pixel_flipping"]).all()
    assert "pixel_flipping of refused has no number, Quantus refuses the maps: " in caplog.text
    assert "gradient" not in caplog.text
    summary = quantus_summary(found, len(IMAGES))
    assert summary["methods"]["refused"]["pixel_flipping"] is None
    assert summary["methods"]["refused"]["without"]["pixel_flipping"] == len(IMAGES)


def test_grad_cam_of_a_layer_that_says_nothing():
    pytest.importorskip("quantus")
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(6 * 6 * 2, 3)).eval()
    with torch.no_grad():
        network[0].weight.zero_()
        network[0].bias.zero_()
    found = measure_quantus(network, IMAGES, {"grad_cam": explainer(GradCam())}, seed=0)
    assert torch.isnan(found["grad_cam"]["pixel_flipping"]).all()


def test_an_assertion_of_somebodys_method_is_not_taken_for_one_of_quantus(linear):
    pytest.importorskip("quantus")

    def own(**call):
        raise AssertionError("of mine")

    with pytest.raises(AssertionError, match="of mine"):
        measure_quantus(linear, IMAGES, {"own": own}, seed=0)


@pytest.mark.parametrize("wrong", [IMAGES, IMAGES.numpy()[..., :5], IMAGES.numpy()[:2]])
def test_maps_of_another_type_or_shape_are_not_left_out_in_silence(linear, wrong):
    """A broken method is an error at once, and no row of missing numbers after hours."""
    pytest.importorskip("quantus")
    with pytest.raises((AssertionError, ValueError)):
        measure_quantus(linear, IMAGES, {"own": lambda *call, **named: wrong}, seed=0)


def test_numbers_that_a_metric_does_not_have():
    nan, values = torch.full((3,), torch.nan), torch.tensor([1.0, 2.0, torch.nan])
    summary = quantus_summary({"x": {"complexity": nan, "sparseness": values}}, 3)
    row = summary["methods"]["x"]
    assert row["complexity"] is None
    assert row["sparseness"]["value"] == 1.5
    assert row["without"] == {"complexity": 3, "sparseness": 1}


def test_an_established_method_in_quantus_form(linear):
    targets = predicted_classes(linear, IMAGES)
    assert targets.tolist() == linear(IMAGES).argmax(1).tolist()
    found = explainer(Gradient())(model=linear, inputs=IMAGES.numpy(), targets=targets)
    assert_close(torch.from_numpy(found), WEIGHTS[targets].view_as(IMAGES).double())
    noisy = explainer(SmoothedGradient(samples=2), seed=3)
    first, second = (noisy(model=linear, inputs=IMAGES, targets=targets) for _ in range(2))
    assert (first == second).all()


@pytest.mark.parametrize("kind", ["tensor", "array", "one channel"])
def test_an_own_method_beside_the_others(linear, kind):
    def own(model, inputs, targets):
        assert model is linear
        values = times_input(model, inputs, targets)
        return values if kind != "array" else values.numpy()

    method = OwnMethod("own", own)
    maps = attribution_maps(linear, IMAGES, torch.Generator(), methods=["gradient", method])
    classes = predicted_classes(linear, IMAGES)
    assert_close(maps["own"], times_input(None, IMAGES, classes))


def test_an_own_method_of_another_shape(linear):
    method = OwnMethod("own", lambda model, inputs, targets: inputs[:, :, 1:])
    with pytest.raises(ValueError, match=r"expected attributions \(1, 1, 8, 8\) from own"):
        attribution_maps(linear, IMAGES, torch.Generator(), methods=[method])


def test_edges_of_a_ramp():
    ramp = np.tile(np.arange(5.0), (1, 1, 4, 1))
    assert (edge_map(None, ramp, None) == 1).all()
