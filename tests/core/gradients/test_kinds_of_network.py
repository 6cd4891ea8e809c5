"""The eigenspace of a network is that of the same function by plain means."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import monai_ifim as mi
from _helpers import oracle
from _helpers.problems import smooth_images, smooth_network

SCRIPT = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Head(nn.Module):
    """Two layers around something special; ``plain`` computes the same without it."""

    def __init__(self, outputs=4):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.first = nn.Linear(72, 10).double()
            self.last = nn.Linear(10, outputs).double()

    def middle(self, x):
        return torch.tanh(x)

    def plain(self, x):
        return torch.tanh(x)

    def forward(self, x):
        return self.last(self.middle(self.first(x.flatten(1))))


class InPlace(Head):
    """Activations that write over their input."""

    def middle(self, x):
        x *= 2
        x.add_(0.1)
        return functional.elu_(1.5 * x.tanh_())

    def plain(self, x):
        return functional.elu(1.5 * torch.tanh(2 * x + 0.1))


class EditsInput(Head):
    """Normalises the tensor that it was given."""

    def forward(self, x):
        x -= 0.25
        x.mul_(2)
        return super().forward(x)

    plain_input = staticmethod(lambda x: 2 * (x - 0.25))


class NonReentrant(Head):
    def middle(self, x):
        return checkpoint(super().middle, x, use_reentrant=False)


class Reentrant(Head):
    def middle(self, x):
        return checkpoint(super().middle, x, use_reentrant=True)


class Attention(Head):
    """Fused attention over tokens: it has no forward-mode derivative."""

    def middle(self, x):
        t = x.view(len(x), 1, 5, 2)
        return functional.scaled_dot_product_attention(t, t, t).flatten(1)

    def plain(self, x):
        t = x.view(len(x), 5, 2)
        weights = torch.softmax(t @ t.transpose(1, 2) / 2**0.5, dim=2)
        return (weights @ t).flatten(1)


class Branch(Head):
    """A branch on a value, and statistics under no_grad beside the path of the gradient."""

    def middle(self, x):
        with torch.no_grad():
            self.seen = x.mean().item()
        return torch.tanh(x) if self.seen < 1e9 else x


class DetachedScale(Head):
    """A factor that the author keeps out of the gradient: the answer must keep it out, too."""

    def middle(self, x):
        with torch.no_grad():
            scale = 1 + x.square().mean(dim=1, keepdim=True)
        return x / scale


class OldTanh(torch.autograd.Function):
    """Forward and context in one, as functorch refuses it."""

    @staticmethod
    def forward(ctx, x):
        y = torch.tanh(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return grad * (1 - y * y)


class Custom(Head):
    def middle(self, x):
        return OldTanh.apply(x)


def same_function(network):
    """A Head that computes the same by plain means, for the dense matrix."""
    reference = Head()
    reference.load_state_dict(network.state_dict())
    reference.middle = network.plain
    if hasattr(network, "plain_input"):
        inner = reference.forward
        reference.forward = lambda x: inner(network.plain_input(x))
    return reference


@pytest.mark.parametrize(
    "kind", [InPlace, EditsInput, NonReentrant, Reentrant, Attention, Branch, Custom]
)
@pytest.mark.parametrize("frozen", [False, True])
def test_any_kind_of_network(kind, frozen):
    network, images = kind().requires_grad_(not frozen), smooth_images(2)
    before = images.clone()
    space = mi.eigenspace(network, images)
    values, vectors = oracle.eigh(oracle.fisher(same_function(network), images, "categorical"))
    assert torch.equal(images, before)
    assert ((space.eigenvalues - values[:, :3]).abs() <= 1e-10 * values[:, :1]).all()
    for v, theirs in zip(space.eigenvectors.flatten(2), vectors, strict=True):
        assert (v.T @ v - oracle.projector(theirs, 3)).abs().max() <= 1e-8


def test_what_the_author_detached_stays_detached():
    network, images = DetachedScale(), smooth_images(2)
    space = mi.eigenspace(network, images)
    h = network.first(images.flatten(1)).detach()
    scale = 1 + h.square().mean(dim=1)
    p = network(images).detach().softmax(dim=1)
    for row in range(len(images)):
        j = network.last.weight @ network.first.weight / scale[row]
        dense = j.T @ (torch.diag(p[row]) - torch.outer(p[row], p[row])) @ j
        values = torch.linalg.eigvalsh(dense.detach()).flip(0)[:3]
        assert ((space.eigenvalues[row] - values).abs() <= 1e-10 * values[0]).all()


@pytest.mark.parametrize("kind", [Head, InPlace, EditsInput, NonReentrant, Branch, Attention])
@pytest.mark.parametrize("chunk", [1, 2, 3, 50, "auto"])
def test_batched_backward_passes_agree_with_the_loop(kind, chunk):
    network, images = kind(outputs=8), smooth_images(2)  # 7 contrasts: no chunk divides them
    loop = mi.eigenspace(network, images, vjp_chunk=None)
    chunked = mi.eigenspace(network, images, vjp_chunk=chunk)
    assert (chunked.gradients - loop.gradients).abs().max() <= 1e-14
    torch.testing.assert_close(chunked.eigenvalues, loop.eigenvalues, rtol=1e-9, atol=0)


@pytest.mark.parametrize("frozen", ["none", "all", "some"])
def test_frozen_or_trainable_parameters_give_the_same_numbers(frozen):
    network, images = smooth_network(2, 4), smooth_images(2)
    expected = mi.eigenspace(network, images)
    for number, parameter in enumerate(network.parameters()):
        parameter.requires_grad_(frozen == "none" or (frozen == "some" and number % 2 == 0))
    space = mi.eigenspace(network, images)
    assert torch.equal(space.gradients, expected.gradients)
    assert torch.equal(space.eigenvalues, expected.eigenvalues)


def jit(network, images, how):
    if how == "trace":
        return torch.jit.trace(network, images)
    scripted = torch.jit.script(network)
    return torch.jit.freeze(scripted) if how == "freeze" else scripted


@SCRIPT
@pytest.mark.parametrize(
    ("how", "training"),
    [("script", False), ("script", True), ("trace", False), ("trace", True), ("freeze", False)],
)
def test_torchscript(how, training):
    network, images = smooth_network(2, 4), smooth_images(2)
    module = jit(network, images, how)
    if how != "freeze":
        module.train(training)
    expected = mi.eigenspace(network, images)
    for _ in range(3):  # the profiling executor rewrites the graph after its first runs
        space = mi.eigenspace(module, images)
        torch.testing.assert_close(space.eigenvalues, expected.eigenvalues, rtol=1e-9, atol=0)
        assert how == "freeze" or module.training == training
    chunked = mi.eigenspace(module, images, vjp_chunk=2)
    torch.testing.assert_close(chunked.eigenvalues, expected.eigenvalues, rtol=1e-9, atol=0)
