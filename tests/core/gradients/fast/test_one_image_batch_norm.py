"""Batch norm of one image whose channels lie last: torch's own gradient on the CPU is wrong."""

import pytest
import torch
from torch import nn

import monai_ifim as mi
from monai_ifim.core.gradients.fast.input_gradients import input_gradients


class TokensToMap(nn.Module):
    """As hybrids of transformer and convolutions do: channels of a map from those of tokens."""

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2).contiguous()
        return tokens.transpose(1, 2).view_as(x)


def network(dims, pooled, dtype, outputs=3):
    torch.manual_seed(0)
    norm = (nn.BatchNorm2d, nn.BatchNorm3d)[dims - 2](4).eval()
    nn.init.uniform_(norm.running_var, 0.5, 2)
    nn.init.normal_(norm.running_mean)
    pool = nn.Sequential((nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 2](1), nn.Flatten())
    last = nn.Linear(4, outputs) if pooled else nn.Linear(4 * 5**dims, outputs)
    head = (pool if pooled else nn.Flatten(), last)
    first = (nn.Conv2d, nn.Conv3d)[dims - 2](1, 4, 3, padding=1)
    return nn.Sequential(first, nn.Tanh(), TokensToMap(), norm, *head).to(dtype).eval()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("outputs", [2, 3])  # one pass alone, or two in one
@pytest.mark.parametrize("dims", [2, 3])
def test_one_image_has_the_eigenvalues_that_it_has_in_a_batch(dims, outputs, pooled, dtype):
    model = network(dims, pooled, dtype, outputs)
    image = torch.randn(1, 1, *[5] * dims, dtype=dtype)
    alone = mi.eigenspace(model, image)
    batch = mi.eigenspace(model, torch.cat([image, image]))
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    assert (alone.eigenvalues - batch.eigenvalues[:1]).abs().max() <= tolerance * alone.trace.max()


@pytest.mark.parametrize("dims", [2, 3])
def test_the_gradient_is_that_of_differences(dims):
    model = network(dims, pooled=True, dtype=torch.float64).requires_grad_(False)
    image = torch.randn(1, 1, *[5] * dims, dtype=torch.float64)
    leaf = image.clone().requires_grad_()
    with input_gradients(leaf):
        output = model(leaf)[0, 0]
    (gradient,) = torch.autograd.grad(output, leaf)
    assert torch.equal(output.detach(), model(image)[0, 0])
    steps = 1e-5 * torch.eye(image.numel(), dtype=torch.float64).view(-1, *image.shape)
    differences = torch.stack([(model(image + s) - model(image - s))[0, 0] for s in steps]) / 2e-5
    error = (gradient.flatten() - differences).abs().max()
    assert error <= 1e-8 * differences.abs().max()
