"""Numbers near the edge of float64, and networks that are hard to differentiate."""

import pytest
import torch
from torch import nn

import monai_ifim as mi
from _helpers import oracle
from _helpers.problems import Affine, smooth_images, smooth_network
from monai_ifim.outputs import batch_outputs


class Shifted(nn.Module):
    """Adds constants to the logits: their gradients stay, the probabilities do not."""

    def __init__(self, network, shift):
        super().__init__()
        self.network, self.shift = network, torch.tensor(shift, dtype=torch.float64)

    def forward(self, x):
        return self.network(x) + self.shift


def orthonormality(space):
    """Largest deviation of VᵀV from 1 among the kept eigenvectors."""
    vectors = space.eigenvectors.double().flatten(2)
    off = vectors @ vectors.transpose(1, 2)
    kept = torch.arange(off.shape[1]) < space.rank[:, None]
    return (off - torch.diag_embed(kept.to(off))).abs().max()


@pytest.mark.parametrize("gap", [0.0, 5.0, 10.0, 20.0, 30.0, 32.0, 40.0, 200.0])
@pytest.mark.parametrize("outputs", [3, 6])
def test_kept_eigenvectors_are_orthonormal(gap, outputs):
    """Probabilities that fall by a factor e^gap from class to class: eigenvalues do, too."""
    shift = [-gap * i for i in range(outputs)]
    network, images = Shifted(smooth_network(2, outputs), shift), smooth_images(2)
    space = mi.eigenspace(network, images)
    assert (space.rank >= 1).all()
    assert orthonormality(space) <= 1e-7
    high, orth = space.split(images)
    cosine = (high * orth).flatten(1).sum(1) / (high.flatten(1).norm(dim=1) ** 2)
    assert cosine.abs().max() <= 1e-7


@pytest.mark.parametrize("parallel", [1e-1, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8])
def test_contrasts_that_are_nearly_parallel(parallel):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 72, generator=generator, dtype=torch.float64).expand(4, -1).clone()
    weight[1:] += torch.randn(3, 72, generator=generator, dtype=torch.float64) * parallel
    weight[0] = 0
    space = mi.eigenspace(Affine(weight), smooth_images(2) / 50)
    assert orthonormality(space) <= 1e-5


def test_small_eigenvalues_keep_their_digits():
    """Against a dense matrix in the coordinates of its own root, not its square."""
    network, images = Shifted(smooth_network(2, 3), [0.0, -5.0, -33.0]), smooth_images(2)
    space = mi.eigenspace(network, images)
    for b in range(len(images)):
        jacobian = oracle.jacobian(network, images[b])
        p = torch.softmax(network(images[b : b + 1])[0], 0)
        root = torch.diag(p.sqrt()) - torch.outer(p, p.sqrt())
        singular = torch.linalg.svdvals(jacobian.T @ root)
        values = singular.square()[:2]
        kept = space.eigenvalues[b] > 0
        torch.testing.assert_close(space.eigenvalues[b][kept], values[kept], rtol=1e-6, atol=0)


class Once(torch.autograd.Function):
    """An operation that can be differentiated once, backwards."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (1 - x.tanh().square())


class OnceDifferentiable(nn.Module):
    def forward(self, x):
        return Once.apply(x)


def test_auto_serves_what_can_be_differentiated_only_once():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), OnceDifferentiable(), nn.Linear(72, 100)).double()
    images = smooth_images(2)
    space = mi.eigenspace(network, images, rank=3)
    truth = mi.eigenspace(network, images, method="exact", rank=3)
    torch.testing.assert_close(space.eigenvalues, truth.eigenvalues)
    with pytest.raises(RuntimeError, match="expected a network that can be differentiated"):
        mi.eigenspace(network, images, rank=3, method="krylov")


class Masks(nn.Module):
    """Rules out classes, as networks do that know what a sequence cannot show."""

    def __init__(self, network, classes):
        super().__init__()
        self.network, self.classes = network, classes

    def forward(self, x):
        logits = self.network(x)
        mask = torch.zeros(logits.shape[1], dtype=torch.bool)
        mask[self.classes] = True
        return logits.masked_fill(mask, -torch.inf)


def test_classes_that_are_ruled_out():
    """The eigenspace is that of the other classes alone."""
    network, images = smooth_network(2, 5), smooth_images(2)
    space = mi.eigenspace(Masks(network, [1, 4]), images)

    class Others(nn.Module):
        def forward(self, x):
            return network(x)[:, [0, 2, 3]]

    truth = mi.eigenspace(Others(), images)
    torch.testing.assert_close(space.eigenvalues[:, :2], truth.eigenvalues)
    torch.testing.assert_close(space.split(images)[0], truth.split(images)[0])
    family = space.likelihood
    torch.testing.assert_close(
        family.entropy(space.logits), family.entropy(truth.logits), rtol=1e-10, atol=0
    )
    changed = Masks(network, [1, 4])(images + 0.01)
    assert torch.isfinite(family.divergence(space.logits, changed)).all()


def test_all_classes_ruled_out_is_an_overflow():
    with pytest.raises(ValueError, match="expected finite logits"):
        mi.eigenspace(Masks(smooth_network(2, 3), [0, 1, 2]), smooth_images(2))


def test_two_probes_give_no_standard_error():
    network = nn.Sequential(nn.Flatten(), nn.Linear(72, 100)).double()
    space = mi.eigenspace(network, smooth_images(2), rank=3)
    approximation = space.approximation
    assert approximation.trace_error.isnan().all()
    assert (approximation.lost_trace_bound > approximation.lost_trace).all()


@pytest.mark.parametrize(
    ("weight", "bias", "words"),
    [(1e-200, 0.0, "too little"), (1.0, 900.0, "too confident"), (0.0, 0.0, "not react")],
)
def test_a_trace_of_zero_says_why(weight, bias, words):
    linear = nn.Linear(72, 3).double()
    with torch.no_grad():
        linear.weight.mul_(weight)
        linear.bias.copy_(torch.tensor([bias, 0.0, -bias]))
    images = smooth_images(2)
    space = mi.eigenspace(nn.Sequential(nn.Flatten(), linear), images)
    assert space.trace.abs().max() == 0
    assert all(words in status for status in batch_outputs(space, images, ("high",)).statuses)
