"""Under the caller's own modes and wrappers: the same numbers, and nothing left behind."""

from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from torch import nn

import monai_ifim as mi
from _helpers.problems import smooth_images, smooth_network
from _helpers.untouched import CountsByAssignment, CountsInPlace, Rich, assert_untouched, snapshot

SCRIPT = pytest.mark.filterwarnings("ignore::DeprecationWarning")

# The caller's modes -------------------------------------------------------------------------


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, nullcontext])
@pytest.mark.parametrize("middle", [nn.Identity, CountsInPlace, CountsByAssignment])
def test_under_no_grad_and_inference_mode(context, middle):
    network, images = Rich(middle()), smooth_images(2)
    expected = mi.eigenspace(network, images)
    parts = (*expected.split(images), expected.sensitivity(), expected.eigenvectors)
    with context():
        inside = smooth_images(2)  # an inference tensor under inference_mode
        before = snapshot(network, inside)
        space = mi.eigenspace(network, inside)
        assert_untouched(before, network, inside)
        found = (*space.split(inside), space.sensitivity(), space.eigenvectors)
    assert (space.eigenvalues > 0).all()
    assert torch.equal(space.eigenvalues, expected.eigenvalues)
    assert all(torch.equal(a, b) for a, b in zip(found, parts, strict=True))


def test_images_from_inference_mode_serve_outside_of_it():
    network = Rich()
    with torch.inference_mode():
        images = smooth_images(2)
    space = mi.eigenspace(network, images)
    expected = mi.eigenspace(network, smooth_images(2))
    assert torch.equal(space.eigenvalues, expected.eigenvalues)
    assert torch.equal(space.split(images)[0], expected.split(smooth_images(2))[0])


def answers(space, images):
    return {
        "eigenvalues": space.eigenvalues,
        "logits": space.logits,
        "gradients": space.gradients,
        "eigenvectors": space.eigenvectors,
        "coefficients": space.coefficients(images),
        "high": space.split(images)[0],
        "orth": space.split(images)[1],
        "sensitivity": space.sensitivity(),
        "form": space.quadratic_form(images),
    }


def test_an_active_autocast_changes_nothing():
    network = smooth_network(2, 4, dtype=torch.float32)
    images = smooth_images(2, dtype=torch.float32)
    expected = answers(mi.eigenspace(network, images), images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = snapshot(network, images)
        found = answers(mi.eigenspace(network, images), images)
        assert_untouched(before, network, images)
        assert network(images).dtype == torch.bfloat16  # the autocast really is on
    wrong = [key for key, value in expected.items() if not torch.equal(found[key], value)]
    assert not wrong, f"computed in reduced precision: {wrong}"


def test_autocast_is_kept_on_when_asked():
    network = smooth_network(2, 4, dtype=torch.float32)
    images = smooth_images(2, dtype=torch.float32)
    exact = mi.eigenspace(network, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        space = mi.eigenspace(network, images, autocast=True)
    error = (space.eigenvalues[:, 0] / exact.eigenvalues[:, 0] - 1).abs()
    assert (error > 1e-4).any()
    assert (error < 0.3).all()
    assert torch.equal(mi.eigenspace(network, images, autocast=True).logits, exact.logits)


# Wrappers -----------------------------------------------------------------------------------


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


def test_distributed_data_parallel(process_group):
    network, images = Rich(), smooth_images(2)
    expected = mi.eigenspace(network, images).eigenvalues
    wrapped = nn.parallel.DistributedDataParallel(network)
    calls = []
    wrapped.register_forward_hook(lambda *_: calls.append(1))
    before = snapshot(wrapped, images)
    assert torch.equal(mi.eigenspace(wrapped, images).eigenvalues, expected)
    assert_untouched(before, wrapped, images)
    assert not calls  # the wrapper broadcasts buffers when it is called: ranks may dead-lock
    wrapped(images).sum().backward()  # and it still trains
    assert network.head.bias.grad is not None


def test_data_parallel():
    network, images = Rich(), smooth_images(2)
    wrapped = nn.DataParallel(network)
    before = snapshot(wrapped, images)
    found = mi.eigenspace(wrapped, images).eigenvalues
    assert torch.equal(found, mi.eigenspace(network, images).eigenvalues)
    assert_untouched(before, wrapped, images)


# TorchScript --------------------------------------------------------------------------------


class ScriptInPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(72, 3).double()
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(1, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        return self.linear(self.drop(torch.tanh(x.flatten(1) + self.calls)))


class ScriptByAssignment(ScriptInPlace):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls = self.calls + 1
        return self.linear(self.drop(torch.tanh(x.flatten(1) + self.calls)))


@SCRIPT
@pytest.mark.parametrize("kind", [ScriptInPlace, ScriptByAssignment])
def test_nothing_is_left_behind_in_torchscript(kind):
    network, images = torch.jit.script(kind()), smooth_images(2)
    network.train()
    network.drop.eval()
    before = snapshot(network, images)
    first = mi.eigenspace(network, images).eigenvalues
    assert_untouched(before, network, images)
    again = mi.eigenspace(network, images).eigenvalues  # rewritten by the profiling executor
    torch.testing.assert_close(again, first, rtol=1e-10, atol=0)
