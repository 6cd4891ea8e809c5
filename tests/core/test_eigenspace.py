"""The eigenspace against the dense matrix, and against what it is supposed to mean."""

import importlib
import re

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

import monai_ifim as mi
from _helpers import oracle
from _helpers.problems import smooth_images, smooth_network

CASES = [
    ("categorical", 2, 1),
    ("categorical", 3, 2),
    ("categorical", 10, 9),
    ("bernoulli", 1, 1),
    ("bernoulli", 7, 7),
]
every_family = pytest.mark.parametrize(("family", "outputs", "largest"), CASES)
every_dimension = pytest.mark.parametrize("dims", [1, 2, 3])


def columns(space):
    """Eigenvectors as (B, N, R)."""
    return space.eigenvectors.flatten(2).transpose(1, 2)


def assert_same(space, other, tolerance):
    """Equal up to rounding: eigenvalues, trace, rank and the projector on the eigenspace."""
    scale = other.trace[:, None].clamp_min(1e-300)
    assert torch.equal(space.rank, other.rank)
    assert ((space.eigenvalues - other.eigenvalues).abs() <= tolerance * scale).all()
    assert ((space.trace - other.trace).abs() <= tolerance * scale[:, 0]).all()
    for mine, theirs in zip(columns(space).double(), columns(other).double(), strict=True):
        assert (mine @ mine.T - theirs @ theirs.T).abs().max() <= 100 * tolerance


# Against the dense matrix ------------------------------------------------------------------


@every_dimension
@every_family
def test_eigenpairs_are_those_of_the_dense_matrix(dims, family, outputs, largest):
    network, images = smooth_network(dims, outputs), smooth_images(dims)
    space = mi.eigenspace(network, images, likelihood=family)
    values, vectors = oracle.eigh(oracle.fisher(network, images, family))

    assert space.rank.tolist() == [largest] * len(images)
    error = (space.eigenvalues - values[:, :largest]).abs()
    assert (error <= 1e-10 * values[:, :1]).all()
    assert torch.equal(space.eigenvalues, space.eigenvalues.sort(descending=True).values)
    torch.testing.assert_close(space.trace, values.sum(dim=1), rtol=1e-10, atol=0)
    for mine, theirs in zip(columns(space), vectors, strict=True):
        for rank in range(1, largest + 1):
            expected = oracle.projector(theirs, rank)
            assert (oracle.projector(mine, rank) - expected).abs().max() <= 1e-8


@every_dimension
@every_family
def test_sensitivity_is_the_diagonal_of_the_dense_matrix(dims, family, outputs, largest):
    network, images = smooth_network(dims, outputs), smooth_images(dims)
    diagonal = oracle.fisher(network, images, family).diagonal(dim1=1, dim2=2)
    # Of the whole of F, however few eigenpairs were kept.
    for rank in (None, 1):
        sensitivity = mi.eigenspace(network, images, likelihood=family, rank=rank).sensitivity()
        assert sensitivity.shape == images.shape
        error = (sensitivity.flatten(1) - diagonal).abs()
        assert (error <= 1e-12 * diagonal.amax(dim=1, keepdim=True)).all()


@every_dimension
@every_family
def test_quadratic_form_is_that_of_the_dense_matrix(dims, family, outputs, largest):
    network, images = smooth_network(dims, outputs), smooth_images(dims)
    d = smooth_images(dims, seed=2)
    dense = oracle.fisher(network, images, family)
    expected = torch.einsum("bi,bij,bj->b", d.flatten(1), dense, d.flatten(1))
    space = mi.eigenspace(network, images, likelihood=family)
    torch.testing.assert_close(space.quadratic_form(d), expected, rtol=1e-10, atol=0)
    truncated = mi.eigenspace(network, images, likelihood=family, rank=1)
    torch.testing.assert_close(truncated.quadratic_form(d), expected, rtol=1e-10, atol=0)


def test_images_larger_than_one_block(monkeypatch):
    """Inner products are taken to float64 block by block; the last block is a short one."""
    network, images = smooth_network(2, 4), smooth_images(2)
    whole = mi.eigenspace(network, images)
    expected = whole.coefficients(images)
    core = importlib.import_module("monai_ifim.core.spectrum")
    for block in (1, 5 * 3 * 7):  # one pixel at a time; 7 of the 72
        monkeypatch.setattr(core, "_BLOCK", block)
        space = mi.eigenspace(network, images)
        assert_same(space, whole, 1e-12)
        torch.testing.assert_close(space.coefficients(images), expected, rtol=0, atol=1e-10)


