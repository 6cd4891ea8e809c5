"""Everything that a caller could notice afterwards, and a network with much to disturb."""

import torch
from torch import nn


def bits(tensor):
    if tensor is None:
        return None
    with torch.inference_mode(False):
        flat = tensor.detach().clone().contiguous().flatten()
        return tensor.dtype, tuple(tensor.shape), bytes(flat.view(torch.uint8).tolist())


def hooks(thing):
    """How many hooks of each kind a module or tensor carries."""
    found = {k: getattr(thing, k) for k in dir(thing) if k.endswith("_hooks")}
    return {k: len(v) for k, v in found.items() if isinstance(v, dict)}


def snapshot(network, images):
    """Everything that a caller could notice afterwards."""
    modules = dict(network.named_modules())
    return {
        "parameters": {k: (id(p), bits(p)) for k, p in network.named_parameters()},
        "gradients": {k: (id(p.grad), bits(p.grad)) for k, p in network.named_parameters()},
        "requires_grad": {k: p.requires_grad for k, p in network.named_parameters()},
        "buffers": {k: (b.data_ptr(), bits(b)) for k, b in network.named_buffers()},
        "state": {k: bits(v) for k, v in network.state_dict().items()},
        "flags": {k: getattr(m, "training", None) for k, m in modules.items()},
        "module hooks": {k: hooks(m) for k, m in modules.items()},
        "parameter hooks": {k: hooks(p) for k, p in network.named_parameters()},
        "random state": bits(torch.get_rng_state()),
        "images": (bits(images), images.requires_grad, bits(images.grad), images.grad_fn),
        "image hooks": hooks(images),
        "autocast": (
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_cache_enabled(),
        ),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def assert_untouched(before, network, images):
    after = snapshot(network, images)
    changed = [key for key in before if before[key] != after[key]]
    assert not changed, f"changed: {changed}"


class Rich(nn.Module):
    """Batch norm, dropout, a frozen part, mixed training flags, gradients left from training."""

    def __init__(self, middle=None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.stem = nn.Conv2d(3, 4, 3, padding=1).double()
            self.norm = nn.BatchNorm2d(4).double()
            self.frozen_norm = nn.BatchNorm2d(4).double()
            self.drop = nn.Dropout(0.5)
            self.middle = middle or nn.Identity()
            self.head = nn.Linear(4 * 24, 3).double()
            for norm in (self.norm, self.frozen_norm):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
        self.train()
        self.frozen_norm.eval()
        self.stem.bias.requires_grad_(False)
        self.head.weight.grad = torch.full_like(self.head.weight, 0.5)

    def forward(self, x):
        y = torch.tanh(self.norm(self.stem(x)))
        y = self.frozen_norm(self.drop(y))
        return self.head(self.middle(y).flatten(1))


class CountsInPlace(nn.Module):
    """A buffer that changes in place, also in eval mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(2, dtype=torch.float64))

    def forward(self, x):
        self.calls.add_(1)
        return x + self.calls.mean()


class CountsByAssignment(CountsInPlace):
    def forward(self, x):
        self.calls = self.calls + 1
        return x + self.calls.mean()
