"""A network of an image, a signal, clinical numbers and a stage, smooth and in float64."""

import torch
from torch import nn

SIZES = {"mr": (1, 4, 5), "ct": (2, 3), "clinical": (5,)}  # of one patient


class Fusion(nn.Module):
    """Branches that are multiplied, so that the gradient of one input depends on all others."""

    def __init__(self, outputs=3, *, seed=0, edits=False):
        super().__init__()
        self.edits = edits
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.branches = nn.ModuleDict(
                {n: nn.Linear(torch.Size(s).numel(), 8) for n, s in SIZES.items()}
            )
            self.stage = nn.Embedding(4, 8)
            self.norm = nn.BatchNorm1d(8)
            self.head = nn.Linear(8, outputs)
        self.double().eval()

    def forward(self, mr, ct, clinical, stage=None, *, use=True):
        given = {"mr": mr, "ct": ct, "clinical": clinical}
        y = 1
        for name, value in given.items():
            y = y * (1.5 + torch.tanh(self.branches[name](value.flatten(1))))
        if stage is not None and use:
            y = y + self.stage(stage)
        if self.edits:
            for value in given.values():
                value.mul_(0)
        return self.head(torch.tanh(self.norm(y)))


def fusion_inputs(batch=3, *, seed=1):
    """For ``Fusion``: by name, in float64, and whole numbers for the stage."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        name: torch.randn(batch, *shape, generator=generator, dtype=torch.float64)
        for name, shape in SIZES.items()
    }
    inputs["stage"] = torch.randint(0, 4, (batch,), generator=generator)
    return inputs
