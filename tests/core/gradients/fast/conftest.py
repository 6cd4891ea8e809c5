"""A network whose first layers have fast gradients, and its images."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from monai_ifim.core.gradients.fast import input_gradients as module


class Stem(nn.Module):
    """A network with all that is recorded, and in-place operations behind it."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv3d(1, 7, 5, padding=2)
        self.norm = nn.BatchNorm3d(7, eps=1e-3)
        self.head = nn.Linear(7, 3)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(self.norm.weight, 0.5, 2)
        self.eval().requires_grad_(False)

    def forward(self, x):
        x = F.relu(self.norm(F.relu(self.convolution(x), inplace=True)), inplace=True)
        return self.head(x.square().mean((2, 3, 4)))


@pytest.fixture
def small_norms(monkeypatch):
    """Batch norms are recorded from a size that suits a test."""
    monkeypatch.setattr(module, "_SMALLEST_NORM", 1 << 17)


@pytest.fixture
def network(small_norms):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Stem()


@pytest.fixture
def images():
    return torch.randn(2, 1, 21, 22, 23, generator=torch.Generator().manual_seed(4))
