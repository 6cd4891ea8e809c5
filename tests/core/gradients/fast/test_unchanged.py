"""Where the fast gradients do not apply, everything runs as without them."""

import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from torch import nn
from torch.utils.checkpoint import checkpoint

from _helpers.comparisons import relative_error
from _helpers.graphs import taken
from _helpers.stems import jacobian, stem
from monai_ifim.core.gradients.fast.input_gradients import input_gradients
from monai_ifim.core.gradients.fast.laid_out_norms import LaidOutNorms


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


@pytest.mark.parametrize(
    ("shape", "entered"),
    [
        ((2, 1, 8, 8), False),
        ((9, 1, 128, 128), True),
        ((9, 5, 128, 128), False),
        ((2, 5, 8, 8, 8), True),
    ],
)
def test_only_norms_are_looked_after_where_nothing_can_pay(shape, entered):
    before = torch.overrides._len_torch_function_stack()
    with input_gradients(torch.zeros(shape)):
        assert torch.overrides._len_torch_function_stack() == before + 1
        mode = type(torch.overrides._get_current_function_mode())
        assert (mode is not LaidOutNorms) == entered
    assert torch.overrides._len_torch_function_stack() == before
    with input_gradients(torch.zeros(shape, device="meta")):
        assert torch.overrides._len_torch_function_stack() == before


def test_undone_also_on_exception(network, images):
    x = images.requires_grad_()
    with pytest.raises(RuntimeError, match="inside"), input_gradients():
        raise RuntimeError("inside")
    assert taken(network(x)) == []
