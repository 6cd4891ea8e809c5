"""Whatever a network is made of, its eigenspace is that of the same function."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import monai_ifim as mi
from _helpers import oracle
from _helpers.problems import smooth_images, smooth_network
from monai_ifim.core.gradients.vjp import vector_jacobian_products

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


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_batched_backward_passes_through_convolutions(dims):
    network, images = smooth_network(dims, 6), smooth_images(dims)
    loop = mi.eigenspace(network, images, vjp_chunk=None)
    chunked = mi.eigenspace(network, images, vjp_chunk=3)
    assert (chunked.gradients - loop.gradients).abs().max() <= 1e-14


@pytest.mark.parametrize("frozen", ["none", "all", "some"])
def test_frozen_or_trainable_parameters_give_the_same_numbers(frozen):
    network, images = smooth_network(2, 4), smooth_images(2)
    expected = mi.eigenspace(network, images)
    for number, parameter in enumerate(network.parameters()):
        parameter.requires_grad_(frozen == "none" or (frozen == "some" and number % 2 == 0))
    space = mi.eigenspace(network, images)
    assert torch.equal(space.gradients, expected.gradients)
    assert torch.equal(space.eigenvalues, expected.eigenvalues)


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

    mi.eigenspace(Watched(), smooth_images(2), vjp_chunk=None)
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
    network = Counted(Head())
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


# TorchScript --------------------------------------------------------------------------------


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


# MONAI's vision transformer -----------------------------------------------------------------


@pytest.fixture(scope="module")
def vit():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from monai.networks.nets import ViT

        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = ViT(
                in_channels=1,
                img_size=(8, 12),
                patch_size=(4, 4),
                hidden_size=12,
                mlp_dim=20,
                num_layers=2,
                num_heads=3,
                classification=True,
                num_classes=4,
                post_activation="none",
                spatial_dims=2,
            )
    return network.double()


@pytest.fixture(scope="module")
def scans():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 1, 8, 12, generator=generator, dtype=torch.float64)


def test_vit_returns_a_tuple_and_the_error_says_what_to_do(vit, scans):
    with pytest.raises(TypeError, match=r"expected .*one tensor.*got tuple.*output_transform"):
        mi.eigenspace(vit, scans)


@pytest.mark.parametrize("chunk", [None, 2])
def test_vit_against_the_dense_matrix(vit, scans, chunk):
    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = copy.deepcopy(vit).eval()

        def forward(self, x):
            return self.vit(x)[0]

    space = mi.eigenspace(vit, scans, output_transform=lambda y: y[0], vjp_chunk=chunk)
    values, vectors = oracle.eigh(oracle.fisher(Logits(), scans, "categorical"))
    assert ((space.eigenvalues - values[:, :3]).abs() <= 1e-10 * values[:, :1]).all()
    for v, theirs in zip(space.eigenvectors.flatten(2), vectors, strict=True):
        assert (v.T @ v - oracle.projector(theirs, 3)).abs().max() <= 1e-8


def test_vit_with_fused_attention(vit, scans):
    fused = copy.deepcopy(vit)
    for block in fused.blocks:
        block.attn.use_flash_attention = True
    first = [mi.eigenspace(v, scans, output_transform=lambda y: y[0]) for v in (vit, fused)]
    expected, space = (s.eigenvalues for s in first)
    torch.testing.assert_close(space, expected, rtol=1e-9, atol=0)


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
