"""Many classes: the narrow waist, truncation and iteration against a dense F in float64."""

import warnings

import oracle
import pytest
import torch
from oracle import smooth_images, smooth_network
from torch import nn
from untouched import assert_untouched, snapshot

import monai_ifim as mi
from monai_ifim.core.waist import head_weight

CLASSES = 90


def network(*, peak=1.0, last=CLASSES, seed=0):
    """A smooth network with a waist of 16 features; ``peak`` scales the logits."""
    net = smooth_network(2, last, seed=seed)
    with torch.no_grad():
        net[-1].weight.mul_(peak)
    return net


def wide(*, peak=1.0, seed=0):
    """No waist narrower than the image: 72 pixels, 80 features, 90 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(72, 80), nn.Tanh(), nn.Linear(80, CLASSES)
        ).double()
    with torch.no_grad():
        net[-1].weight.mul_(peak)
    return net.eval()


def exact(net, images):
    values, vectors = oracle.eigh(oracle.fisher(net, images, "categorical"))
    return values, vectors


def angle(vectors, others):
    """Sine of the largest principal angle between two spans, rows (R, N) and columns (N, R)."""
    rest = vectors - (vectors @ others) @ others.T
    return torch.linalg.svdvals(rest).max()


@pytest.mark.parametrize("peak", [1.0, 4.0])
def test_exact_needs_as_many_passes_as_the_waist_is_wide(peak):
    net, images = network(peak=peak), smooth_images(2)
    space = mi.eigenspace(net, images)
    assert space.gradients.shape[1] == 16
    assert space.approximation is None
    values, vectors = exact(net, images)
    torch.testing.assert_close(space.eigenvalues, values[:, :16], rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(space.trace, values.sum(1), rtol=1e-10, atol=0)
    for i in range(len(images)):
        assert angle(space.eigenvectors[i].flatten(1)[:8], vectors[i, :, :8]) < 1e-6


@pytest.mark.parametrize("make", [network, wide])
@pytest.mark.parametrize("peak", [1.0, 6.0])
def test_krylov_finds_the_leading_pairs(make, peak):
    net, images = make(peak=peak), smooth_images(2)
    space = mi.eigenspace(net, images, method="krylov", rank=4, tolerance=1e-4)
    values, vectors = exact(net, images)
    torch.testing.assert_close(space.eigenvalues, values[:, :4], rtol=1e-5, atol=0)
    for i in range(len(images)):
        gap = values[i, 3] / values[i, 4]
        if gap > 1.05:
            assert angle(space.eigenvectors[i].flatten(1), vectors[i, :, :4]) < 5e-3


def test_the_residual_is_that_of_the_definition():
    net, images = wide(), smooth_images(2)
    space = mi.eigenspace(net, images, method="krylov", rank=3, tolerance=5e-2)
    fisher = oracle.fisher(net, images, "categorical")
    vectors = space.eigenvectors.flatten(2)
    error = vectors @ fisher - space.eigenvalues[:, :, None] * vectors
    residual = error.norm(dim=2) / space.eigenvalues[:, :1]
    stated = space.approximation.residual
    assert (residual <= stated * (1 + 1e-6) + 1e-12).all()
    assert (stated <= 5e-2).all()
    assert (stated > 1e-9).any()  # it stopped because of the tolerance, not because all is found


def test_the_lost_trace_is_unbiased_and_its_bound_holds():
    """Over many networks: the estimate's mean is right, and the bound is rarely exceeded."""
    ratios, exceeded, count = [], 0, 0
    for seed in range(12):
        net, images = network(peak=2.0, seed=seed), smooth_images(2)
        space = mi.eigenspace(net, images, method="truncated", tolerance=0.3, rank=1)
        approximation = space.approximation
        total = exact(net, images)[0].sum(1)
        seen = space.trace - approximation.lost_trace
        lost = total - seen
        assert (lost > 0).all()
        ratios.append(approximation.lost_trace / lost)
        exceeded += int((lost > approximation.lost_trace_bound).sum())
        count += len(images)
    ratios = torch.cat(ratios)
    assert abs(ratios.mean() - 1) < 4 * ratios.std() / len(ratios) ** 0.5
    assert exceeded <= 3, f"{exceeded} of {count}"


def test_eigenvalues_lie_between_the_truncated_ones_and_those_plus_the_lost_trace():
    net, images = network(peak=3.0), smooth_images(2)
    values = exact(net, images)[0][:, :3]
    space = mi.eigenspace(net, images, tolerance=1e-2, rank=3)
    assert space.approximation.vector_jacobian_products < 16 + 2
    lost = exact(net, images)[0].sum(1) - (space.trace - space.approximation.lost_trace)
    assert (space.eigenvalues <= values * (1 + 1e-9)).all()
    assert (values <= space.eigenvalues + lost[:, None] + 1e-12).all()


def test_few_classes_are_dropped_where_they_cannot_matter():
    """Ten classes, three of them likely: fewer passes, the same leading pairs."""
    net, images = network(last=10), smooth_images(2)
    with torch.no_grad():
        net[-1].weight.mul_(0.05)
        net[-1].bias.copy_(torch.tensor([3.0, 2.5, 2.0, *[-9.0] * 7]))
    space = mi.eigenspace(net, images, tolerance=1e-3)
    assert space.gradients.shape[1] <= 3
    values = exact(net, images)[0]
    torch.testing.assert_close(space.eigenvalues[:, :2], values[:, :2], rtol=1e-3, atol=0)


