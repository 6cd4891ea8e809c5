"""Regression: against dense Jacobians, the KL of normal distributions, and invariances."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

import monai_ifim as mi
from _helpers import oracle
from _helpers.problems import smooth_images, smooth_network
from monai_ifim.outputs import batch_outputs, with_class_names

SCALES = (0.5, 2.0, 1.0, 0.1)


def matrix_of(space):
    v = space.eigenvectors.flatten(2)
    return torch.einsum("brn,br,brm->bnm", v, space.eigenvalues, v)


def jacobians(network, images):
    return torch.stack([oracle.jacobian(network, image) for image in images])


def normal(family, z):
    """The distribution itself, from torch."""
    if isinstance(family, mi.GaussianMeanVariance):
        mean, variance = z.chunk(2, dim=1)
        return Normal(mean, (variance / 2).exp())
    return Normal(z, torch.as_tensor(family.scale, dtype=torch.float64).expand_as(z))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 0.3, SCALES])
def test_known_error_against_a_dense_jacobian(dims, scale):
    network, images = smooth_network(dims, 4), smooth_images(dims)
    space = mi.eigenspace(network, images, likelihood=mi.Gaussian(scale))
    weights = torch.as_tensor(scale, dtype=torch.float64).expand(4) ** -2
    j = jacobians(network, images)
    expected = torch.einsum("bkn,k,bkm->bnm", j, weights, j)
    assert (matrix_of(space) - expected).abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_predicted_error_against_a_dense_jacobian(dims):
    network, images = smooth_network(dims, 4), smooth_images(dims)
    space = mi.eigenspace(network, images, likelihood=mi.GaussianMeanVariance())
    j, s = jacobians(network, images), network(images).detach()[:, 2:]
    weights = torch.cat([torch.exp(-s), torch.full_like(s, 0.5)], dim=1)
    expected = torch.einsum("bkn,bk,bkm->bnm", j, weights, j)
    assert (matrix_of(space) - expected).abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.parametrize(
    "family", [mi.Gaussian(0.3), mi.Gaussian(SCALES), mi.GaussianMeanVariance()], ids=repr
)
def test_divergence_is_that_of_torch_and_half_the_eigenvalue(family):
    network, images = smooth_network(2, 4), smooth_images(2)
    z = network(images).detach()
    other = z + torch.randn(z.shape, generator=torch.Generator().manual_seed(0)).double()
    expected = kl_divergence(normal(family, z), normal(family, other)).sum(1)
    torch.testing.assert_close(family.divergence(z, other), expected, rtol=1e-10, atol=0)
    entropy = normal(family, z).entropy().sum(1)
    torch.testing.assert_close(family.entropy(z), entropy, rtol=1e-12, atol=0)

    space = mi.eigenspace(network, images, likelihood=family)
    for r in range(2):
        step = 1e-4 / space.eigenvalues[:, r].sqrt()
        d = step.view(-1, 1, 1, 1) * space.eigenvectors[:, r]
        after = [network(images + s * d).detach() for s in (1, -1)]
        both = sum(family.divergence(z, each) for each in after)
        ratio = both / (step.square() * space.eigenvalues[:, r])
        torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=1e-5)


def test_tiny_divergences_keep_their_digits():
    """Of a change of the log-variance by h the divergence is h²/4, at 1e-12 too."""
    z = torch.zeros(1, 2, dtype=torch.float64)
    for h in (1e-3, 1e-6, 1e-10):
        found = mi.GaussianMeanVariance().divergence(z, torch.tensor([[0.0, h]]).double())
        assert found.item() == pytest.approx(h**2 / 4, rel=max(h, 1e-12))


def test_invariances():
    network, images = smooth_network(2, 4), smooth_images(2)
    space = mi.eigenspace(network, images, likelihood=mi.Gaussian())
    halved = mi.eigenspace(network, images, likelihood=mi.Gaussian(0.5))
    torch.testing.assert_close(halved.eigenvalues, 4 * space.eigenvalues, rtol=1e-12, atol=0)
    for moved in (lambda z: z + 7, lambda z: z[:, [2, 0, 3, 1]], lambda z: -z):
        same = mi.eigenspace(network, images, likelihood=mi.Gaussian(), output_transform=moved)
        torch.testing.assert_close(same.eigenvalues, space.eigenvalues, rtol=1e-10, atol=0)
    # An output in other units, with its error in these units.
    scaled = mi.eigenspace(
        network, images, likelihood=mi.Gaussian(1000.0), output_transform=lambda z: 1000 * z
    )
    torch.testing.assert_close(scaled.eigenvalues, space.eigenvalues, rtol=1e-10, atol=0)
    # A constant log-variance is a known error, and the variance is not an output then.
    fixed = mi.eigenspace(
        network,
        images,
        likelihood=mi.GaussianMeanVariance(),
        output_transform=lambda z: torch.cat([z, 0 * z + 2 * torch.tensor(0.3).double().log()], 1),
    )
    known = mi.eigenspace(network, images, likelihood=mi.Gaussian(0.3))
    torch.testing.assert_close(fixed.eigenvalues[:, :4], known.eigenvalues, rtol=1e-6, atol=0)


def test_one_output():
    network, images = smooth_network(2, 1), smooth_images(2)
    space = mi.eigenspace(network, images, likelihood=mi.Gaussian(2.0))
    lengths = jacobians(network, images).flatten(1).square().sum(1)
    torch.testing.assert_close(space.eigenvalues[:, 0], lengths / 4, rtol=1e-10, atol=0)


# Image to image -----------------------------------------------------------------------------------


def image_to_image():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 2, 2))
    images = torch.randn(2, 1, 5, 6, generator=torch.Generator().manual_seed(0))
    return network.double(), images.double()


@pytest.mark.parametrize("scale", [0.3, (0.5, 2.0)])
@pytest.mark.parametrize("asked", [mi.Gaussian, mi.VoxelwiseGaussian])
def test_image_to_image_against_a_dense_jacobian(scale, asked):
    network, images = image_to_image()
    space = mi.eigenspace(network, images, likelihood=asked(scale), rank=4, tolerance=1e-6)
    assert space.likelihood == mi.VoxelwiseGaussian(scale)
    j = torch.stack([
        torch.func.jacrev(lambda x: network(x[None])[0])(image).flatten(3).flatten(0, 2).detach()
        for image in images
    ]).view(2, 2, 20, 30)  # fmt: skip
    weights = torch.as_tensor(scale, dtype=torch.float64).expand(2) ** -2
    dense = torch.einsum("bcvn,c,bcvm->bnm", j, weights, j)
    values = oracle.eigh(dense)[0]
    torch.testing.assert_close(space.eigenvalues, values[:, :4], rtol=1e-6, atol=0)
    error = (space.trace - values.sum(1)).abs()
    assert (error <= 4 * space.approximation.trace_error + 1e-12 * space.trace).all()
    z = network(images).detach()
    step = 1e-4 / space.eigenvalues[:, 0].sqrt()
    d = step.view(-1, 1, 1, 1) * space.eigenvectors[:, 0]
    after = network(images + d).detach()
    divergence = space.likelihood.divergence(z, after)
    expected = 0.5 * step.square() * space.eigenvalues[:, 0]
    torch.testing.assert_close(divergence, expected, rtol=1e-3, atol=0)
    weighted = 0.5 * ((after - z).square() * weights.view(1, 2, 1, 1)).flatten(1).sum(1)
    torch.testing.assert_close(divergence, weighted, rtol=1e-12, atol=0)


# Tables, and what is refused ----


def test_rows_have_the_predicted_numbers_in_the_place_of_a_class():
    network, images = smooth_network(2, 4), smooth_images(2)
    space = mi.eigenspace(network, images, likelihood=mi.GaussianMeanVariance())
    outputs = batch_outputs(space, images, ())
    row, z = outputs.rows("abcde")[0], network(images).detach()
    assert row["predicted_class"] == f"{z[0, 0]:.6g}; {z[0, 1]:.6g}"
    assert row["probability"] is None
    assert row["status"] == "ok"
    assert "flip_distance" not in row
    assert with_class_names(outputs.numbers[0], ["a", "b"])["probabilities"] == {}


def test_a_segmentation_tool_for_regression_has_rows_too():
    network, images = image_to_image()
    space = mi.eigenspace(network, images, likelihood=mi.Gaussian(), rank=2)
    assert batch_outputs(space, images, ()).rows("ab")[0]["status"] == "ok"


def test_curves_of_regression():
    network, images = smooth_network(2, 3), smooth_images(2)
    space = mi.eigenspace(network, images, likelihood=mi.Gaussian(0.5))
    curve = mi.perturbation_curve(network, images, space.eigenvectors, [1e-4], space=space)
    torch.testing.assert_close(curve.divergence, curve.quadratic, rtol=1e-2, atol=0)


def test_no_answer_flips():
    space = mi.eigenspace(smooth_network(2, 3), smooth_images(2), likelihood=mi.Gaussian())
    with pytest.raises(ValueError, match="expected a classifier with one answer per image"):
        space.flip_distance()


def test_a_bad_image_gets_nan_alone():
    z = torch.tensor([[1.0, 2.0], [torch.nan, 0.0]]).double()
    for family in (mi.Gaussian(), mi.GaussianMeanVariance()):
        factor = family.factor(z)
        assert torch.isfinite(factor[0]).all()
        assert factor[1].isnan().any()
        assert family.contrasts(z).shape == (2, 2, 2)


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), "1", (), (1.0, 0.0), True])
@pytest.mark.parametrize("family", [mi.Gaussian, mi.VoxelwiseGaussian])
def test_scales_that_are_none(family, scale):
    with pytest.raises(ValueError, match="expected scale as a standard deviation > 0"):
        family(scale)


def test_outputs_that_do_not_fit():
    network, images = smooth_network(2, 3), smooth_images(2)
    with pytest.raises(
        ValueError, match="expected a scale for each of the 3 outputs, got Gaussian"
    ):
        mi.eigenspace(network, images, likelihood=mi.Gaussian((1.0, 2.0)))
    with pytest.raises(ValueError, match="expected D means and then D log-variances"):
        mi.eigenspace(network, images, likelihood=mi.GaussianMeanVariance())
    with pytest.raises(ValueError, match=r"expected an image \(batch, channels, \*spatial\)"):
        mi.eigenspace(network, images, likelihood=mi.VoxelwiseGaussian())
    with pytest.raises(ValueError, match=r"expected outputs of shape \(batch, 2 D\)"):
        mi.eigenspace(*image_to_image(), likelihood=mi.GaussianMeanVariance(), rank=1)
