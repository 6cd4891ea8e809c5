"""Many classes: last-layer features, truncation and iteration against a dense F in float64."""

import copy
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import monai_ifim as mi
from _helpers import oracle
from _helpers.problems import smooth_images, smooth_network
from _helpers.untouched import assert_untouched, snapshot
from monai_ifim.core.solvers.last_layer import head_weight

CLASSES = 90


def network(*, peak=1.0, last=CLASSES, seed=0):
    """A smooth network with 16 last-layer features; ``peak`` scales the logits."""
    net = smooth_network(2, last, seed=seed)
    with torch.no_grad():
        net[-1].weight.mul_(peak)
    return net


def wide(*, peak=1.0, seed=0):
    """No layer has fewer features than the image has pixels: 72 pixels, 80 features, 90 classes."""
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
def test_exact_needs_as_many_passes_as_there_are_last_layer_features(peak):
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
def test_the_network_is_unchanged(choice):
    net, images = wide(), smooth_images(2)
    before = snapshot(net, images)
    mi.eigenspace(net, images, **choice)
    assert_untouched(before, net, images)


@pytest.mark.parametrize("choice", [{"method": "krylov", "rank": 3}, {"tolerance": 0.1}, {}])
def test_an_image_with_nan_leaves_the_others_unaffected(choice):
    net, images = wide(), smooth_images(2)
    spoilt = images.clone()
    spoilt[2, 0, 0, 0] = torch.nan
    with mi.core.at_rest(net, images.device):
        spaces = [
            mi.core.decompose(mi.core.run_forward(net, x), mi.EigenspaceOptions(**choice))
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
    monkeypatch.setattr(mi.core.solvers.iteration, "LARGEST_BASIS", 6)
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


def test_the_last_layer_is_found_and_nothing_else_is_taken_for_it():
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


def labels(scale=1.0):
    """A hundred labels that look at separate places: the start spans an invariant subspace."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=3), nn.Tanh(), nn.Conv2d(6, 1, 1), nn.Flatten()
        ).double()
        images = torch.randn(2, 1, 30, 30, dtype=torch.float64)
    images[0] *= scale
    return net.eval(), images


@pytest.mark.parametrize("scale", [1.0, 0.02, 5.0])
def test_a_start_that_is_invariant_and_images_that_converge_at_different_times(scale):
    net, images = labels(scale)
    family = {"likelihood": "bernoulli"}
    truth = mi.eigenspace(net, images, method="exact", **family)
    space = mi.eigenspace(net, images, rank=5, **family)
    assert space.approximation is not None
    torch.testing.assert_close(space.eigenvalues, truth.eigenvalues[:, :5], rtol=2e-3, atol=0)
    torch.testing.assert_close(space.trace, truth.trace, rtol=0.2, atol=0)


def test_rows_that_lie_in_the_basis_are_replaced():
    generator = torch.Generator().manual_seed(0)
    basis = torch.eye(30, dtype=torch.float64)[None, :12]
    block = torch.cat([1e-17 * basis[:, :3], basis[:, 3:5], torch.zeros(1, 1, 30)], 1)
    block[0, 4] = torch.nan
    rows = mi.core.solvers.rows.orthonormal(block, basis, generator)
    both = torch.cat([basis, rows], 1)[0]
    torch.testing.assert_close(both @ both.T, torch.eye(18, dtype=torch.float64))


class Branch(nn.Module):
    """The last operation looks like a linear layer, but part of it depends on the image."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.features = nn.Linear(72, 3).double()
            self.further = nn.Linear(72, 9).double()
            self.weights = nn.Linear(72, 27).double()

    def forward(self, x):
        x = x.flatten(1)
        h = self.features(x).tanh()
        if self.kind == "bias":
            return torch.addmm(self.further(x).tanh(), h, torch.ones(3, 9, dtype=x.dtype))
        return h @ self.weights(x[0]).view(3, 9)


@pytest.mark.parametrize("kind", ["bias", "weights"])
def test_weights_and_bias_that_depend_on_the_image_are_no_last_layer(kind):
    net, images = Branch(kind).eval(), smooth_images(2)[:1]
    space = mi.eigenspace(net, images)
    values = exact(net, images)[0]
    torch.testing.assert_close(space.eigenvalues, values[:, :8], rtol=1e-8, atol=1e-12)


def test_a_named_head_orders_the_directions_and_leaves_none_out():
    net, images = network(last=30), smooth_images(2)
    bent = {"output_transform": torch.relu}
    plain = mi.eigenspace(net, images, **bent)
    named = mi.eigenspace(net, images, head=net[-1], **bent)
    torch.testing.assert_close(named.eigenvalues, plain.eigenvalues)
    few = mi.eigenspace(net, images, head=net[-1], method="krylov", rank=2, **bent)
    torch.testing.assert_close(few.eigenvalues, plain.eigenvalues[:, :2], rtol=1e-4, atol=0)


def test_columns_do_not_depend_on_the_images():
    net, images = network(last=40), smooth_images(2)
    zero = copy.deepcopy(net)
    with torch.no_grad():
        zero[-1].weight.zero_()
    for choice in ({}, {"rank": 4}, {"tolerance": 0.5}):
        shapes = {mi.eigenspace(n, images, **choice).eigenvectors.shape[1] for n in (net, zero)}
        assert shapes == {choice.get("rank", 16)}


def test_a_share_of_the_trace_needs_the_whole_trace():
    with pytest.raises(ValueError, match=r"energy=0\.9"):
        mi.eigenspace(network(), smooth_images(2), energy=0.9, tolerance=1e-2)


def test_a_pass_that_cannot_be_repeated_is_not_iterated_by_itself():
    """Fused attention has no second derivative; a kept graph has no forward mode."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(nn.Flatten(2), Attention(), nn.Flatten(), nn.Linear(72, 100))
    net, images = net.double().eval(), smooth_images(2)
    leaf = mi.core.as_leaf(images)
    with mi.core.at_rest(net, images.device):
        kept = mi.core.kept_forward(leaf, net(leaf))
        space = mi.core.decompose(kept, mi.EigenspaceOptions(rank=3))
    assert space.approximation is None


def test_an_image_with_nan_in_a_network_without_second_derivative():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(nn.Flatten(2), Attention(), nn.Flatten(), nn.Linear(72, 100))
    net, images = net.double().eval(), smooth_images(2)
    good = mi.eigenspace(net, images, rank=3)
    images[2, 0, 0, 0] = torch.nan
    with mi.core.at_rest(net, images.device):
        bad = mi.core.decompose(mi.core.run_forward(net, images), mi.EigenspaceOptions(rank=3))
    others = [0, 1, 3, 4]
    torch.testing.assert_close(bad.eigenvalues[others], good.eigenvalues[others])
    assert bad.rank[2] == 0


@pytest.mark.parametrize(("chunk", "error"), [(None, 0), ("auto", 1e-12)])
def test_threads_leave_the_kernels_of_attention_as_they_were(chunk, error):
    net, images = wide(), smooth_images(2)

    def work(_):
        return mi.eigenspace(net, images, method="krylov", rank=2, vjp_chunk=chunk).eigenvalues

    work(0)  # torch's first use of forward mode imports sympy, which adds a filter of its own
    before = torch.backends.cuda.flash_sdp_enabled(), len(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(8)))
    assert (torch.backends.cuda.flash_sdp_enabled(), len(warnings.filters)) == before
    for result in results:
        torch.testing.assert_close(result, results[0], rtol=error, atol=0)
