"""The caller's network, images and torch are, bit for bit, as they were; also after an error."""

import copy

import pytest
import torch
from torch import nn

import monai_ifim as mi
from _helpers.problems import smooth_images
from _helpers.untouched import (
    CountsByAssignment,
    CountsInPlace,
    Rich,
    assert_untouched,
    bits,
    snapshot,
)
from monai_ifim.core import at_rest


class Boom(RuntimeError):
    pass


class Fails(nn.Module):
    """Raises in forward."""

    def forward(self, x):
        raise Boom


class FailsBackward(nn.Module):
    """Raises in the backward pass number ``after`` + 1."""

    def __init__(self, after=0):
        super().__init__()
        self.after = after

    def forward(self, x):
        calls = []

        class Function(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, grad):
                calls.append(1)
                if len(calls) > self.after:
                    raise Boom
                return grad

        return Function.apply(x)


class CountsThroughData(CountsInPlace):
    """As running averages of codebooks are often written; no version counter sees it."""

    def forward(self, x):
        self.calls.data.add_(1)
        return x + self.calls.mean()


class CountsToNone(CountsInPlace):
    def forward(self, x):
        x = x + self.calls.mean()
        self.calls = None
        return x


class CachesInAnEmptyBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("table", None)

    def forward(self, x):
        if self.table is None:
            self.table = torch.arange(6, dtype=torch.float64)
        return x + self.table


class CachesABuffer(nn.Module):
    """A table that is formed at the first call, as position embeddings are."""

    def forward(self, x):
        if not hasattr(self, "table"):
            self.register_buffer("table", torch.arange(6, dtype=torch.float64))
        return x + self.table


class CachesAFleetingBuffer(nn.Module):
    def forward(self, x):
        self.register_buffer("table", torch.arange(6, dtype=torch.float64), persistent=False)
        return x + self.table


class CountsInNewData(CountsInPlace):
    """The same tensor in another storage, of another shape and type."""

    def forward(self, x):
        self.calls.data = self.calls.new_ones(3, dtype=torch.float32)
        return x + self.calls.mean()


class DeletesABuffer(CountsInPlace):
    def __init__(self):
        super().__init__()
        self.register_buffer("fleeting", torch.ones(1), persistent=False)
        self.register_buffer("last", torch.ones(1))

    def forward(self, x):
        del self.calls, self.fleeting
        self.calls = x.detach()  # an attribute now, no buffer
        return x


class SharesABuffer(CountsInPlace):
    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()
        self.inner.register_buffer("same", self.calls)


class WritesWhatOnlyBitsShow(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("zero", torch.zeros(2))
        self.register_buffer("yes", torch.zeros(2, dtype=torch.bool))
        self.register_buffer("complex", torch.zeros(2, dtype=torch.complex128))

    def forward(self, x):
        self.zero.data.neg_()
        self.yes.data[1] = True
        self.complex.data[1] = -1j
        return x


class ChangesTheEndOfMuch(nn.Module):
    """More than is compared at a time, in a layout that is not contiguous."""

    def __init__(self):
        super().__init__()
        self.register_buffer("large", torch.zeros(7, 9000).T)

    def forward(self, x):
        self.large.data[-1, -1] = 1
        return x


class Noisy(nn.Module):
    """Draws from the global generator in eval mode, too."""

    def forward(self, x):
        return x + torch.randn_like(x) + torch.nn.functional.dropout(x, 0.5, training=True)


QUIET = [nn.Identity, nn.BatchNorm2d, CountsInPlace, CountsByAssignment, CountsThroughData]
QUIET += [CountsToNone, CachesInAnEmptyBuffer, CachesABuffer, CachesAFleetingBuffer, Noisy]
QUIET += [CountsInNewData, DeletesABuffer, SharesABuffer, WritesWhatOnlyBitsShow]
QUIET += [ChangesTheEndOfMuch]


def make(middle):
    return Rich(nn.BatchNorm2d(4).double() if middle is nn.BatchNorm2d else middle())


@pytest.mark.parametrize("middle", QUIET)
@pytest.mark.parametrize("chunk", [None, 2])
def test_nothing_is_left_behind(middle, chunk):
    network = make(middle)
    images = smooth_images(2).requires_grad_()
    images.grad = torch.ones_like(images)
    before = snapshot(network, images)
    space = mi.eigenspace(network, images, vjp_chunk=chunk)
    assert_untouched(before, network, images)
    space.eigenvectors, space.split(images), space.sensitivity(), space.quadratic_form(images)
    assert_untouched(before, network, images)


def test_deleted_buffers_come_back_in_their_order():
    network = make(DeletesABuffer)
    buffers, saved = dict(network.named_buffers()), list(network.state_dict())
    with at_rest(network, torch.device("cpu")):
        network(smooth_images(2))
        assert "middle.calls" not in network.state_dict()
    assert [(k, id(b)) for k, b in network.named_buffers()] == [
        (k, id(b)) for k, b in buffers.items()
    ]
    assert list(network.state_dict()) == saved
    assert network.middle.calls is buffers["middle.calls"]


def test_only_what_changed_is_written():
    """A write counts as an edit in place, which spoils a graph that holds the buffer."""
    network = make(CountsInPlace)
    network.norm.running_mean[0] = torch.nan
    versions = {name: buffer._version for name, buffer in network.named_buffers()}
    with at_rest(network, torch.device("cpu")):
        network(smooth_images(2))
    found = {name: buffer._version for name, buffer in network.named_buffers()}
    assert {name for name in found if found[name] != versions[name]} == {"middle.calls"}


def everything_then_fails():
    return nn.Sequential(Noisy(), CountsInPlace(), CountsByAssignment(), FailsBackward())


@pytest.mark.parametrize(
    ("middle", "chunk"),
    [
        *((kind, chunk) for kind in (Fails, FailsBackward) for chunk in (None, 2, "auto")),
        (lambda: FailsBackward(after=1), None),
        (everything_then_fails, None),
        (everything_then_fails, "auto"),
    ],
)
def test_nothing_is_left_behind_after_an_error_of_the_network(middle, chunk):
    network = Rich(middle())
    images = smooth_images(2).requires_grad_()
    before = snapshot(network, images)
    with pytest.raises(Boom):
        mi.eigenspace(network, images, vjp_chunk=chunk)
    assert_untouched(before, network, images)


def test_nothing_is_left_behind_after_an_error_of_the_output_transform():
    def choose(output):
        raise Boom

    network, images = Rich(CountsInPlace()), smooth_images(2)
    before = snapshot(network, images)
    with pytest.raises(Boom):
        mi.eigenspace(network, images, output_transform=choose)
    assert_untouched(before, network, images)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 9},
        {"likelihood": "softmax"},
        {"output_transform": lambda y: y.detach()},
        {"output_transform": lambda y: (y, y)},
        {"output_transform": lambda y: y / 0},
    ],
)
def test_nothing_is_left_behind_after_a_refusal(wrong):
    network, images = Rich(CountsInPlace()), smooth_images(2)
    before = snapshot(network, images)
    with pytest.raises((ValueError, TypeError), match="expected"):
        mi.eigenspace(network, images, **wrong)
    assert_untouched(before, network, images)


