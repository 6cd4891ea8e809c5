"""Input gradients through our own nodes, against autograd on the untouched operations."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.networks.nets import resnet10
from torch import nn
from torch.utils.checkpoint import checkpoint

from monai_ifim.core.gradients.fast import input_gradients as module
from monai_ifim.core.gradients.fast.convolutions import convolution_gradient
from monai_ifim.core.gradients.fast.input_gradients import input_gradients

CONVOLUTIONS = {2: F.conv2d, 3: F.conv3d}
OURS = ("_ConvolutionBackward", "_BatchNormBackward")

# Input, weights, stride, padding: each is one that the rule takes.
STEMS = {
    "plane": ((2, 1, 67, 73), (11, 1, 7, 5), (1, 1), (3, 2)),
    "strided plane": ((3, 3, 95, 103), (11, 3, 7, 5), (2, 1), (2, 0)),
    "volume": ((2, 1, 17, 19, 23), (11, 1, 7, 5, 3), (1, 1, 1), (3, 2, 0)),
    "strided volume": ((2, 2, 43, 37, 41), (5, 2, 7, 5, 3), (2, 2, 1), (3, 2, 1)),
    "single volume": ((1, 19, 13, 11, 9), (17, 19, 3, 3, 3), (1, 1, 1), (1, 1, 1)),
}


def taken(tensor):
    """Names of our nodes in the graph."""
    seen, names, queue = set(), [], [tensor.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node).__name__ in OURS:
            names.append(type(node).__name__)
        queue.extend(parent for parent, _ in node.next_functions)
    return sorted(names)


def relative_error(ours, theirs):
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def stem(name, seed=0):
    size, kernel, stride, padding = STEMS[name]
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, generator=generator, requires_grad=True)
    weight = torch.randn(kernel, generator=generator)
    bias = torch.randn(kernel[0], generator=generator)
    return x, weight, bias, stride, padding, CONVOLUTIONS[len(stride)]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), axes=st.sampled_from([2, 3]), seed=st.integers(0, 99))
def test_the_gradient_is_that_of_autograd(data, axes, seed):
    """Every choice of axes, in float64, with whatever is left over at the far end."""
    kernel = tuple(data.draw(st.lists(st.integers(1, 5), min_size=axes, max_size=axes)))
    stride = tuple(data.draw(st.lists(st.integers(1, 3), min_size=axes, max_size=axes)))
    padding = tuple(data.draw(st.lists(st.integers(0, 5), min_size=axes, max_size=axes)))
    size = tuple(data.draw(st.permutations(range(5, 5 + axes))))
    batch, features, channels = data.draw(st.permutations([1, 2, 3]))
    choices = itertools.chain.from_iterable(
        itertools.combinations(range(axes), n) for n in range(axes + 1)
    )
    convolved = data.draw(st.sampled_from(list(choices)))
    generator = torch.Generator().manual_seed(seed)
    real = {"generator": generator, "dtype": torch.float64}
    x = torch.randn(batch, channels, *size, **real).requires_grad_()
    weight = torch.randn(features, channels, *kernel, **real)
    output = CONVOLUTIONS[axes](x, weight, None, stride, padding)
    cotangent = torch.randn(output.shape, **real)
    (expected,) = torch.autograd.grad(output, x, cotangent)
    ours = convolution_gradient(cotangent, weight, size, stride, padding, convolved)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", STEMS)
def test_stems_take_our_route_and_are_right(name, bias):
    x, weight, b, stride, padding, convolution = stem(name)
    b = b if bias else None
    plain = convolution(x, weight, b, stride, padding)
    with input_gradients():
        ours = convolution(x, weight, b, stride, padding)
        named = convolution(
            input=x, weight=weight, bias=b, padding=padding, stride=stride, groups=1
        )
    assert taken(ours) == taken(named) == ["_ConvolutionBackward"]
    assert torch.equal(ours, plain)
    assert torch.equal(named, plain)
    wide = x.detach().double().requires_grad_()
    output = convolution(wide, weight.double(), None, stride, padding)
    cotangent = torch.randn(output.shape)
    (expected,) = torch.autograd.grad(output, wide, cotangent.double())
    (gradient,) = torch.autograd.grad(ours, x, cotangent)
    assert relative_error(gradient, expected) < 2e-6


@pytest.mark.parametrize("name", STEMS)
def test_backward_passes_repeat_vmap_and_differentiate(name):
    x, weight, b, stride, padding, convolution = stem(name)
    with input_gradients():
        output = convolution(x, weight, b, stride, padding)
    assert taken(output)
    cotangents = torch.randn(4, *output.shape)
    loop = torch.stack(
        [torch.autograd.grad(output, x, u, retain_graph=True)[0] for u in cotangents]
    )
    batched = torch.func.vmap(lambda u: torch.autograd.grad(output, x, u, retain_graph=True)[0])
    assert relative_error(batched(cotangents), loop) < 2e-6
    # Linear in the cotangent, so its own vector-Jacobian product is the convolution.
    u = torch.zeros_like(output, requires_grad=True)
    (gradient,) = torch.autograd.grad(output, x, u, create_graph=True)
    change = torch.randn(x.shape)
    (product,) = torch.autograd.grad(gradient, u, change)
    assert relative_error(product, convolution(change, weight, None, stride, padding)) < 2e-6


@pytest.mark.parametrize("name", STEMS)
def test_forward_mode_and_vmap_inside(name):
    x, weight, b, stride, padding, convolution = stem(name)
    x, change = x.detach(), torch.randn(x.shape)

    def function(images):
        return convolution(images, weight, b, stride, padding)

    expected = convolution(change, weight, None, stride, padding)
    with input_gradients():
        product = torch.func.jvp(function, (x,), (change,))[1]
        (gradient,) = torch.func.vjp(function, x)[1](expected)
    plain = torch.func.vjp(function, x)[1](expected)[0]
    assert relative_error(product, expected) < 2e-6
    assert relative_error(gradient, plain) < 2e-6


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


def jacobian(logits, leaf):
    rows = [torch.autograd.grad(z.sum(), leaf, retain_graph=True)[0] for z in logits.unbind(1)]
    return torch.stack(rows)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_a_network_with_in_place_operations(network, images, layout):
    x = images.to(memory_format=layout).requires_grad_()
    before = copy.deepcopy(network.state_dict())
    state = torch.random.get_rng_state()
    with input_gradients():
        ours = network(x)
    assert taken(ours) == ["_BatchNormBackward", "_ConvolutionBackward"]
    assert torch.equal(ours, network(x))
    wide = images.double().requires_grad_()
    expected = jacobian(copy.deepcopy(network).double()(wide), wide)
    assert relative_error(jacobian(ours, x), expected) < 2e-6
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.stride() == before[name].stride()


def test_the_batch_norm_alone_in_float64(network, images):
    x = images.double().requires_grad_()
    network = network.double()
    with input_gradients():
        ours = network(x)
    assert taken(ours) == ["_BatchNormBackward"]
    plain = network(x)
    assert torch.equal(ours, plain)
    assert relative_error(jacobian(ours, x), jacobian(plain, x)) < 1e-12
    batched = torch.func.vmap(lambda u: torch.autograd.grad(ours, x, u, retain_graph=True)[0])
    cotangents = torch.eye(3, dtype=torch.float64)[:, None].expand(3, 2, 3)
    assert relative_error(batched(cotangents), jacobian(plain, x)) < 1e-12
    u = torch.zeros_like(plain, requires_grad=True)
    products = []
    for logits in (ours, plain):
        (gradient,) = torch.autograd.grad(logits, x, u, create_graph=True)
        products.append(torch.autograd.grad(gradient, u, images.double())[0])
    assert relative_error(*products) < 1e-12


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norms_with_and_without_weights(affine, small_norms):
    norm = nn.BatchNorm2d(3, affine=affine, dtype=torch.float64).eval().requires_grad_(False)
    norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 150, 151, dtype=torch.float64, requires_grad=True)
    plain = norm(x)
    with input_gradients():
        ours = norm(x)
    assert taken(ours) == ["_BatchNormBackward"]
    assert torch.equal(ours, plain)
    u = torch.randn_like(x)
    expected = torch.autograd.grad(plain, x, u)[0]
    assert relative_error(torch.autograd.grad(ours, x, u)[0], expected) < 1e-12


def test_the_stem_of_a_resnet_takes_our_route():
    network = resnet10(spatial_dims=3, n_input_channels=1, num_classes=2).eval()
    network.requires_grad_(False)
    x = torch.randn(2, 1, 18, 17, 19, requires_grad=True)
    with input_gradients():
        logits = network(x)
    assert "_ConvolutionBackward" in taken(logits)


def test_the_norms_input_is_not_kept():
    norm = nn.BatchNorm3d(8).eval().requires_grad_(False)
    kept = (torch.randn(1, 8, 64, 65, 66, requires_grad=True) * 2).requires_grad_()
    with input_gradients():
        output = norm(kept)
    assert all(tensor.numel() == 8 for tensor in output.grad_fn.saved_tensors)


def test_undone_also_on_exception(network, images):
    x = images.requires_grad_()
    with pytest.raises(RuntimeError, match="inside"), input_gradients():
        raise RuntimeError("inside")
    assert taken(network(x)) == []


# What the rule leaves alone. ------------------------------------------------------------------


def unchanged(function, *tensors):
    plain = function(*tensors)
    with input_gradients():
        ours = function(*tensors)
    assert taken(ours) == []
    assert type(ours) is type(plain)
    assert torch.equal(ours, plain)


@pytest.mark.parametrize(
    "change",
    [
        {"dilation": 2},
        {"padding": "same"},
        {"padding": "valid"},
        {"dilation": (1, 1, 2)},
    ],
)
def test_unsupported_settings_run_as_they_would(change):
    x, weight, b, _, _, convolution = stem("volume")
    unchanged(lambda t: convolution(t, weight, b, **change), x)


def test_groups_run_as_they_would():
    x = torch.randn(2, 2, 17, 19, 23, requires_grad=True)
    weight = torch.randn(4, 1, 5, 5, 5)
    unchanged(lambda t: F.conv3d(t, weight, groups=2), x)


def test_circular_padding_is_right():
    layer = nn.Conv3d(1, 5, (5, 3, 7), padding=(2, 1, 3), padding_mode="circular")
    layer.requires_grad_(False)
    x = torch.randn(2, 1, 17, 19, 23, requires_grad=True)
    plain = layer(x)
    with input_gradients():
        ours = layer(x)
    u = torch.randn_like(plain)
    assert taken(ours) == ["_ConvolutionBackward"]
    expected = torch.autograd.grad(plain, x, u)[0]
    assert relative_error(torch.autograd.grad(ours, x, u)[0], expected) < 2e-6


def test_trainable_weights_keep_their_gradient(network, images):
    network.requires_grad_(True)
    x = images.requires_grad_()
    with input_gradients():
        logits = network(x)
    assert taken(logits) == []
    logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_train_mode_norm_runs_as_it_would(network, images):
    norm = nn.BatchNorm3d(8).requires_grad_(False)
    x = torch.randn(1, 8, 30, 31, 32, requires_grad=True)
    with input_gradients():
        assert taken(norm(x)) == []
    assert int(norm.num_batches_tracked) == 1


def test_nothing_to_differentiate(network, images):
    with input_gradients():
        assert network(images).grad_fn is None
        with torch.no_grad():
            assert network(images.requires_grad_()).grad_fn is None


def test_small_many_channelled_and_unbatched_inputs_run_as_they_would():
    weight = torch.randn(5, 1, 7, 7)
    unchanged(lambda t: F.conv2d(t, weight), torch.randn(2, 1, 20, 21, requires_grad=True))
    unchanged(lambda t: F.conv2d(t, weight), torch.randn(1, 90, 91, requires_grad=True))
    wide = torch.randn(6, 9, 3, 3)
    unchanged(lambda t: F.conv2d(t, wide), torch.randn(2, 9, 80, 81, requires_grad=True))


def test_autocast_runs_as_it_would(network, images):
    with torch.autocast("cpu", torch.bfloat16):
        unchanged(network, images.requires_grad_())


def test_meta_tensors_keep_their_meta(network, images):
    x = MetaTensor(images, meta={"spacing": 2.0}).requires_grad_()
    plain = network(x)
    with input_gradients():
        assert network.convolution(x).meta["spacing"] == 2.0
        ours = network(x)
    assert type(ours) is type(plain)
    assert torch.equal(ours.as_tensor(), plain.as_tensor())


def test_checkpoints_recompute_outside(network, images):
    x = images.requires_grad_()

    def function(t):
        return checkpoint(network, t, use_reentrant=False)

    with input_gradients():
        logits = function(x)
    expected = jacobian(network(x), x)
    assert relative_error(jacobian(logits, x), expected) < 2e-6


def test_scripted_networks_run_as_they_would():
    # What a scripted network calls is not seen by the mode.
    graph = torch.jit.CompilationUnit(
        "def f(x: Tensor, w: Tensor) -> Tensor:\n    return torch.conv2d(x, w)\n"
    )
    weight = torch.randn(5, 1, 7, 7)
    unchanged(lambda t: graph.f(t, weight), torch.randn(2, 1, 80, 81, requires_grad=True))


def test_a_stem_under_metadata_takes_our_route():
    """MONAI's inferers hand the network a MetaTensor."""
    x, weight, bias, stride, padding, function = stem("volume")
    tracked = MetaTensor(x, meta={"name": "scan"})
    with input_gradients():
        output = function(tracked, weight, bias, stride, padding)
    assert isinstance(output, MetaTensor)
    assert output.meta["name"] == "scan"
    assert taken(output) == ["_ConvolutionBackward"]
    plain = function(x, weight, bias, stride, padding)
    assert torch.equal(output.as_tensor(), plain)
    gradients = [torch.autograd.grad(y.sum(), x)[0] for y in (output.as_tensor(), plain)]
    assert relative_error(*gradients) < 1e-5