def test_a_family_of_ones_own_is_one_small_object():
    """Gaussian regression of known variance: F = JᵀJ / sigma²."""

    class Gaussian:
        sigma = 0.5

        def check(self, logits):
            pass

        def contrasts(self, logits):
            batch, outputs = logits.shape
            return torch.eye(outputs).to(logits)[:, None].expand(outputs, batch, outputs)

        def factor(self, logits):
            batch, outputs = logits.shape
            return (torch.eye(outputs).double() / self.sigma).expand(batch, outputs, outputs)

    network, images = smooth_network(2, 4), smooth_images(2)
    space = mi.eigenspace(network, images, likelihood=Gaussian())
    jacobians = torch.stack([oracle.jacobian(network, image) for image in images])
    values, vectors = oracle.eigh(jacobians.transpose(1, 2) @ jacobians / 0.25)
    assert ((space.eigenvalues - values[:, :4]).abs() <= 1e-10 * values[:, :1]).all()
    mine, theirs = columns(space)[0], oracle.projector(vectors[0], 4)
    assert (mine @ mine.T - theirs).abs().max() <= 1e-8


# What it means: Kullback-Leibler divergence ------------------------------------------------


@every_dimension
@every_family
def test_divergence_along_eigenvectors_is_half_the_eigenvalue(dims, family, outputs, largest):
    network, images = smooth_network(dims, outputs), smooth_images(dims)
    space = mi.eigenspace(network, images, likelihood=family)
    errors = []
    for step in (1e-2, 1e-4):
        worst = 0.0
        for r in range(min(3, largest)):
            size = step / space.eigenvalues[:, r].sqrt()  # equally visible along each
            moved = images + size.view(-1, *[1] * (images.ndim - 1)) * space.eigenvectors[:, r]
            divergence = oracle.divergence(network, images, moved, family)
            ratio = divergence / (0.5 * size**2 * space.eigenvalues[:, r])
            worst = max(worst, (ratio - 1).abs().max().item())
        errors.append(worst)
    assert errors[1] <= 2e-3
    assert errors[1] <= 0.1 * errors[0]  # it goes to 1, and is not only near it


@every_dimension
@every_family
def test_divergence_along_any_direction_is_half_the_form(dims, family, outputs, largest):
    network, images = smooth_network(dims, outputs), smooth_images(dims)
    space = mi.eigenspace(network, images, likelihood=family)
    for seed in (3, 4):
        d = smooth_images(dims, seed=seed)
        # What dᵀFd is on average over directions; some d are nearly orthogonal to everything.
        typical = space.trace * d.flatten(1).square().mean(dim=1)
        d = d * (1e-4 / typical.sqrt()).view(-1, *[1] * (d.ndim - 1))
        sides = [oracle.divergence(network, images, images + s * d, family) for s in (1, -1)]
        form = space.quadratic_form(d)
        assert (form > 1e-12).any()
        error = (sum(sides) / 2 - 0.5 * form).abs()  # both signs: the cubic term cancels
        assert (error <= 2e-3 * 0.5 * form.clamp_min(1e-8)).all()


# Split --------------------------------------------------------------------------------------


@every_dimension
@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_split_adds_up_is_orthogonal_and_final(dims, family, outputs, largest, dtype):
    network = smooth_network(dims, outputs, dtype=dtype)
    images = smooth_images(dims, dtype=dtype)
    space = mi.eigenspace(network, images, likelihood=family)
    high, orth = space.split(images)
    eps = torch.finfo(dtype).eps
    assert high.dtype == orth.dtype == dtype
    assert (high + orth - images).abs().max() <= 2 * eps * images.abs().max()

    def inner(a, b):
        return (a.double() * b.double()).flatten(1).sum(dim=1)

    # Trailing eigenvectors of a float32 network are good to about 1e-4.
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    norm = inner(images, images)
    assert (inner(high, orth).abs() <= tolerance * norm).all()
    assert (space.quadratic_form(orth) <= tolerance**2 * space.trace * norm).all()

    again, nothing = space.split(high)
    assert (again - high).abs().max() <= tolerance * high.abs().max()
    assert nothing.abs().max() <= tolerance * high.abs().max()
    gone, same = space.split(orth)
    assert gone.abs().max() <= tolerance * orth.abs().max()
    assert (same - orth).abs().max() <= tolerance * orth.abs().max()


