"""How many passes are made, how many at a time, and what happens where they do not fit."""

import pytest
import torch
from torch import nn

import monai_ifim as mi
from _helpers.problems import smooth_images, smooth_network
from monai_ifim.core.gradients.vjp import vector_jacobian_products


def test_gradients_are_never_computed_for_parameters():
    """A parameter gradient costs as much as the input's; the graph must not ask for one."""
    asked = []

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(weight)
            return x @ weight

        @staticmethod
        def backward(ctx, grad):
            asked.append(ctx.needs_input_grad)
            return grad @ ctx.saved_tensors[0].T, None

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(72, 4, dtype=torch.float64))

        def forward(self, x):
            return Watch.apply(x.flatten(1), self.weight)

    network = Watched()
    mi.eigenspace(network, smooth_images(2), vjp_chunk=None)
    assert set(asked) == {(True, False)}
    asked.clear()  # the first call also asks whether images of a batch influence each other
    mi.eigenspace(network, smooth_images(2), vjp_chunk=None)
    assert asked == [(True, False)] * 3  # K - 1 backward passes, to the input alone


class Counted(nn.Module):
    """Counts its passes; a batch of backward passes is one call."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.calls = calls = {"forward": 0, "backward": 0}

        class Count(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                calls["forward"] += 1
                return x.clone()

            @staticmethod
            def backward(ctx, grad):
                calls["backward"] += 1
                return grad

        self.count = Count.apply

    def forward(self, x):
        return self.count(self.network(x))


@pytest.mark.parametrize(("family", "passes"), [("categorical", 3), ("bernoulli", 4)])
def test_one_forward_and_no_more_backward_passes_than_contrasts(family, passes):
    network = Counted(smooth_network(2, 4))
    # The first call also asks whether images of a batch influence each other.
    mi.eigenspace(network, smooth_images(2), likelihood=family, vjp_chunk=None)
    network.calls.update(forward=0, backward=0)
    mi.eigenspace(network, smooth_images(2), likelihood=family, vjp_chunk=None)
    assert network.calls == {"forward": 1, "backward": passes}


@pytest.mark.parametrize(
    ("shape", "calls"),
    [((1, 1, 8, 8), 2), ((4, 1, 64, 64), 5), ((1, 1, 16, 32, 32), 5), ((5, 1, 64, 64), 39)],
)
def test_small_images_have_their_backward_passes_in_batches(shape, calls):
    """64 contrasts at most 32 at a time; 39 of 2^14 values, eight at a time; beyond, a loop."""
    classes = 65 if shape[2] == 8 else 40
    body = nn.Sequential(nn.Flatten(2), nn.AdaptiveAvgPool1d(8), nn.Flatten())
    network = Counted(nn.Sequential(body, nn.Tanh(), nn.Linear(8, classes)))
    images = torch.randn(shape)
    with mi.core.at_rest(network, images.device):
        forward = mi.core.run_forward(network, images)
        cotangents = torch.eye(classes)[1:, None].expand(-1, shape[0], -1)
        found = vector_jacobian_products(forward, cotangents, chunk="auto")
        assert network.calls["backward"] == calls
        loop = vector_jacobian_products(forward, cotangents)
    torch.testing.assert_close(found, loop)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_batched_backward_passes_through_convolutions(dims):
    network, images = smooth_network(dims, 6), smooth_images(dims)
    loop = mi.eigenspace(network, images, vjp_chunk=None)
    chunked = mi.eigenspace(network, images, vjp_chunk=3)
    assert (chunked.gradients - loop.gradients).abs().max() <= 1e-14


class Refuses(torch.autograd.Function):
    """Looks at a value in its backward pass, which a batch does not have."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * 2 if grad.sum().item() > 0 else grad * 3 - grad


def test_auto_goes_on_one_by_one_where_a_network_refuses_batches():
    class Layer(nn.Module):
        def forward(self, x):
            return Refuses.apply(x)

    images = smooth_images(2)
    network = nn.Sequential(smooth_network(2, 4), Layer())
    loop = mi.eigenspace(network, images, vjp_chunk=None)
    assert torch.equal(mi.eigenspace(network, images).gradients, loop.gradients)
    with pytest.raises(RuntimeError, match="vmap"):
        mi.eigenspace(network, images, vjp_chunk=2)


class Greedy(torch.autograd.Function):
    """Runs out of memory when more than two backward passes are batched."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        if Greedy.batch(gradient) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return gradient * 2

    @staticmethod
    def batch(gradient):
        functorch = torch._C._functorch
        if not functorch.is_batchedtensor(gradient):
            return 1
        return functorch.get_unwrapped(gradient).shape[functorch.maybe_get_bdim(gradient)]


class GreedyLayer(torch.nn.Module):
    def forward(self, x):
        return Greedy.apply(x)


def test_a_batch_of_passes_that_does_not_fit_is_halved(caplog):
    network = torch.nn.Sequential(smooth_network(2, 7), GreedyLayer())
    images = smooth_images(2)
    space = mi.eigenspace(network, images, vjp_chunk=6)
    plain = mi.eigenspace(network, images, vjp_chunk=None)
    torch.testing.assert_close(space.eigenvalues, plain.eigenvalues, rtol=1e-10, atol=0)
    sizes = [record.getMessage() for record in caplog.records]
    assert sizes == ["out of memory: vjp_chunk is now 3", "out of memory: vjp_chunk is now 1"]


def test_running_out_of_memory_in_a_single_pass_is_the_callers_to_know(monkeypatch):
    monkeypatch.setattr(Greedy, "batch", lambda gradient: 9)
    network = torch.nn.Sequential(smooth_network(2, 7), GreedyLayer())
    with pytest.raises(torch.OutOfMemoryError):
        mi.eigenspace(network, smooth_images(2), vjp_chunk=4)


def test_offload_changes_nothing_on_a_cpu():
    network, images = smooth_network(2, 4), smooth_images(2)
    plain = mi.eigenspace(network, images)
    other = mi.eigenspace(network, images, offload=True)
    assert torch.equal(plain.gradients, other.gradients)
