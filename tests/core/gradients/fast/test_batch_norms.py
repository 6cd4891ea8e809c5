"""Input gradients of batch norms, alone and in a network with in-place operations."""

import copy

import pytest
import torch
from torch import nn

from _helpers.comparisons import relative_error
from _helpers.graphs import taken
from _helpers.stems import jacobian
from monai_ifim.core.gradients.fast.input_gradients import input_gradients


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_a_network_with_in_place_operations(network, images, layout):
    x = images.to(memory_format=layout).requires_grad_()
    before = copy.deepcopy(network.state_dict())
    state = torch.random.get_rng_state()
    with input_gradients():
        ours = network(x)
    assert taken(ours) == ["_BatchNormBackward", "_ConvolutionBackward"]
    assert torch.equal(ours, network(x))
    wide = images.double().requires_grad_()
    expected = jacobian(copy.deepcopy(network).double()(wide), wide)
    assert relative_error(jacobian(ours, x), expected) < 2e-6
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.stride() == before[name].stride()


def test_the_batch_norm_alone_in_float64(network, images):
    x = images.double().requires_grad_()
    network = network.double()
    with input_gradients():
        ours = network(x)
    assert taken(ours) == ["_BatchNormBackward"]
    plain = network(x)
    assert torch.equal(ours, plain)
    assert relative_error(jacobian(ours, x), jacobian(plain, x)) < 1e-12
    batched = torch.func.vmap(lambda u: torch.autograd.grad(ours, x, u, retain_graph=True)[0])
    cotangents = torch.eye(3, dtype=torch.float64)[:, None].expand(3, 2, 3)
    assert relative_error(batched(cotangents), jacobian(plain, x)) < 1e-12
    u = torch.zeros_like(plain, requires_grad=True)
    products = []
    for logits in (ours, plain):
        (gradient,) = torch.autograd.grad(logits, x, u, create_graph=True)
        products.append(torch.autograd.grad(gradient, u, images.double())[0])
    assert relative_error(*products) < 1e-12


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norms_with_and_without_weights(affine, small_norms):
    norm = nn.BatchNorm2d(3, affine=affine, dtype=torch.float64).eval().requires_grad_(False)
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 150, 151, dtype=torch.float64, requires_grad=True)
    plain = norm(x)
    with input_gradients():
        ours = norm(x)
    assert taken(ours) == ["_BatchNormBackward"]
    assert torch.equal(ours, plain)
    u = torch.randn_like(x)
    expected = torch.autograd.grad(plain, x, u)[0]
    assert relative_error(torch.autograd.grad(ours, x, u)[0], expected) < 1e-12


def test_the_norms_input_is_not_kept():
    norm = nn.BatchNorm3d(8).eval().requires_grad_(False)
    kept = (torch.randn(1, 8, 64, 65, 66, requires_grad=True) * 2).requires_grad_()
    with input_gradients():
        output = norm(kept)
    assert all(tensor.numel() == 8 for tensor in output.grad_fn.saved_tensors)
