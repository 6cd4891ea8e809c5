"""The nearest other answer, against affine classifiers exactly and dense Jacobians."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import monai_ifim as mi
from _helpers import oracle
from _helpers.problems import Affine, smooth_images, smooth_network
from monai_ifim.core import at_rest, decompose, run_forward


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(network, images):
    """First-order distance of every image to every class, (B, K); 0 for its own."""
    result = []
    for image in images:
        jacobian, z = oracle.jacobian(network, image), network(image[None])[0].detach()
        own = z.argmax()
        result.append((z[own] - z) / (jacobian - jacobian[own]).norm(dim=1).clamp_min(1e-300))
    return torch.stack(result)


def nearest(distances, images, network):
    """Of the dense distances the least one to another class, and that class."""
    own = network(images).argmax(dim=1, keepdim=True)
    return distances.scatter(1, own, torch.inf).min(dim=1)


def moved(images, flips, share):
    step = (share * flips.distance).view(-1, *[1] * (images.ndim - 1))
    return images + step * flips.direction


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 7), st.integers(0, 10_000))
def test_exact_for_an_affine_softmax(classes, seed):
    network, images = Affine(random(classes, 24, seed=seed)), random(4, 2, 3, 4, seed=seed + 1)
    flips = mi.eigenspace(network, images).flip_distance()
    expected = nearest(dense(network, images), images, network)
    torch.testing.assert_close(flips.distance, expected.values, rtol=1e-10, atol=0)
    assert torch.equal(flips.index, expected.indices)
    norms = flips.direction.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(4).double(), rtol=0, atol=1e-12)
    before, after = (network(moved(images, flips, s)).argmax(dim=1) for s in (1 - 1e-6, 1 + 1e-6))
    assert torch.equal(before, network(images).argmax(dim=1))
    assert torch.equal(after, flips.index)


def test_exact_for_one_affine_sigmoid():
    network, images = Affine(random(1, 12), random(1)), random(6, 1, 3, 4, seed=2)
    flips = mi.eigenspace(network, images, likelihood="bernoulli").flip_distance()
    z = network(images).detach()[:, 0]
    assert (z > 0).any()
    assert (z < 0).any()
    torch.testing.assert_close(flips.distance, z.abs() / network.weight.norm(), rtol=1e-12, atol=0)
    assert torch.equal(flips.index, (z <= 0).long())
    after = network(moved(images, flips, 1 + 1e-9))[:, 0]
    assert torch.equal(after > 0, z <= 0)


def test_several_labels_the_nearest_of_them():
    network, images = Affine(random(5, 12), random(5)), random(6, 1, 3, 4, seed=2)
    flips = mi.eigenspace(network, images, likelihood="bernoulli").flip_distance()
    z = network(images).detach()
    expected = (z.abs() / network.weight.norm(dim=1)).min(dim=1)
    torch.testing.assert_close(flips.distance, expected.values, rtol=1e-12, atol=0)
    assert torch.equal(flips.index, expected.indices)
    changed = (network(moved(images, flips, 1 + 1e-9)) > 0) != (z > 0)
    assert bool(changed.gather(1, flips.index[:, None]).all())


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_first_order_for_any_network(dims):
    network, images = smooth_network(dims, 6), smooth_images(dims)
    flips = mi.eigenspace(network, images, rank=1).flip_distance()  # of all classes all the same
    expected = nearest(dense(network, images), images, network)
    torch.testing.assert_close(flips.distance, expected.values, rtol=1e-10, atol=0)
    assert torch.equal(flips.index, expected.indices)
    assert flips.direction.shape == images.shape


def test_without_a_further_pass(monkeypatch):
    space = mi.eigenspace(smooth_network(2, 4), smooth_images(2))

    def refuse(*args, **kwargs):
        raise AssertionError("a backward pass")

    monkeypatch.setattr(torch.autograd, "grad", refuse)
    monkeypatch.setattr(torch.Tensor, "backward", refuse)
    assert torch.isfinite(space.flip_distance().distance).all()


def narrow(classes=12, width=4, gain=1.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Flatten(), nn.Linear(24, width), nn.Tanh(), nn.Linear(width, classes)
        )
        with torch.no_grad():
            network[-1].weight.mul_(gain)
    return network.double()


def test_a_last_layer_that_is_narrower_than_the_classes_loses_none():
    network, images = narrow(), random(5, 1, 4, 6)
    space = mi.eigenspace(network, images)
    assert space.gradients.shape[1] == 4
    flips = space.flip_distance()
    expected = nearest(dense(network, images), images, network)
    torch.testing.assert_close(flips.distance, expected.values, rtol=1e-8, atol=0)
    assert torch.equal(flips.index, expected.indices)
    assert (flips.compared >= 0).all()


@pytest.mark.parametrize(
    "options",
    [{"tolerance": 1e-3}, {"method": "krylov", "rank": 4}, {"method": "krylov", "rank": 9}],
)
def test_methods_that_leave_directions_out_say_what_they_compared(options):
    network, images = narrow(40, 30, gain=30.0), random(5, 1, 4, 6)
    space = mi.eigenspace(network, images, **options)
    assert space.approximation is not None
    flips = space.flip_distance()
    distances = dense(network, images)
    logits = network(images).detach()
    for i in range(len(images)):
        compared = flips.compared[i][flips.compared[i] >= 0]
        if not len(compared):
            assert flips.distance[i].isnan()
            assert flips.index[i] == -1
            assert not flips.direction[i].any()
            continue
        # Within the 1 % to which a contrast must be met.
        best = distances[i][compared].min().item()
        assert flips.distance[i].item() == pytest.approx(best, rel=2e-2)
        assert distances[i][flips.index[i]].item() == pytest.approx(best, rel=2e-2)
    if "tolerance" in options:
        second = logits.topk(2, dim=1).indices[:, 1:]
        assert (flips.compared == second).any(dim=1).all()
        assert (flips.compared < 0).any()


def test_other_images_are_unaffected_by_one_that_is_not_finite():
    network, images = smooth_network(2, 3), smooth_images(2)
    expected = mi.eigenspace(network, images).flip_distance()
    images[1, 0, 0, 0] = torch.nan
    with at_rest(network, images.device):
        flips = decompose(run_forward(network, images)).flip_distance()
    good = [0, 2, 3, 4]
    assert flips.distance[1].isnan()
    assert flips.index[1] == -1
    assert torch.equal(flips.distance[good], expected.distance[good])
    assert torch.equal(flips.direction[good], expected.direction[good])


def test_a_class_that_is_ruled_out_and_one_that_does_not_react():
    weight = random(3, 12)
    weight[1] = weight[0]  # never nearer than it is
    bias = torch.tensor([1.0, 0.0, -torch.inf]).double()
    images = random(2, 1, 3, 4)
    flips = mi.eigenspace(Affine(0 * weight + weight[:1], bias), images).flip_distance()
    assert flips.distance.isinf().all()
    assert flips.index.tolist() == [-1, -1]
    assert not flips.direction.any()


def test_a_tie_is_no_distance():
    network = Affine(random(2, 12))
    flips = mi.eigenspace(network, torch.zeros(1, 1, 3, 4).double()).flip_distance()
    assert flips.distance.item() == 0
    assert flips.direction.norm() == pytest.approx(1)


def test_offloaded_gradients_and_float32():
    network, images = smooth_network(2, 4, dtype=torch.float32), smooth_images(2).float()
    flips = mi.eigenspace(network, images, offload=True).flip_distance()
    double = mi.eigenspace(network.double(), images.double()).flip_distance()
    torch.testing.assert_close(flips.distance, double.distance, rtol=1e-4, atol=0)
    assert flips.direction.dtype == torch.float32


def test_a_segmentation_has_no_single_answer():
    space = mi.eigenspace(nn.Conv2d(1, 3, 3), torch.randn(2, 1, 6, 7), rank=2)
    with pytest.raises(
        ValueError, match=r"expected a classifier .*VoxelwiseCategorical.*output_tr"
    ):
        space.flip_distance()
