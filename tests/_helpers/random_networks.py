"""Random small classifiers of the usual building blocks, their images, and errors of a result."""

import torch
from hypothesis import strategies as st
from torch import nn
from torch.func import jacrev

from _helpers import oracle
from _helpers.problems import CONVOLUTIONS

CHANNELS, LENGTH = 4, 5
NORMS = ("group", "instance", "batch", "layer")
BLOCKS = (*NORMS, "attention", "residual", "in place", "convolution")


class Residual(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return x + self.body(x)


class Attention(nn.Module):
    """Between the places of an image."""

    def __init__(self):
        super().__init__()
        self.layer = nn.MultiheadAttention(CHANNELS, 2, batch_first=True)

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        return self.layer(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2).view_as(x)


def block(name, dims):
    """One of ``BLOCKS`` that keeps the shape (B, 4, *S)."""
    convolution = CONVOLUTIONS[dims](CHANNELS, CHANNELS, 3, padding=1)
    if name == "attention":
        return Attention()
    if name == "residual":
        return Residual(nn.Sequential(convolution, nn.Tanh()))
    if name == "in place":
        return nn.Sequential(convolution, nn.ELU(inplace=True))
    if name == "convolution":
        return nn.Sequential(convolution, nn.Softplus())
    return {
        "group": lambda: nn.GroupNorm(2, CHANNELS),
        "instance": lambda: getattr(nn, f"InstanceNorm{dims}d")(CHANNELS, affine=True),
        "batch": lambda: getattr(nn, f"BatchNorm{dims}d")(CHANNELS),
        "layer": lambda: nn.LayerNorm([LENGTH] * dims),
    }[name]()


def network_of(dims, blocks, outputs, gain, seed):
    """A float64 network in eval mode; ``gain`` spreads the logits."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        body = [CONVOLUTIONS[dims](2, CHANNELS, 3, padding=1), nn.Tanh()]
        body += [block(name, dims) for name in blocks]
        head = nn.Linear(CHANNELS * LENGTH**dims, outputs)
        with torch.no_grad():
            head.weight.mul_(gain)
        return nn.Sequential(*body, nn.Flatten(), head).double().eval()


@st.composite
def problems(draw):
    """Network, images (B, 2, *S) from 1e-6 to 1e6, family, and a word for what it is."""
    dims, family = draw(st.integers(1, 3)), draw(st.sampled_from(list(oracle.FAMILIES)))
    outputs = draw(st.integers(2 if family == "categorical" else 1, 5))
    blocks = draw(st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=3))
    gain, power = draw(st.sampled_from([0.1, 1.0, 10.0])), draw(st.integers(-6, 6))
    seed = draw(st.integers(0, 2**31))
    network = network_of(dims, blocks, outputs, gain, seed)
    dice = torch.Generator().manual_seed(seed)
    shape = (draw(st.integers(1, 3)), 2, *[LENGTH] * dims)
    # The first layer takes images of any size back to its own; its gradient is that much steeper.
    with torch.no_grad():
        network[0].weight.mul_(10.0**-power)
    images = 10.0**power * torch.randn(shape, generator=dice, dtype=torch.float64)
    return network, images, family


class NormByDefinition(nn.Module):
    """A batch or instance norm of which torch differentiates every operation alone."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        norm, axes = self.norm, tuple(range(2, x.ndim))
        each = (1, -1) + (1,) * len(axes)
        if norm.track_running_stats:
            mean, variance = norm.running_mean.view(each), norm.running_var.view(each)
        else:
            mean = x.mean(axes, keepdim=True)
            variance = (x - mean).square().mean(axes, keepdim=True)
        scaled = (x - mean) / (variance + norm.eps).sqrt()
        return scaled * norm.weight.view(each) + norm.bias.view(each)


def by_definition(network):
    """The same network without torch's norms, whose gradients are wrong beside maps of tokens."""
    parts = [
        NormByDefinition(part) if isinstance(part, nn.modules.batchnorm._NormBase) else part
        for part in network
    ]
    return nn.Sequential(*parts)


def jacobian(network, image):
    """(K, N) row by row: attention has no batched backward pass."""
    x = image[None].clone().requires_grad_()
    logits = by_definition(network)(x)[0]
    rows = [torch.autograd.grad(z, x, retain_graph=True)[0].flatten() for z in logits]
    return torch.stack(rows), logits.detach()


def dense_fisher(network, image, family):
    """(N, N) of one image, by sums of terms of one sign, which keep their digits."""
    rows, logits = jacobian(network, image)
    if family == "categorical":
        return oracle.saturated_fisher(rows, logits)
    log_probabilities = oracle.FAMILIES[family]
    scores = jacrev(log_probabilities)(logits) @ rows
    root = torch.exp(log_probabilities(logits) / 2)[:, None] * scores
    return root.T @ root


def errors(space, network, images, family):
    """Largest errors of eigenvalues and of V diag(λ) Vᵀ against the dense F, relative to F."""
    values = matrices = 0.0
    for b, image in enumerate(images):
        dense = dense_fisher(network, image, family)
        size = torch.linalg.matrix_norm(dense, 2)
        expected = oracle.eigh(dense[None])[0][0, : space.eigenvalues.shape[1]]
        vectors = space.eigenvectors[b].flatten(1)
        ours = vectors.T @ (space.eigenvalues[b, :, None] * vectors)
        values = max(values, float((space.eigenvalues[b] - expected).abs().max() / size))
        matrices = max(matrices, float(torch.linalg.matrix_norm(ours - dense, 2) / size))
    return {"eigenvalues": values, "matrix": matrices}