def test_auto_is_exact_for_few_classes_and_iterates_for_many():
    images = smooth_images(2)
    assert mi.eigenspace(network(last=5), images, rank=1).approximation is None
    many = mi.eigenspace(wide(), images, rank=3)
    assert many.approximation.jacobian_vector_products > 0
    assert mi.eigenspace(wide(), images, rank=30).approximation is None  # not a small part


def test_a_confident_prediction_returns_what_is_above_the_rounding():
    net, images = network(peak=1.0), smooth_images(2)
    with torch.no_grad():
        net[-1].bias[0] += 40
        net[-1].bias[1] += 4
        net[-1].bias[2:] -= 40
    space = mi.eigenspace(net, images, method="krylov", rank=5)
    assert (space.rank == 1).all()
    assert (space.eigenvalues[:, 0] > 0).all()
    assert (space.eigenvalues[:, 1:] == 0).all()
    assert (space.eigenvectors[:, 1:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_call_gives_the_same_bits(dtype):
    net, images = wide().to(dtype), smooth_images(2, dtype=dtype)
    state = torch.get_rng_state()
    first = mi.eigenspace(net, images, method="krylov", rank=3)
    torch.rand(7)
    second = mi.eigenspace(net, images, method="krylov", rank=3)
    torch.set_rng_state(state)
    assert torch.equal(first.eigenvalues, second.eigenvalues)
    assert torch.equal(first.trace, second.trace)
    assert torch.equal(first.eigenvectors, second.eigenvectors)


@pytest.mark.parametrize("choice", [{"method": "krylov", "rank": 3}, {"tolerance": 0.1}])
def test_the_network_is_left_alone(choice):
    net, images = wide(), smooth_images(2)
    before = snapshot(net, images)
    mi.eigenspace(net, images, **choice)
    assert_untouched(before, net, images)


@pytest.mark.parametrize("choice", [{"method": "krylov", "rank": 3}, {"tolerance": 0.1}, {}])
def test_an_image_with_nan_costs_no_other_its_result(choice):
    net, images = wide(), smooth_images(2)
    spoilt = images.clone()
    spoilt[2, 0, 0, 0] = torch.nan
    with mi.core.at_rest(net, images.device):
        spaces = [
            mi.core.decompose(mi.core.run_forward(net, x), mi.Categorical(), **choice)
            for x in (images, spoilt)
        ]
    good, bad = spaces
    others = [0, 1, 3, 4]
    assert bad.trace[2].isnan()
    assert bad.rank[2] == 0
    torch.testing.assert_close(
        bad.eigenvalues[others], good.eigenvalues[others], rtol=1e-5, atol=1e-12
    )
    assert torch.isfinite(bad.trace[others]).all()


def test_what_has_not_converged_says_so(monkeypatch):
    monkeypatch.setattr(mi.core.krylov, "LARGEST_BASIS", 6)
    with pytest.warns(UserWarning, match="residual"):
        space = mi.eigenspace(wide(), smooth_images(2), method="krylov", rank=3, tolerance=1e-9)
    assert (space.approximation.residual > 1e-9).any()


class Attention(nn.Module):
    """Fused attention has neither a forward mode nor a second derivative."""

    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(x, x, x)


class InPlace(nn.Module):
    def forward(self, x):
        return x.mul_(0.5).tanh_()


class Own(torch.autograd.Function):
    """An old-style function: no forward mode, but its backward pass can be differentiated."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * (1 - x.tanh().square())


class OldStyle(nn.Module):
    def forward(self, x):
        return Own.apply(x)


class Hidden(nn.Module):
    """A no_grad() round trip: forward mode sees no derivative here, and says nothing."""

    def forward(self, x):
        with torch.no_grad():
            scale = x.sigmoid()
        return x * scale


@pytest.mark.parametrize("middle", [Attention, InPlace, OldStyle, Hidden])
def test_networks_that_are_hard_to_differentiate_forwards(middle):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Flatten(2), nn.Linear(24, 24), middle(), nn.Flatten(), nn.Linear(72, 70)
        )
    net = net.double().eval()
    images = smooth_images(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        iterated = mi.eigenspace(net, images, method="krylov", rank=3, tolerance=1e-6)
    complete = mi.eigenspace(net, images, method="exact")
    torch.testing.assert_close(iterated.eigenvalues, complete.eigenvalues[:, :3], rtol=1e-8, atol=0)


def test_the_waist_is_found_and_nothing_else_is_taken_for_one():
    images = smooth_images(2).requires_grad_()
    net = network().requires_grad_(False)
    assert torch.equal(head_weight(net(images)), net[-1].weight)
    unbiased = nn.Sequential(net[:5], nn.Linear(16, 7, bias=False).double()).requires_grad_(False)
    assert torch.equal(head_weight(unbiased(images)), unbiased[-1].weight)
    assert head_weight(torch.tanh(net(images))) is None
    assert head_weight(net(images)[:, :20]) is None
    assert head_weight(2 * net(images)) is None
    viewed = net(images)[:, :, None].flatten(1)
    assert torch.equal(head_weight(viewed), net[-1].weight)


def test_a_named_head_serves_where_the_graph_hides_it():
    net, images = network(), smooth_images(2)
    hidden = {"output_transform": lambda z: z * 1.0}
    assert mi.eigenspace(net, images, **hidden).gradients.shape[1] == CLASSES - 1
    named = mi.eigenspace(net, images, head=net[-1], **hidden)
    assert named.gradients.shape[1] == 16
    found = mi.eigenspace(net, images)
    torch.testing.assert_close(named.eigenvalues, found.eigenvalues, rtol=1e-8, atol=1e-12)
