"""Segmentation with overlapping labels: sigmoids at every voxel, against a dense J in float64."""

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, kl_divergence

import monai_ifim as mi
from _helpers import oracle, problems
from monai_ifim.outputs import batch_outputs


def network_and_images(dims=2, labels=3, gain=4.0):
    convolution = problems.CONVOLUTIONS[dims]
    with torch.random.fork_rng():
        torch.manual_seed(dims)
        network = nn.Sequential(
            convolution(1, 4, 3, padding=1), nn.Tanh(), convolution(4, labels, 2)
        )
        with torch.no_grad():
            network[-1].weight.mul_(gain)
    shape = {2: (2, 1, 5, 6), 3: (2, 1, 3, 4, 5)}[dims]
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return network.double().eval(), images


def dense(network, images):
    result = []
    for image in images:
        z = network(image[None])[0].detach().flatten()
        j = torch.func.jacrev(lambda x: network(x[None])[0].flatten())(image).flatten(1).detach()
        p = z.sigmoid()
        result.append(torch.einsum("kn,k,km->nm", j, p * (1 - p), j))
    return torch.stack(result)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("asked", ["bernoulli", mi.VoxelwiseBernoulli()])
def test_against_a_dense_jacobian(dims, labels, asked):
    network, images = network_and_images(dims, labels)
    space = mi.eigenspace(network, images, likelihood=asked, rank=4, tolerance=1e-6)
    assert space.likelihood == mi.VoxelwiseBernoulli()
    values, vectors = oracle.eigh(dense(network, images))
    torch.testing.assert_close(space.eigenvalues, values[:, :4], rtol=1e-6, atol=0)
    for mine, theirs in zip(space.eigenvectors.flatten(2), vectors, strict=True):
        leading = mine[:1].T @ mine[:1]
        torch.testing.assert_close(leading, oracle.projector(theirs, 1), rtol=0, atol=1e-3)
    error = (space.trace - values.sum(1)).abs()
    assert (error <= 4 * space.approximation.trace_error + 1e-12 * space.trace).all()


def test_divergence_is_that_of_torch_and_half_the_eigenvalue():
    network, images = network_and_images()
    space = mi.eigenspace(network, images, likelihood="bernoulli", rank=2, tolerance=1e-6)
    z = network(images).detach()
    step = 1e-4 / space.eigenvalues[:, 0].sqrt()
    sides = [
        network(images + s * step.view(-1, 1, 1, 1) * space.eigenvectors[:, 0]).detach()
        for s in (1, -1)
    ]
    found = sum(space.likelihood.divergence(z, each) for each in sides)
    torch.testing.assert_close(found, step.square() * space.eigenvalues[:, 0], rtol=1e-3, atol=0)
    far = z + torch.randn(z.shape, generator=torch.Generator().manual_seed(1)).double()
    expected = kl_divergence(Bernoulli(logits=z), Bernoulli(logits=far)).flatten(1).sum(1)
    torch.testing.assert_close(space.likelihood.divergence(z, far), expected, rtol=1e-8, atol=0)
    entropy = Bernoulli(logits=z).entropy().flatten(1).sum(1)
    torch.testing.assert_close(space.likelihood.entropy(z), entropy, rtol=1e-10, atol=0)


def test_one_sigmoid_is_a_softmax_with_a_zero():
    network, images = network_and_images(labels=1)
    sigmoid = mi.eigenspace(network, images, likelihood="bernoulli", rank=3, tolerance=1e-6)
    two = mi.eigenspace(
        network, images, rank=3, tolerance=1e-6,
        output_transform=lambda z: torch.cat([torch.zeros_like(z), z], dim=1),
    )  # fmt: skip
    torch.testing.assert_close(sigmoid.eigenvalues, two.eigenvalues, rtol=1e-6, atol=0)


def test_the_sign_and_the_order_of_labels_do_not_matter():
    network, images = network_and_images()
    choices = {"likelihood": "bernoulli", "rank": 2, "tolerance": 1e-6}
    space = mi.eigenspace(network, images, **choices)
    for moved in (torch.neg, lambda z: z[:, [2, 0, 1]]):
        same = mi.eigenspace(network, images, output_transform=moved, **choices)
        torch.testing.assert_close(same.eigenvalues, space.eigenvalues, rtol=1e-6, atol=0)


@pytest.mark.parametrize("gap", [60.0, 180.0, 300.0])
def test_saturated_voxels_keep_their_digits(gap):
    network, images = network_and_images()
    with torch.no_grad():
        network[-1].bias.sub_(gap)
    choices = {"likelihood": "bernoulli", "rank": 2}
    double = mi.eigenspace(network, images, **choices)
    single = mi.eigenspace(network.float(), images.float(), **choices)
    assert (double.eigenvalues > 0).all()
    torch.testing.assert_close(single.eigenvalues, double.eigenvalues, rtol=1e-3, atol=0)


def test_rows_and_probabilities():
    network, images = network_and_images()
    space = mi.eigenspace(network, images, likelihood="bernoulli", rank=2)
    z, family = network(images).detach(), mi.VoxelwiseBernoulli()
    torch.testing.assert_close(family.probabilities(z), z.sigmoid().flatten(2).mean(2))
    names, probability = family.most_probable(z)
    present = (z > 0).flatten(2).any(2)
    assert names == ["+".join(str(i) for i in range(3) if row[i]) or "none" for row in present]
    torch.testing.assert_close(probability, family.outcome_probability(z, z))
    torch.testing.assert_close(1 - probability, family.uncertainty(z))
    assert family.most_probable(-10 - z.abs())[0] == ["none", "none"]
    assert family.most_probable(-1 - z.abs()[:, :1])[0] == ["0", "0"]
    row = batch_outputs(space, images, ()).rows("ab")[0]
    assert row["status"] == "ok"
    assert row["predicted_class"] == names[0]
    assert "flip_distance" not in row


def test_one_outcome_per_image_is_no_segmentation():
    network, images = problems.smooth_network(2, 3), problems.smooth_images(2)
    with pytest.raises(ValueError, match=r"expected logits of shape \(batch, labels, \*spatial\)"):
        mi.eigenspace(network, images, likelihood=mi.VoxelwiseBernoulli())