def test_split_uses_fewer_eigenvectors_only_when_a_rank_is_given():
    network, images = smooth_network(2, 5), smooth_images(2)
    space = mi.eigenspace(network, images)
    v = columns(space)
    for rank in (1, 3):
        high, orth = space.split(images, rank=rank)
        expected = v[:, :, :rank] @ (v[:, :, :rank].transpose(1, 2) @ images.flatten(1)[..., None])
        torch.testing.assert_close(high.flatten(1), expected[..., 0], rtol=0, atol=1e-12)
        assert (high + orth - images).abs().max() <= 1e-14
        few = mi.eigenspace(network, images, rank=rank).split(images)[0]
        torch.testing.assert_close(high, few, rtol=0, atol=1e-12)
    everything = space.split(images, rank=4)[0]
    assert torch.equal(everything, space.split(images)[0])


def test_parts_of_a_split_do_not_hang_on_the_callers_graph():
    network, images = smooth_network(2, 3), smooth_images(2).requires_grad_()
    space = mi.eigenspace(network, images)
    parts = (*space.split(images), space.coefficients(images), space.quadratic_form(images))
    assert not any(part.requires_grad for part in parts)
    assert not any(
        value.requires_grad for value in vars(space).values() if isinstance(value, torch.Tensor)
    )


def test_coefficients_are_inner_products_with_the_eigenvectors():
    network, images = smooth_network(3, 4), smooth_images(3)
    space = mi.eigenspace(network, images, rank=2)
    other = smooth_images(3, seed=7)
    expected = torch.einsum("brn,bn->br", space.eigenvectors.flatten(2), other.flatten(1))
    torch.testing.assert_close(space.coefficients(other), expected, rtol=1e-10, atol=1e-10)
    # They carry the energy of the component.
    high, _ = space.split(other)
    energy = space.coefficients(other).square().sum(dim=1)
    torch.testing.assert_close(energy, high.flatten(1).square().sum(dim=1), rtol=1e-10, atol=0)


# Choice of eigenpairs -----------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_rank_keeps_the_leading_pairs_and_the_whole_trace(rank):
    network, images = smooth_network(2, 10), smooth_images(2)
    dense = oracle.fisher(network, images, "categorical")
    space, whole = mi.eigenspace(network, images, rank=rank), mi.eigenspace(network, images)
    trace = dense.diagonal(dim1=1, dim2=2).sum(dim=1)
    torch.testing.assert_close(space.trace, trace, rtol=1e-12, atol=0)
    assert torch.equal(space.eigenvalues, whole.eigenvalues[:, :rank])
    same = whole.eigenvectors[:, :rank]
    torch.testing.assert_close(space.eigenvectors, same, rtol=0, atol=1e-12)
    assert space.rank.tolist() == [rank] * len(images)


@pytest.mark.parametrize("energy", [0.3, 0.7, 0.95, 0.9999, 1.0])
def test_energy_keeps_the_fewest_pairs_that_reach_the_share(energy):
    network, images = smooth_network(2, 10), smooth_images(2)
    space = mi.eigenspace(network, images, energy=energy)
    values, _ = oracle.eigh(oracle.fisher(network, images, "categorical"))
    shares = values.cumsum(dim=1) / values.sum(dim=1, keepdim=True)
    for row, (kept, share) in enumerate(zip(space.rank.tolist(), shares, strict=True)):
        assert share[kept - 1] >= energy - 1e-12
        assert kept == 1 or share[kept - 2] < energy
        assert (space.eigenvalues[row, kept:] == 0).all()
        assert (space.eigenvalues[row, :kept] > 0).all()
    torch.testing.assert_close(space.trace, values.sum(dim=1), rtol=1e-12, atol=0)


def test_energy_is_decided_image_by_image():
    """One image whose F has one strong direction, one whose two directions are equal."""

    class Bent(nn.Module):
        def forward(self, x):
            a, b = x.flatten(1)[:, 0], x.flatten(1)[:, 1]
            return torch.stack([a, b], dim=1)

    images = torch.tensor([[0.0, 12.0, 1.0], [0.3, 0.3, 1.0]], dtype=torch.float64)[:, None]
    space = mi.eigenspace(Bent(), images, likelihood="bernoulli", energy=0.9)
    assert space.rank.tolist() == [1, 2]
    assert space.eigenvalues[0, 1] == 0


@pytest.mark.parametrize("choice", [{}, {"rank": 3}, {"energy": 0.6}])
def test_eigenvectors_are_orthonormal_where_kept_and_zero_elsewhere(choice):
    network, images = smooth_network(3, 10), smooth_images(3)
    space = mi.eigenspace(network, images, **choice)
    for v, kept in zip(columns(space), space.rank.tolist(), strict=True):
        expected = torch.diag((torch.arange(v.shape[1]) < kept).double())
        assert (v.T @ v - expected).abs().max() <= 1e-9
        assert (v[:, kept:] == 0).all()


