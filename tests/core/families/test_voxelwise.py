"""Segmentation networks: one softmax a voxel, against a dense J in float64."""

import pytest
import torch
from monai.networks.nets import SegResNet, UNet
from torch import nn
from torch.func import jacrev

import monai_ifim as mi
from _helpers import oracle, problems
from _helpers.untouched import assert_untouched, snapshot
from monai_ifim.outputs import batch_outputs

SHAPES = {2: (2, 1, 8, 12), 3: (2, 1, 4, 8, 6)}


def small_network(dims, classes=3):
    """Smooth, and small enough for a dense Jacobian."""
    convolution = problems.CONVOLUTIONS[dims]
    with torch.random.fork_rng():
        torch.manual_seed(dims)
        net = nn.Sequential(
            convolution(1, 4, 3, padding=1), nn.Tanh(), convolution(4, classes, 3, padding=1)
        )
        with torch.no_grad():
            net[-1].weight.mul_(4)
    return net.double().eval()


def monai_network(name, dims):
    with torch.random.fork_rng():
        torch.manual_seed(dims)
        if name == "UNet":
            net = UNet(dims, 1, 3, channels=(4, 8), strides=(2,), num_res_units=1, act="tanh")
        else:
            net = SegResNet(
                dims, init_filters=8, in_channels=1, out_channels=3, act="tanh",
                blocks_down=(1, 1), blocks_up=(1,),
            )  # fmt: skip
    return net.double().eval()


def images_of(dims, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPES[dims], generator=generator, dtype=torch.float64)


def fisher(net, image):
    """The definition: at each voxel, over its classes, of the scores' outer products."""
    logits = net(image[None])[0].detach().flatten(1)
    jacobian = jacrev(lambda x: net(x[None])[0])(image).detach()
    jacobian = jacobian.reshape(*logits.shape, -1)
    p = logits.softmax(0)
    scores = jacobian - (p[:, :, None] * jacobian).sum(0)
    weighted = (p.sqrt()[:, :, None] * scores).flatten(0, 1)
    return weighted.T @ weighted


def check(net, dims, rank, tolerance=1e-5):
    images = images_of(dims)
    space = mi.eigenspace(net, images, rank=rank, tolerance=tolerance)
    assert isinstance(space.likelihood, mi.core.VoxelwiseCategorical)
    for i, image in enumerate(images):
        dense = fisher(net, image)
        values, vectors = oracle.eigh(dense[None])
        torch.testing.assert_close(space.eigenvalues[i], values[0, :rank], rtol=1e-6, atol=0)
        ours = space.eigenvectors[i].flatten(1).T
        if values[0, rank - 1] / values[0, rank] > 1.02:
            torch.testing.assert_close(
                ours @ ours.T, oracle.projector(vectors[0], rank), rtol=0, atol=2e-3
            )
        error = (space.trace[i] - dense.trace()).abs()
        assert error <= 4 * space.approximation.trace_error[i]
    return space, images


@pytest.mark.parametrize("dims", [2, 3])
def test_against_a_dense_jacobian(dims):
    space, images = check(small_network(dims), dims, 4)
    high, orth = space.split(images)
    torch.testing.assert_close(high + orth, images)
    inner = (high * orth).flatten(1).sum(1)
    assert (inner.abs() < 1e-9 * images.flatten(1).norm(dim=1) ** 2).all()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["UNet", "SegResNet"])
def test_networks_of_monai(name, dims):
    net = monai_network(name, dims)
    images = images_of(dims)
    before = snapshot(net, images)
    check(net, dims, 3)
    assert_untouched(before, net, images)


def test_kl_along_the_leading_direction():
    """KL(p(x) || p(x + e v)), summed over the voxels, is e² λ / 2."""
    net, images = small_network(2), images_of(2)
    space = mi.eigenspace(net, images, rank=2, tolerance=1e-6)
    step = 1e-4
    before = net(images).log_softmax(1)
    after = net(images + step * space.eigenvectors[:, 0]).log_softmax(1)
    divergence = (before.exp() * (before - after)).flatten(1).sum(1)
    torch.testing.assert_close(2 * divergence / step**2, space.eigenvalues[:, 0], rtol=1e-3, atol=0)


def test_one_voxel_repeated_is_the_classifier_so_many_times():
    """A dense output whose voxels all say the same has that many times the classifier's F."""
    net, images = problems.smooth_network(2, 4), problems.smooth_images(2)
    repeated = {"output_transform": lambda z: z[:, :, None, None].expand(-1, -1, 5, 7)}
    dense = mi.eigenspace(net, images, rank=3, tolerance=1e-8, **repeated)
    single = mi.eigenspace(net, images)
    torch.testing.assert_close(dense.eigenvalues, 35 * single.eigenvalues, rtol=1e-6, atol=1e-12)
    assert (dense.rank == 3).all()


@pytest.mark.parametrize("gap", [60.0, 180.0, 300.0])
def test_saturated_voxels_keep_their_digits(gap):
    """Probabilities down to 1e-130 everywhere: float32 agrees with float64."""
    net, images = small_network(2, classes=2), images_of(2)
    with torch.no_grad():
        net[-1].bias.copy_(torch.tensor([gap, 0.0]))
    exact = mi.eigenspace(net, images, rank=2, tolerance=1e-6)
    single = mi.eigenspace(net.float(), images.float(), rank=2, tolerance=1e-4)
    assert (exact.eigenvalues[:, 0] < 1e-15).all()
    assert (exact.eigenvalues > 0).all()
    torch.testing.assert_close(single.eigenvalues, exact.eigenvalues, rtol=1e-3, atol=0)


def test_the_default_rank_and_the_numbers_of_an_image():
    net, images = small_network(2), images_of(2)
    space = mi.eigenspace(net, images)
    assert space.eigenvalues.shape == (2, 10)
    numbers = batch_outputs(space, images, ()).numbers[0]
    assert len(numbers["probabilities"]) == 3
    assert sum(numbers["probabilities"]) == pytest.approx(1)
    assert set(numbers["predicted_class"].split("+")) <= {"0", "1", "2"}
    assert 1 / 3 <= numbers["probability"] <= 1


def test_an_image_with_nan_leaves_the_others_unaffected():
    net, images = small_network(2), images_of(2)
    spoilt = images.clone()
    spoilt[1, 0, 0, 0] = torch.nan
    with mi.core.at_rest(net, images.device):
        good, bad = (
            mi.core.decompose(mi.core.run_forward(net, x), mi.EigenspaceOptions(rank=3))
            for x in (images, spoilt)
        )
    assert bad.trace[1].isnan()
    assert bad.rank[1] == 0
    torch.testing.assert_close(bad.eigenvalues[0], good.eigenvalues[0], rtol=1e-5, atol=0)
