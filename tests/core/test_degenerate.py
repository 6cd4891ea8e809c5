"""The degenerate corpus: zero, saturated, rank one, equal eigenvalues, narrow, tiny."""

import pytest
import torch
from torch import nn

import monai_ifim as mi
from _helpers import oracle
from _helpers.problems import Affine, smooth_images
from monai_ifim.core import at_rest, decompose, eigenspace, run_forward

FAMILIES = ["categorical", "bernoulli"]


def tensors(space, images):
    """Everything that can be asked of an eigenspace."""
    return [
        space.logits,
        space.eigenvalues,
        space.trace,
        space.eigenvectors,
        space.coefficients(images),
        *space.split(images),
        space.sensitivity(),
        space.quadratic_form(images),
    ]


def assert_nothing_there(space, images):
    high, orth = space.split(images)
    assert space.rank.tolist() == [0] * len(images)
    assert (space.eigenvalues == 0).all()
    assert (space.eigenvectors == 0).all()
    assert (space.coefficients(images) == 0).all()
    assert (high == 0).all()
    assert torch.equal(orth, images)
    assert all(torch.isfinite(tensor).all() for tensor in tensors(space, images))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("choice", [{}, {"rank": 1}, {"energy": 0.9}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_network(family, choice, dtype):
    """All gradients zero, though the logits depend on the images."""
    network = Affine(torch.zeros(3, 24, dtype=dtype), torch.tensor([1.0, 2, 3], dtype=dtype))
    images = smooth_images(1, dtype=dtype)
    space = mi.eigenspace(network, images, likelihood=family, **choice)
    assert_nothing_there(space, images)
    assert (space.trace == 0).all()
    assert (space.sensitivity() == 0).all()


def test_dead_behind_a_relu():
    network = nn.Sequential(nn.Flatten(), nn.Linear(24, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        network[1].bias.fill_(-1e4)
    images = smooth_images(1, dtype=torch.float32)
    assert_nothing_there(mi.eigenspace(network, images), images)


def test_one_dead_image_among_others():
    class Gate(nn.Module):
        def forward(self, x):
            return torch.relu(x.flatten(1)[:, :3])

    images = smooth_images(1).abs()
    images[2] *= -1
    space = mi.eigenspace(Gate(), images)
    assert space.rank.tolist() == [2, 2, 0, 2, 2]
    high, orth = space.split(images)
    assert torch.equal(orth[2], images[2])
    assert (high[2] == 0).all()
    assert (high[[0, 1, 3, 4]].flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize(("family", "bias"), [("categorical", [0, 2e3, 1e3]), ("bernoulli", 2e3)])
def test_saturated_to_zero_in_float64(family, bias):
    """1 - p is 0 in float64: nothing that anybody could measure is left."""
    bias = torch.tensor(bias).double().expand(3) * torch.tensor([1.0, 1, -1])
    images = smooth_images(1)
    network = Affine(torch.randn(3, 24, dtype=torch.float64), bias)
    space = mi.eigenspace(network, images, likelihood=family)
    assert_nothing_there(space, images)


@pytest.mark.parametrize("gap", [300.0, 690.0, 700.0, 705.0, 712.0, 720.0, 735.0])
def test_eigenvectors_stay_orthonormal_down_to_the_last_probability(gap):
    """Either a pair is kept and its eigenvector has length one, or it is not kept."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 24, generator=generator, dtype=torch.float64)
    network = Affine(weight, torch.tensor([0, -gap, -gap - 2]).double())
    images = 1e-3 * smooth_images(1)
    space = mi.eigenspace(network, images)
    assert all(torch.isfinite(tensor).all() for tensor in tensors(space, images))
    for v, kept in zip(space.eigenvectors.flatten(2), space.rank.tolist(), strict=True):
        expected = torch.diag((torch.arange(2) < kept).double())
        assert (v @ v.T - expected).abs().max() <= 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("exponent", [-300, -150, -44, -40, -38, -30, -18, 18, 30, 37])
def test_gradients_of_any_size(dtype, exponent):
    """Units are the network's own, so tiny and huge gradients are as good as any other."""
    scale = 10.0**exponent
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 24, generator=generator, dtype=torch.float64)
    images = smooth_images(1, dtype=dtype)
    # The logits are 0 for every image, so that p = 1/3 for any gradients.

    class Centred(Affine):
        def forward(self, x):
            return (x - x.detach()).flatten(1) @ self.weight.T

    space = mi.eigenspace(Centred((weight * scale).to(dtype)), images)
    assert all(torch.isfinite(tensor).all() for tensor in tensors(space, images))
    high, orth = space.split(images)
    assert (high + orth - images).abs().max() <= 1e-6
    for v, kept in zip(space.eigenvectors.flatten(2).double(), space.rank.tolist(), strict=True):
        expected = torch.diag((torch.arange(2) < kept).double())
        assert (v @ v.T - expected).abs().max() <= 1e-5
    normal = torch.finfo(dtype).tiny < scale * 1e-2
    if normal and abs(exponent) <= 100:  # lambda itself is a float64
        dense = oracle.saturated_fisher(weight, torch.zeros(3).double())
        values = torch.linalg.eigvalsh(dense).flip(0)[:2] * scale**2
        assert ((space.eigenvalues / values - 1).abs() <= 1e-5).all()
        assert space.rank.tolist() == [2] * len(images)


@pytest.mark.filterwarnings("ignore:the network holds half-precision parameters:UserWarning")
@pytest.mark.parametrize("exponent", [-6, -5, -3, 0])
def test_small_gradients_in_half_precision(exponent):
    """float16 ends at 65504, and 1 / 1e-5 is more than that."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 24, generator=generator) * 10.0**exponent
    images = smooth_images(1, dtype=torch.float16)
    space = mi.eigenspace(Affine(weight.half()), images)
    assert all(torch.isfinite(tensor).all() for tensor in tensors(space, images))
    v = space.eigenvectors[:, 0].flatten(1).double()
    assert (v.norm(dim=1) - 1).abs().max() <= 1e-2
    high, orth = space.split(images)
    assert (high + orth - images).abs().max() <= 1e-2


def test_rank_one():
    """Every class is read off one feature."""
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(24, generator=generator, dtype=torch.float64)
    weight = torch.outer(torch.tensor([1.0, -2, 3, 0.5]).double(), feature)
    images = smooth_images(1)
    space = mi.eigenspace(Affine(weight), images)
    assert space.rank.tolist() == [1] * len(images)
    assert (space.eigenvalues[:, 1:] == 0).all()
    cosine = space.eigenvectors[:, 0].flatten(1) @ feature / feature.norm()
    assert (cosine.abs() - 1).abs().max() <= 1e-12
    high, _ = space.split(images)
    expected = (images.flatten(1) @ feature)[:, None] * feature / feature.square().sum()
    torch.testing.assert_close(high.flatten(1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fewer_features_than_classes(dtype):
    """Two features in the middle: rank 2, though ten classes would allow 9."""
    generator = torch.Generator().manual_seed(0)
    narrow = torch.randn(2, 24, generator=generator, dtype=torch.float64)
    head = torch.randn(10, 2, generator=generator, dtype=torch.float64)
    network = nn.Sequential(Affine(narrow), nn.Tanh(), Affine(head)).to(dtype)
    images = smooth_images(1, dtype=dtype) / 5
    space = mi.eigenspace(network, images)
    assert space.rank.tolist() == [2] * len(images)
    # The eigenspace is the row space of the first layer, for every image.
    projector = oracle.projector(torch.linalg.qr(narrow.T)[0], 2)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    for v in space.eigenvectors[:, :2].flatten(2).double():
        assert (v.T @ v - projector).abs().max() <= tolerance


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_eigenvalues(family):
    """Logits that are pixels, all equal: only the projector means anything."""
    images = torch.zeros(2, 1, 3, 4, dtype=torch.float64)
    network = Affine(torch.eye(12, dtype=torch.float64)[:4])
    space = mi.eigenspace(network, images, likelihood=family)
    assert all(torch.isfinite(tensor).all() for tensor in tensors(space, images))
    # Uniform softmax: F = I/4 - 11ᵀ/16 on four pixels; sigmoids: F = I/4.
    value, count = 0.25, 3 if family == "categorical" else 4
    assert (space.eigenvalues - value).abs().max() <= 1e-14
    assert space.rank.tolist() == [count] * 2
    projector = torch.zeros(12, 12, dtype=torch.float64)
    projector[:4, :4] = torch.eye(4) - (0.25 if family == "categorical" else 0)
    for v in space.eigenvectors.flatten(2):
        assert (v.T @ v - projector).abs().max() <= 1e-12
    assert mi.eigenspace(network, images, likelihood=family, rank=1).rank.tolist() == [1, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_fewer_pixels_than_classes(family):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(10, 3, generator=generator, dtype=torch.float64)
    images = smooth_images(1)[:, :1, :3]
    network = Affine(weight)
    space = mi.eigenspace(network, images, likelihood=family)
    values, _ = oracle.eigh(oracle.fisher(network, images, family))
    assert space.rank.tolist() == [3] * len(images)
    assert ((space.eigenvalues[:, :3] - values).abs() <= 1e-10 * values[:, :1]).all()
    assert (space.eigenvalues[:, 3:] == 0).all()
    high, orth = space.split(images)
    torch.testing.assert_close(high, images, rtol=0, atol=1e-10)
    assert orth.abs().max() <= 1e-10
    with pytest.raises(ValueError, match=r"expected 1 <= rank <= 3 .*got rank=4"):
        mi.eigenspace(network, images, likelihood=family, rank=4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [(5, 1, 1), (5, 1, 1, 1), (5, 1, 1, 1, 1)])
def test_one_pixel_images(family, shape):
    images = torch.linspace(-2, 2, 5, dtype=torch.float64).view(shape)
    weight = torch.tensor([[2.0], [-1.0]], dtype=torch.float64)
    space = mi.eigenspace(Affine(weight), images, likelihood=family)
    x = images.flatten()
    if family == "categorical":  # softmax of (2x, -x) is the sigmoid of 3x
        expected = 9 * torch.sigmoid(3 * x) * torch.sigmoid(-3 * x)
    else:
        expected = 4 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)
        expected += torch.sigmoid(x) * torch.sigmoid(-x)
    torch.testing.assert_close(space.eigenvalues[:, 0], expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(space.sensitivity().flatten(), expected, rtol=1e-12, atol=0)
    assert space.rank.tolist() == [1] * 5
    length = space.eigenvectors[:, 0].abs()
    torch.testing.assert_close(length, torch.ones_like(images), rtol=1e-12, atol=0)


def test_the_image_is_the_logits():
    """The shortest network there is: its output is a view of its input."""
    images = smooth_images(1)[:, :, :1]
    before = images.clone()
    space = mi.eigenspace(nn.Flatten(), images)
    p = images.flatten(1).softmax(dim=1)
    dense = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    values, _ = oracle.eigh(dense)
    assert (space.eigenvalues - values[:, :2]).abs().max() <= 1e-15
    assert torch.equal(images, before)


def test_a_nan_image_leaves_its_neighbours_tiny_gradients_alone():
    """Weights beyond float32's range are scaled, for any other image in the batch."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3, bias=False))
    with torch.no_grad():
        network[1].weight.mul_(1e-40)
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    alone, _ = eigenspace(network, images[1:]).split(images[1:])
    images[0, 0, 0, 0] = torch.nan
    with at_rest(network, images.device):
        space = decompose(run_forward(network, images))
    high, _ = space.split(images)
    assert high[0].isnan().all()
    torch.testing.assert_close(high[1:], alone)


def test_small_probabilities_alone_are_no_reason_to_drop_an_eigenpair():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    with torch.no_grad():
        network[1].bias.copy_(torch.tensor([0.0, -2.0, -12.0, -22.0]))
        network[1].weight.mul_(0.1)
    images = torch.randn(1, 1, 8, 8)
    single = eigenspace(network, images)
    double = eigenspace(network.double(), images.double())
    assert single.rank.item() == double.rank.item() == 3
    ratio = double.eigenvalues[0, 2] / double.eigenvalues[0, 0]
    assert ratio < torch.finfo(torch.float32).eps  # the test has teeth
    torch.testing.assert_close(single.eigenvalues, double.eigenvalues, rtol=1e-5, atol=0)
    a, b = single.eigenvectors.double().flatten(2)[0], double.eigenvectors.flatten(2)[0]
    torch.testing.assert_close((a * b).sum(dim=1), torch.ones(3).double(), rtol=0, atol=1e-6)
