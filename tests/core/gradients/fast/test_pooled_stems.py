"""Batch norm, ReLU and max pooling as one node."""

import pytest
import torch
from torch import nn

from _helpers.comparisons import relative_error
from _helpers.graphs import names
from monai_ifim.core.gradients.fast.input_gradients import input_gradients


class Pooled(nn.Module):
    """Convolution, norm, ReLU and pooling, and a user of what lies between."""

    def __init__(self, axes, inplace, skip):
        super().__init__()
        convolution, norm, pool = (
            (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d),
            (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d),
        )[axes - 2]
        self.convolution = convolution(1, 6, 3, padding=1)
        self.norm = norm(6)
        self.relu = nn.ReLU(inplace=inplace)
        self.pool = pool(3, stride=2, padding=1)
        self.skip = skip
        with torch.no_grad():
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)
            self.norm.weight.normal_()

    def forward(self, x):
        middle = self.relu(self.norm(self.convolution(x)))
        pooled = self.pool(middle)
        return pooled.flatten(1).sum(1) + (middle * middle).flatten(1).sum(1) * self.skip


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("skip", [0.0, 0.3])
def test_norm_relu_and_pooling_are_one_node(axes, inplace, skip):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = Pooled(axes, inplace, skip).double().eval().requires_grad_(False)
        x = torch.randn(3, 1, *(9, 12, 7)[:axes], dtype=torch.float64, requires_grad=True)
    plain = network(x)
    with input_gradients():
        ours = network(x)
    assert "_PooledStemBackward" in names(ours)
    assert torch.equal(ours, plain)
    cotangents = torch.randn(4, 3, dtype=torch.float64)
    for cotangent in cotangents:
        expected, gradient = (
            torch.autograd.grad(y, x, cotangent, retain_graph=True)[0] for y in (plain, ours)
        )
        assert relative_error(gradient, expected) < 1e-12
    batched = torch.func.vmap(lambda u: torch.autograd.grad(ours, x, u, retain_graph=True)[0])
    assert relative_error(batched(cotangents)[-1], expected) < 1e-12
    products = []
    for output in (plain, ours):  # the backward pass once more: J d
        cotangent = torch.zeros_like(output, requires_grad=True)
        (first,) = torch.autograd.grad(output, x, cotangent, create_graph=True)
        products.append(torch.autograd.grad(first, cotangent, x.detach())[0])
    assert relative_error(products[1], products[0]) < 1e-12
    with input_gradients():
        forward = torch.func.jvp(network, (x.detach(),), (x.detach(),))[1]
    assert relative_error(forward, products[0]) < 1e-12


@pytest.mark.parametrize(
    "between",
    [
        lambda y: nn.functional.relu(y) * 1.5,
        lambda y: nn.functional.relu(y.add_(0.5)),
        lambda y: nn.functional.gelu(y),
        lambda y: watched(nn.functional.relu(y)),
        lambda y: y,
    ],
)
def test_a_pooling_of_something_else_runs_as_it_would(between):
    norm = nn.BatchNorm2d(2).eval().requires_grad_(False)
    x = torch.randn(2, 2, 8, 6, requires_grad=True)

    def network(x):
        return nn.functional.max_pool2d(between(norm(x)), 2)

    plain = network(x)
    with input_gradients():
        ours = network(x)
    assert "_PooledStemBackward" not in names(ours)
    assert torch.equal(ours, plain)
    expected, gradient = (torch.autograd.grad(y.sum(), x)[0] for y in (plain, ours))
    assert torch.equal(gradient, expected)


def watched(y):
    """A hook on a tensor sees, and may change, what flows through it."""
    y.register_hook(lambda gradient: 2 * gradient)
    return y


def test_a_path_that_was_cut_stays_cut():
    norm = nn.BatchNorm2d(2).eval().requires_grad_(False)
    x = torch.randn(2, 2, 8, 6, requires_grad=True)
    with input_gradients():
        y = norm(x)
        with torch.no_grad():
            cut = nn.functional.relu(y)
        output = nn.functional.max_pool2d(cut, 2) + nn.functional.max_pool2d(y, 2)
    assert "_PooledStemBackward" not in names(output)