def test_the_training_that_follows_is_the_same():
    """Two steps of SGD with dropout and batch norm, with and without a look in between."""

    def train(look):
        torch.manual_seed(4)
        network = Rich()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        for step in range(3):
            optimizer.zero_grad()
            network(smooth_images(2, seed=step)).square().sum().backward()
            if look:  # between backward and step, where gradients are at stake
                mi.eigenspace(network, smooth_images(2, seed=9))
            optimizer.step()
        return {k: bits(v) for k, v in network.state_dict().items()}

    with torch.random.fork_rng():
        assert train(look=True) == train(look=False)


# Eval mode inside ---------------------------------------------------------------------------


def test_batch_norm_and_dropout_are_in_eval_mode_also_in_a_training_network():
    network, images = Rich(), smooth_images(2)
    space = mi.eigenspace(network, images)
    resting = copy.deepcopy(network).eval()
    assert torch.equal(space.logits, resting(images).detach())
    assert torch.equal(space.eigenvalues, mi.eigenspace(resting, images).eigenvalues)
    # One image at a time: batch statistics would have mixed them.
    alone = mi.eigenspace(network, images[3:4])
    torch.testing.assert_close(alone.eigenvalues[0], space.eigenvalues[3], rtol=1e-10, atol=0)


def test_randomness_in_the_forward_is_repeatable_and_leaves_the_callers_random_state():
    network, images = Rich(Noisy()), smooth_images(2)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        first = mi.eigenspace(network, images).eigenvalues
        second = mi.eigenspace(network, images).eigenvalues
        after = torch.rand(3)
        torch.manual_seed(7)
        assert torch.equal(after, torch.rand(3))
    assert torch.equal(first, second)


def test_a_train_method_of_the_networks_own_cannot_spoil_the_flags():
    class KeepsNormFrozen(Rich):
        def train(self, mode=True):
            super().train(mode)
            self.frozen_norm.eval()
            return self

    class AlwaysInEvalMode(nn.Dropout):
        def train(self, mode=True):
            return super().train(False)

    network, images = KeepsNormFrozen(), smooth_images(2)
    network.drop.eval()
    network.middle = AlwaysInEvalMode()  # its flag is True until train() is called
    assert network.middle.training
    before = snapshot(network, images)
    mi.eigenspace(network, images)
    assert_untouched(before, network, images)


def test_a_network_in_eval_mode_is_not_switched_again():
    """Exported programs refuse ``eval()``, and on hundreds of modules it takes its time."""

    class Refuses(Rich):
        def train(self, mode=True):
            raise NotImplementedError

    network = Rich().eval()
    network.__class__ = Refuses  # whose own __init__ would call train()
    images = smooth_images(2)
    before = snapshot(network, images)
    mi.eigenspace(network, images)
    assert_untouched(before, network, images)


# The context manager itself -----------------------------------------------------------------


def test_eval_mode_and_frozen_parameters_inside_the_context():
    network, images = Rich(), smooth_images(2)
    before = snapshot(network, images)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        with at_rest(network, images.device):
            assert torch.is_grad_enabled()
            assert not torch.is_autocast_enabled("cpu")
            assert not any(module.training for module in network.modules())
            assert not any(p.requires_grad for p in network.parameters())
        with at_rest(network, images.device, autocast=True):
            assert torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")
        assert not torch.is_grad_enabled()
    assert_untouched(before, network, images)


def test_contexts_can_be_nested():
    network, images = Rich(CountsInPlace()), smooth_images(2)
    before = snapshot(network, images)
    with at_rest(network, images.device):
        inner = mi.eigenspace(network, images).eigenvalues
        assert torch.is_grad_enabled()
        assert not network.training
    assert_untouched(before, network, images)
    assert torch.equal(inner, mi.eigenspace(network, images).eigenvalues)
