"""Norms beside maps of tokens: torch's own gradient is wrong on the CPU."""

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

import monai_ifim as mi
from monai_ifim.core.gradients.fast.input_gradients import input_gradients

BATCH, INSTANCE = (nn.BatchNorm2d, nn.BatchNorm3d), (nn.InstanceNorm2d, nn.InstanceNorm3d)


class TokensToMap(nn.Module):
    """As hybrids of transformer and convolutions do: channels of a map from those of tokens."""

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2).contiguous()
        return tokens.transpose(1, 2).view_as(x)


class Attention(nn.Module):
    """Between the places of a map."""

    def __init__(self):
        super().__init__()
        self.layer = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return self.layer(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).view_as(x)


def network(norms, dims, attention_last, outputs, dtype=torch.float64):
    torch.manual_seed(0)
    norm = norms[dims - 2](4, affine=True).eval()
    if norm.track_running_stats:
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.normal_(norm.running_mean)
    middle = [norm, Attention()] if attention_last else [TokensToMap(), norm]
    first = (nn.Conv2d, nn.Conv3d)[dims - 2](1, 4, 3, padding=1)
    last = nn.Linear(4 * 4**dims, outputs)
    return nn.Sequential(first, nn.Tanh(), *middle, nn.Flatten(), last).to(dtype).eval()


def differences(model, images, weights):
    steps = 1e-5 * torch.eye(images.numel(), dtype=images.dtype).view(-1, *images.shape)
    with torch.no_grad():
        each = [((model(images + s) - model(images - s)) * weights).sum() / 2e-5 for s in steps]
    return torch.stack(each)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("attention_last", [False, True])
@pytest.mark.parametrize("norms", [BATCH, INSTANCE])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_gradient_is_that_of_differences(dims, norms, attention_last, count):
    model = network(norms, dims, attention_last, 2).requires_grad_(False)
    images = torch.randn(count, 1, *[4] * dims, dtype=torch.float64)
    weights = torch.randn(count, 2, dtype=torch.float64)
    leaf = images.clone().requires_grad_()
    with input_gradients(leaf):
        output = model(leaf)
    (gradient,) = torch.autograd.grad((output * weights).sum(), leaf)
    torch.testing.assert_close(output.detach(), model(images), rtol=1e-12, atol=1e-12)
    expected = differences(model, images, weights)
    assert (gradient.flatten() - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("outputs", [2, 3])  # one pass alone, or two in one
@pytest.mark.parametrize("norms", [BATCH, INSTANCE])
def test_eigenvalues_of_one_image_and_of_a_batch(norms, outputs, dtype):
    model = network(norms, 2, False, outputs, dtype)
    image = torch.randn(1, 1, 4, 4, dtype=dtype)
    rows = [
        differences(model.double(), image.double(), torch.eye(outputs, dtype=torch.float64)[k])
        for k in range(outputs)
    ]
    probabilities = model(image.double())[0].softmax(0).detach()
    weights = probabilities.diag() - probabilities.outer(probabilities)
    expected = torch.linalg.eigvalsh(torch.stack(rows).T @ weights @ torch.stack(rows))
    expected = expected.flip(0)[: outputs - 1].to(dtype)
    tolerance = (1e-7 if dtype == torch.float64 else 1e-4) * expected.sum()
    for images in (image, torch.cat([image, image])):
        space = mi.eigenspace(model.to(dtype), images)
        assert (space.eigenvalues - expected).abs().max() <= tolerance


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("norms", [BATCH, INSTANCE])
def test_the_output_may_be_edited_in_place(norms, count, frozen):
    model = network(norms, 2, True, 2)
    model.insert(3, nn.ReLU(inplace=True))
    model.requires_grad_(not frozen)
    images = torch.randn(count, 1, 4, 4, dtype=torch.float64)
    leaf = images.clone().requires_grad_()
    with input_gradients(leaf):
        output = model(leaf)
    (gradient,) = torch.autograd.grad(output[:, 0].sum(), leaf)
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64).expand(count, 2)
    expected = differences(model, images, weights)
    assert (gradient.flatten() - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("norms", [BATCH, INSTANCE])
def test_a_norm_in_a_part_without_gradients(norms, count):
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = norms[0](1).eval(), nn.Linear(16, 2)

        def forward(self, x):
            with torch.no_grad():
                weights = self.norm(x)
            return self.head((x * weights).flatten(1))

    model = Weighted().double().requires_grad_(False)
    images = torch.randn(count, 1, 4, 4, dtype=torch.float64)
    leaf = images.clone().requires_grad_()
    with input_gradients(leaf):
        output = model(leaf)
    (gradient,) = torch.autograd.grad(output[:, 0].sum(), leaf)
    expected = model.head.weight[0].view(1, 1, 4, 4) * model.norm(images)
    torch.testing.assert_close(gradient, expected)
    assert mi.eigenspace(model, images).trace.shape == (count,)


def test_metadata_and_the_callers_tensors_stay():
    model = network(INSTANCE, 2, True, 2, torch.float32).requires_grad_(False)
    images = MetaTensor(torch.randn(1, 1, 4, 4), meta={"who": "me"})
    with input_gradients(images):
        found, expected = model[:3](images.clone().requires_grad_()), model[:3](images)
    assert type(found) is type(expected) is MetaTensor
    assert found.meta["who"] == expected.meta["who"] == "me"
    assert not images.requires_grad
