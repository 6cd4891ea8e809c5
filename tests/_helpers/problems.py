"""Small networks and random images for tests of the numbers, in float64 on plain tensors."""

import torch
from torch import nn


class Affine(nn.Module):
    """Logits W x + b: its Jacobian is W for every image."""

    def __init__(self, weight, bias=None):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(weight.new_zeros(len(weight)) if bias is None else bias)

    def forward(self, x):
        return x.flatten(1) @ self.weight.T + self.bias


# Batch, channels and spatial axes are pairwise distinct in each, so that no transpose hides.
SHAPES = {1: (5, 3, 8), 2: (5, 3, 4, 6), 3: (5, 3, 4, 6, 7)}
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def smooth_network(dims, outputs, *, seed=0, dtype=torch.float64):
    """Convolution, two smooth nonlinearities, two linear layers: no kink anywhere."""
    channels, spatial = SHAPES[dims][1], SHAPES[dims][2:]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            CONVOLUTIONS[dims](channels, 2, 3, padding=1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(2 * torch.Size(spatial).numel(), 16),
            nn.Softplus(),
            nn.Linear(16, outputs),
        )
        with torch.no_grad():
            network[-1].weight.mul_(3)
    return network.to(dtype).eval()


def smooth_images(dims, *, seed=1, dtype=torch.float64):
    """Random images (B, C, *S) of ``SHAPES``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPES[dims], generator=generator, dtype=torch.float64).to(dtype)