@pytest.mark.parametrize(
    ("shape", "entered"),
    [
        ((2, 1, 8, 8), False),
        ((9, 1, 128, 128), True),
        ((9, 5, 128, 128), False),
        ((2, 5, 8, 8, 8), True),
    ],
)
def test_nothing_is_entered_where_nothing_can_pay(shape, entered):
    before = torch.overrides._len_torch_function_stack()
    with input_gradients(torch.zeros(shape)):
        assert (torch.overrides._len_torch_function_stack() > before) == entered
    assert torch.overrides._len_torch_function_stack() == before


class Pooled(nn.Module):
    """Convolution, norm, ReLU and pooling, and a user of what lies between."""

    def __init__(self, axes, inplace, skip):
        super().__init__()
        convolution, norm, pool = (
            (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d),
            (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d),
        )[axes - 2]
        self.convolution = convolution(1, 6, 3, padding=1)
        self.norm = norm(6)
        self.relu = nn.ReLU(inplace=inplace)
        self.pool = pool(3, stride=2, padding=1)
        self.skip = skip
        with torch.no_grad():
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)
            self.norm.weight.normal_()

    def forward(self, x):
        middle = self.relu(self.norm(self.convolution(x)))
        pooled = self.pool(middle)
        return pooled.flatten(1).sum(1) + (middle * middle).flatten(1).sum(1) * self.skip


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("skip", [0.0, 0.3])
def test_norm_relu_and_pooling_are_one_node(axes, inplace, skip):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = Pooled(axes, inplace, skip).double().eval().requires_grad_(False)
        x = torch.randn(3, 1, *(9, 12, 7)[:axes], dtype=torch.float64, requires_grad=True)
    plain = network(x)
    with input_gradients():
        ours = network(x)
    assert "_PooledStemBackward" in names(ours)
    assert torch.equal(ours, plain)
    cotangents = torch.randn(4, 3, dtype=torch.float64)
    for cotangent in cotangents:
        expected, gradient = (
            torch.autograd.grad(y, x, cotangent, retain_graph=True)[0] for y in (plain, ours)
        )
        assert relative_error(gradient, expected) < 1e-12
    batched = torch.func.vmap(lambda u: torch.autograd.grad(ours, x, u, retain_graph=True)[0])
    assert relative_error(batched(cotangents)[-1], expected) < 1e-12
    products = []
    for output in (plain, ours):  # the backward pass once more: J d
        cotangent = torch.zeros_like(output, requires_grad=True)
        (first,) = torch.autograd.grad(output, x, cotangent, create_graph=True)
        products.append(torch.autograd.grad(first, cotangent, x.detach())[0])
    assert relative_error(products[1], products[0]) < 1e-12
    with input_gradients():
        forward = torch.func.jvp(network, (x.detach(),), (x.detach(),))[1]
    assert relative_error(forward, products[0]) < 1e-12


