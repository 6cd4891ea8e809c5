"""Networks that classify the scans of ``scans.py``."""

import torch
from torch import nn


def smooth_network(dims=3, classes=4, channels=1, seed=0):
    """A small classifier without kinks, so that four ways of rounding agree."""
    conv, pool = (
        (nn.Conv2d, nn.AdaptiveAvgPool2d) if dims == 2 else (nn.Conv3d, nn.AdaptiveAvgPool3d)
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(
            conv(channels, 4, 3),
            nn.Tanh(),
            conv(4, 5, 3, stride=2),
            nn.Softplus(),
            pool(2),
            nn.Flatten(),
            nn.Linear(5 * 2**dims, 7),
            nn.Tanh(),
            nn.Linear(7, classes),
        )


class Returning(nn.Module):
    """A classifier whose forward gives the logits in some packing."""

    def __init__(self, pack, **options):
        super().__init__()
        self.body, self.pack = smooth_network(3, **options), pack

    def forward(self, x, *args, **kwargs):
        return self.pack(self.body(x), *args, **kwargs)
