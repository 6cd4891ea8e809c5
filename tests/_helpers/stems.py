"""First convolutions of a size that has a gradient of our own."""

import torch
import torch.nn.functional as F

CONVOLUTIONS = {2: F.conv2d, 3: F.conv3d}

# Input, weights, stride, padding: each is one that the rule takes.
STEMS = {
    "plane": ((2, 1, 67, 73), (11, 1, 7, 5), (1, 1), (3, 2)),
    "strided plane": ((3, 3, 95, 103), (11, 3, 7, 5), (2, 1), (2, 0)),
    "volume": ((2, 1, 17, 19, 23), (11, 1, 7, 5, 3), (1, 1, 1), (3, 2, 0)),
    "strided volume": ((2, 2, 43, 37, 41), (5, 2, 7, 5, 3), (2, 2, 1), (3, 2, 1)),
    "single volume": ((1, 19, 13, 11, 9), (17, 19, 3, 3, 3), (1, 1, 1), (1, 1, 1)),
}


def stem(name, seed=0):
    """Arguments of a convolution, and the convolution."""
    size, kernel, stride, padding = STEMS[name]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, generator=generator, requires_grad=True)
    weight = torch.randn(kernel, generator=generator)
    bias = torch.randn(kernel[0], generator=generator)
    return x, weight, bias, stride, padding, CONVOLUTIONS[len(stride)]


def jacobian(logits, leaf):
    """Gradients of all logits (B, K) to the images, (K, B, C, *S)."""
    rows = [torch.autograd.grad(z.sum(), leaf, retain_graph=True)[0] for z in logits.unbind(1)]
    return torch.stack(rows)
