"""Input gradients of convolutions, against autograd on the untouched operations."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.networks.nets import resnet10
from torch import nn

from _helpers.comparisons import relative_error
from _helpers.graphs import taken
from _helpers.stems import CONVOLUTIONS, STEMS, stem
from monai_ifim.core.gradients.fast.convolutions import convolution_gradient
from monai_ifim.core.gradients.fast.input_gradients import input_gradients


@settings(max_examples=150, deadline=None)
@given(data=st.data(), axes=st.sampled_from([2, 3]), seed=st.integers(0, 99))
def test_the_gradient_is_that_of_autograd(data, axes, seed):
    """Every choice of axes, in float64, also where the strides leave a remainder."""
    kernel = tuple(data.draw(st.lists(st.integers(1, 5), min_size=axes, max_size=axes)))
    stride = tuple(data.draw(st.lists(st.integers(1, 3), min_size=axes, max_size=axes)))
    padding = tuple(data.draw(st.lists(st.integers(0, 5), min_size=axes, max_size=axes)))
    size = tuple(data.draw(st.permutations(range(5, 5 + axes))))
    batch, features, channels = data.draw(st.permutations([1, 2, 3]))
    choices = itertools.chain.from_iterable(
        itertools.combinations(range(axes), n) for n in range(axes + 1)
    )
    convolved = data.draw(st.sampled_from(list(choices)))
    generator = torch.Generator().manual_seed(seed)
    real = {"generator": generator, "dtype": torch.float64}
    x = torch.randn(batch, channels, *size, **real).requires_grad_()
    weight = torch.randn(features, channels, *kernel, **real)
    output = CONVOLUTIONS[axes](x, weight, None, stride, padding)
    cotangent = torch.randn(output.shape, **real)
    (expected,) = torch.autograd.grad(output, x, cotangent)
    ours = convolution_gradient(cotangent, weight, size, stride, padding, convolved)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", STEMS)
def test_stems_have_our_gradient_and_are_right(name, bias):
    x, weight, b, stride, padding, convolution = stem(name)
    b = b if bias else None
    plain = convolution(x, weight, b, stride, padding)
    with input_gradients():
        ours = convolution(x, weight, b, stride, padding)
        named = convolution(
            input=x, weight=weight, bias=b, padding=padding, stride=stride, groups=1
        )
    assert taken(ours) == taken(named) == ["_ConvolutionBackward"]
    assert torch.equal(ours, plain)
    assert torch.equal(named, plain)
    wide = x.detach().double().requires_grad_()
    output = convolution(wide, weight.double(), None, stride, padding)
    cotangent = torch.randn(output.shape)
    (expected,) = torch.autograd.grad(output, wide, cotangent.double())
    (gradient,) = torch.autograd.grad(ours, x, cotangent)
    assert relative_error(gradient, expected) < 2e-6


@pytest.mark.parametrize("name", STEMS)
def test_backward_passes_repeat_vmap_and_differentiate(name):
    x, weight, b, stride, padding, convolution = stem(name)
    with input_gradients():
        output = convolution(x, weight, b, stride, padding)
    assert taken(output)
    cotangents = torch.randn(4, *output.shape)
    loop = torch.stack(
        [torch.autograd.grad(output, x, u, retain_graph=True)[0] for u in cotangents]
    )
    batched = torch.func.vmap(lambda u: torch.autograd.grad(output, x, u, retain_graph=True)[0])
    assert relative_error(batched(cotangents), loop) < 2e-6
    # Linear in the cotangent, so its own vector-Jacobian product is the convolution.
    u = torch.zeros_like(output, requires_grad=True)
    (gradient,) = torch.autograd.grad(output, x, u, create_graph=True)
    change = torch.randn(x.shape)
    (product,) = torch.autograd.grad(gradient, u, change)
    assert relative_error(product, convolution(change, weight, None, stride, padding)) < 2e-6


@pytest.mark.parametrize("name", STEMS)
def test_forward_mode_and_vmap_inside(name):
    x, weight, b, stride, padding, convolution = stem(name)
    x, change = x.detach(), torch.randn(x.shape)

    def function(images):
        return convolution(images, weight, b, stride, padding)

    expected = convolution(change, weight, None, stride, padding)
    with input_gradients():
        product = torch.func.jvp(function, (x,), (change,))[1]
        (gradient,) = torch.func.vjp(function, x)[1](expected)
    plain = torch.func.vjp(function, x)[1](expected)[0]
    assert relative_error(product, expected) < 2e-6
    assert relative_error(gradient, plain) < 2e-6


def test_the_stem_of_a_resnet_has_our_gradient():
    network = resnet10(spatial_dims=3, n_input_channels=1, num_classes=2).eval()
    network.requires_grad_(False)
    x = torch.randn(2, 1, 18, 17, 19, requires_grad=True)
    with input_gradients():
        logits = network(x)
    assert "_ConvolutionBackward" in taken(logits)


def test_circular_padding_is_right():
    layer = nn.Conv3d(1, 5, (5, 3, 7), padding=(2, 1, 3), padding_mode="circular")
    layer.requires_grad_(False)
    x = torch.randn(2, 1, 17, 19, 23, requires_grad=True)
    plain = layer(x)
    with input_gradients():
        ours = layer(x)
    u = torch.randn_like(plain)
    assert taken(ours) == ["_ConvolutionBackward"]
    expected = torch.autograd.grad(plain, x, u)[0]
    assert relative_error(torch.autograd.grad(ours, x, u)[0], expected) < 2e-6


def test_a_stem_under_metadata_has_our_gradient():
    """MONAI's inferers hand the network a MetaTensor."""
    x, weight, bias, stride, padding, function = stem("volume")
    tracked = MetaTensor(x, meta={"name": "scan"})
    with input_gradients():
        output = function(tracked, weight, bias, stride, padding)
    assert isinstance(output, MetaTensor)
    assert output.meta["name"] == "scan"
    assert taken(output) == ["_ConvolutionBackward"]
    plain = function(x, weight, bias, stride, padding)
    assert torch.equal(output.as_tensor(), plain)
    gradients = [torch.autograd.grad(y.sum(), x)[0] for y in (output.as_tensor(), plain)]
    assert relative_error(*gradients) < 1e-5
