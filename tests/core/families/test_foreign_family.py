"""A family of somebody else's: all that it needs is its methods, and mistakes are named."""

from dataclasses import dataclass

import pytest
import torch

import monai_ifim as mi
from _helpers import oracle
from _helpers.problems import smooth_images, smooth_network


@dataclass(frozen=True)
class Poisson:
    """Counts with logits z = log of the rate: F = exp(z) grad z (grad z)ᵀ."""

    spoilt: str = ""

    def check(self, logits):
        if logits.shape[1] != 1:
            raise ValueError("expected one log-rate")

    def contrasts(self, logits):
        ones = torch.ones_like(logits)[None]
        return ones[0] if self.spoilt == "axis" else ones

    def factor(self, logits):
        factor = torch.exp(logits.double() / 2)[:, :, None]
        return factor.float() if self.spoilt == "dtype" else factor

    def probabilities(self, logits):
        return torch.exp(logits.double())

    def most_probable(self, logits):
        rate = torch.exp(logits.double())[:, 0]
        return [f"at least {r:.0f}" for r in rate.tolist()], torch.full_like(rate, 0.5)

    def uncertainty(self, logits):
        return torch.full_like(logits.double()[:, 0], 0.5)


@dataclass(frozen=True)
class PoissonWithDivergence(Poisson):
    def outcome_probability(self, logits, reference):
        return torch.exp(-torch.exp(logits.double()))[:, 0]

    def divergence(self, before, after):
        change = (after - before).double()[:, 0]
        return before.double()[:, 0].exp() * (torch.expm1(change) - change)


def test_against_a_dense_jacobian():
    network, images = smooth_network(2, 1), smooth_images(2)
    space = mi.eigenspace(network, images, likelihood=Poisson())
    for b, image in enumerate(images):
        jacobian = oracle.jacobian(network, image)
        expected = torch.exp(network(image[None])[0, 0]) * jacobian.square().sum()
        torch.testing.assert_close(space.trace[b], expected.detach(), rtol=1e-10, atol=0)


def test_the_divergence_along_the_eigenvector():
    network, images = smooth_network(2, 1), smooth_images(2)
    space = mi.eigenspace(network, images, likelihood=PoissonWithDivergence())
    curve = mi.perturbation_curve(network, images, space.eigenvectors, [1e-4], space=space)
    torch.testing.assert_close(curve.divergence, curve.quadratic, rtol=1e-3, atol=0)


def test_what_a_curve_needs_is_said_before_the_work():
    network, images = smooth_network(2, 1), smooth_images(2)
    with pytest.raises(ValueError, match="without outcome_probability, divergence"):
        mi.perturbation_curve(network, images, images[:, None], [1e-3], likelihood=Poisson())


def test_another_likelihood_than_the_eigenspace_has():
    network, images = smooth_network(2, 3), smooth_images(2)
    space = mi.eigenspace(network, images, likelihood="bernoulli")
    directions = images[:, None]
    curve = mi.perturbation_curve(network, images, directions, [1e-3], space=space)
    torch.testing.assert_close(curve.divergence, curve.quadratic, rtol=0.05, atol=0)
    with pytest.raises(ValueError, match="expected the likelihood of the eigenspace"):
        mi.perturbation_curve(
            network, images, directions, [1e-3], space=space, likelihood="categorical"
        )


@pytest.mark.parametrize("spoilt", ["axis", "dtype"])
def test_shapes_that_are_wrong_are_named(spoilt):
    with pytest.raises(ValueError, match=r"expected contrasts \(M, 5, 1\) and a factor"):
        mi.eigenspace(smooth_network(2, 1), smooth_images(2), likelihood=Poisson(spoilt))


def test_a_family_that_overflows():
    class Large(torch.nn.Module):
        def forward(self, x):
            return smooth_network(2, 1)(x) + 2000

    images = smooth_images(2)
    with pytest.raises(ValueError, match=r"expected a finite factor of Poisson"):
        mi.eigenspace(Large(), images, likelihood=Poisson())
    outputs = mi.IFIMComponents(smooth_network(2, 1), likelihood=Poisson())(images[0])
    assert torch.isfinite(outputs["ifim_high"]).all()
