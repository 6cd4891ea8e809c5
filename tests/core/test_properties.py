"""What holds for any network: random ones, of random shapes."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import monai_ifim as mi
from _helpers.problems import Affine

few = settings(deadline=None, max_examples=15, derandomize=True, database=None)


@st.composite
def problems(draw):
    """A random smooth MLP, a batch of images, a family."""
    family = draw(st.sampled_from(["categorical", "bernoulli"]))
    classes = draw(st.integers(2 if family == "categorical" else 1, 6))
    batch, channels, width = draw(st.tuples(*[st.integers(1, 4)] * 3))
    gain = draw(st.sampled_from([0.1, 1.0, 10.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    images = normal(batch, channels, width, 3)
    pixels = channels * width * 3
    hidden = draw(st.integers(1, 8))
    network = nn.Sequential(
        Affine(normal(hidden, pixels) / pixels**0.5, normal(hidden)),
        nn.Tanh(),
        Affine(gain * normal(classes, hidden), normal(classes)),
    )
    return network, images, family


@few
@given(problems())
def test_spectrum_is_a_spectrum(problem):
    network, images, family = problem
    space = mi.eigenspace(network, images, likelihood=family)
    values = space.eigenvalues
    assert (values >= 0).all()
    assert (values[:, 1:] <= values[:, :-1]).all()
    assert (values.sum(dim=1) <= space.trace * (1 + 1e-9)).all()
    assert (values.sum(dim=1) >= space.trace * (1 - 1e-9)).all()
    assert torch.equal(space.rank, (values > 0).sum(dim=1))
    diagonal = space.sensitivity().flatten(1).sum(dim=1)
    torch.testing.assert_close(diagonal, space.trace, rtol=1e-9, atol=0)


@few
@given(problems())
def test_split_is_exact_and_never_longer_than_the_image(problem):
    network, images, family = problem
    high, orth = mi.eigenspace(network, images, likelihood=family).split(images)
    assert (high + orth - images).abs().max() <= 1e-14 * images.abs().max()
    lengths = high.flatten(1).square().sum(1) + orth.flatten(1).square().sum(1)
    torch.testing.assert_close(lengths, images.flatten(1).square().sum(1), rtol=1e-6, atol=0)


@few
@given(problems(), st.sampled_from([1e-3, 0.5, 7.0, 4096.0]))
def test_scaling_the_input_scales_the_eigenvalues_by_the_inverse_square(problem, a):
    network, images, family = problem

    class Rescaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            return self.network(x / a)

    space = mi.eigenspace(network, images, likelihood=family)
    scaled = mi.eigenspace(Rescaled(), a * images, likelihood=family)
    error = (scaled.eigenvalues * a**2 - space.eigenvalues).abs()
    assert (error <= 1e-9 * space.trace[:, None]).all()