@pytest.mark.parametrize(
    "between",
    [
        lambda y: nn.functional.relu(y) * 1.5,
        lambda y: nn.functional.relu(y.add_(0.5)),
        lambda y: nn.functional.gelu(y),
        lambda y: watched(nn.functional.relu(y)),
        lambda y: y,
    ],
)
def test_a_pooling_of_something_else_runs_as_it_would(between):
    norm = nn.BatchNorm2d(2).eval().requires_grad_(False)
    x = torch.randn(2, 2, 8, 6, requires_grad=True)

    def network(x):
        return nn.functional.max_pool2d(between(norm(x)), 2)

    plain = network(x)
    with input_gradients():
        ours = network(x)
    assert "_PooledStemBackward" not in names(ours)
    assert torch.equal(ours, plain)
    expected, gradient = (torch.autograd.grad(y.sum(), x)[0] for y in (plain, ours))
    assert torch.equal(gradient, expected)


def watched(y):
    """A hook on a tensor sees, and may change, what flows through it."""
    y.register_hook(lambda gradient: 2 * gradient)
    return y


def test_a_path_that_was_cut_stays_cut():
    norm = nn.BatchNorm2d(2).eval().requires_grad_(False)
    x = torch.randn(2, 2, 8, 6, requires_grad=True)
    with input_gradients():
        y = norm(x)
        with torch.no_grad():
            cut = nn.functional.relu(y)
        output = nn.functional.max_pool2d(cut, 2) + nn.functional.max_pool2d(y, 2)
    assert "_PooledStemBackward" not in names(output)


def names(tensor):
    """Of all nodes in the graph."""
    seen, queue = set(), [tensor.grad_fn]
    while queue:
        node = queue.pop()
        if node is not None and node not in seen:
            seen.add(node)
            queue.extend(parent for parent, _ in node.next_functions)
    return {type(node).__name__ for node in seen}