def test_sign_is_fixed_and_follows_its_rule():
    network, images = smooth_network(2, 3), smooth_images(2)
    space = mi.eigenspace(network, images)
    assert torch.equal(space.eigenvectors, mi.eigenspace(network, images).eigenvectors)
    # Two classes: along +v the less probable class gains.
    network = smooth_network(2, 2)
    space = mi.eigenspace(network, images)
    before, after = network(images), network(images + 1e-4 * space.eigenvectors[:, 0])
    less = before.argmin(dim=1, keepdim=True)
    change = (after.softmax(dim=1) - before.softmax(dim=1)).gather(1, less)
    assert (change > 0).all()
    # One logit: along +v it rises, on both sides of zero.
    network = smooth_network(2, 1)
    space = mi.eigenspace(network, images, likelihood="bernoulli")
    assert (network(images + 1e-4 * space.eigenvectors[:, 0]) > network(images)).all()


# Invariances --------------------------------------------------------------------------------


@every_dimension
@every_family
def test_a_batch_is_its_images_one_by_one(dims, family, outputs, largest):
    network, images = smooth_network(dims, outputs), smooth_images(dims)
    together = mi.eigenspace(network, images, likelihood=family)
    parts = [mi.eigenspace(network, image[None], likelihood=family) for image in images]
    for row, part in enumerate(parts):
        error = (together.eigenvalues[row] - part.eigenvalues[0]).abs()
        assert error.max() <= 1e-10 * part.eigenvalues[0, 0]
        difference = together.split(images)[0][row] - part.split(images[row : row + 1])[0][0]
        assert difference.abs().max() <= 1e-9
        assert torch.allclose(together.sensitivity()[row], part.sensitivity()[0], rtol=1e-9)


def test_order_of_the_classes_does_not_matter():
    network, images = smooth_network(2, 10), smooth_images(2)
    shuffled = smooth_network(2, 10)
    order = torch.tensor([3, 7, 0, 9, 1, 8, 2, 6, 5, 4])
    with torch.no_grad():
        shuffled[-1].weight.copy_(network[-1].weight[order])
        shuffled[-1].bias.copy_(network[-1].bias[order])
    assert_same(mi.eigenspace(shuffled, images), mi.eigenspace(network, images), 1e-11)


@pytest.mark.parametrize("shift", [-40.0, 1e4])
def test_a_shift_of_all_logits_changes_nothing(shift):
    class Shifted(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):  # a shift that depends on the image, too
            return self.network(x) + shift + x.square().flatten(1).sum(dim=1, keepdim=True)

    network, images = smooth_network(2, 10), smooth_images(2)
    tolerance = 1e-11 * max(1, abs(shift))  # the shift itself rounds the logits
    assert_same(mi.eigenspace(Shifted(network), images), mi.eigenspace(network, images), tolerance)


def test_two_classes_are_one_logit():
    """softmax of (0, z) is the sigmoid of z, so both families must say the same."""

    class Pair(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            z = self.network(x)
            return torch.cat([torch.zeros_like(z), z], dim=1)

    network, images = smooth_network(2, 1), smooth_images(2)
    one = mi.eigenspace(network, images, likelihood="bernoulli")
    assert_same(mi.eigenspace(Pair(network), images), one, 1e-12)


@pytest.mark.parametrize("layout", [torch.channels_last, None])
def test_memory_layout_of_the_images_does_not_matter(layout):
    network, images = smooth_network(2, 3), smooth_images(2)
    other = (
        images.to(memory_format=layout)
        if layout
        else images.transpose(2, 3).contiguous().transpose(2, 3)
    )
    assert not other.is_contiguous()
    space, same = mi.eigenspace(network, other), mi.eigenspace(network, images)
    assert_same(space, same, 1e-12)
    assert (space.split(other)[0] - same.split(images)[0]).abs().max() <= 1e-12


def test_printed_in_one_line():
    images = smooth_images(2)
    space = mi.eigenspace(smooth_network(2, 3), images)
    assert re.fullmatch(
        r"Eigenspace\(5 images of shape \(3, 4, 6\), rank 2, trace [\d.e-]+ to [\d.e-]+, "
        r"Categorical\(\), exact\)",
        repr(space),
    ), repr(space)


def test_components_of_images_with_metadata_keep_it():
    images = smooth_images(2)
    space = mi.eigenspace(smooth_network(2, 3), images)
    tracked = MetaTensor(images, affine=3 * torch.eye(4), meta={"filename_or_obj": "a"})
    for part, expected in zip(space.split(tracked), space.split(images), strict=True):
        assert torch.equal(part.affine, tracked.affine)
        assert part.meta["filename_or_obj"] == "a"
        assert torch.equal(part.as_tensor(), expected)
    assert type(expected) is torch.Tensor
