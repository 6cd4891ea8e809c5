"""Confident predictions in float32, against float64: the common case in medical imaging."""

import pytest
import torch

import monai_ifim as mi
from _helpers import oracle
from _helpers.problems import Affine, smooth_images, smooth_network

SATURATION = [1e-2, 1e-4, 1e-7, 1e-12, 1e-20, 1e-30, 1e-50]


def saturated(left, dims=2, classes=10):
    """Float64 network and images with 1 - p_r = ``left`` for class r at each image's place.

    The other classes share what is left in proportions that span three decades.
    """
    network, images = smooth_network(dims, classes, seed=5), smooth_images(dims)[:1]
    share = torch.logspace(0, -3, classes - 1, dtype=torch.float64)
    log_p = torch.log(left * share / share.sum())
    gaps = torch.cat([torch.log1p(torch.tensor([-left]).double()), log_p]).roll(3)
    with torch.no_grad():
        network[-1].bias.add_(gaps - network(images)[0])
    return network, images


@pytest.mark.parametrize("left", SATURATION)
def test_float32_keeps_its_digits_on_saturated_predictions(left):
    network, images = saturated(left)
    logits = network(images).detach()[0]
    log_p = logits - logits.logsumexp(0)
    assert (log_p.exp().sort().values[:-1].sum() / left - 1).abs() < 1e-9
    dense = oracle.saturated_fisher(oracle.jacobian(network, images[0]), logits)
    values, vectors = oracle.eigh(dense[None])

    space = mi.eigenspace(network.float(), images.float())
    assert space.rank.tolist() == [9]
    # float32 logits of size 120 are rounded by 4e-6, which moves every probability by as much.
    assert ((space.eigenvalues / values[:, :9] - 1).abs() <= 2e-5).all()
    torch.testing.assert_close(space.trace, values.sum(dim=1), rtol=2e-5, atol=0)
    v = space.eigenvectors[0].flatten(1).T.double()
    for rank, tolerance in ((1, 2e-5), (3, 2e-5), (9, 2e-5)):
        difference = v[:, :rank] @ v[:, :rank].T - oracle.projector(vectors[0], rank)
        assert torch.linalg.matrix_norm(difference, 2) <= tolerance
    diagonal = dense.diagonal().view(images.shape[1:])
    assert (space.sensitivity()[0] - diagonal).abs().max() <= 2e-5 * diagonal.max()


@pytest.mark.parametrize("left", [1e-7, 1e-12, 1e-20, 1e-30])
def test_a_square_root_formed_in_float32_fails_there(left):
    """The test above has teeth: diag(p) - p pᵀ and its root in float32 are 20 % off."""
    network, images = saturated(left)
    j, logits = oracle.jacobian(network, images[0]), network(images).detach()[0]
    expected = oracle.eigh(oracle.saturated_fisher(j, logits)[None])[0][0, 0]
    p = logits.float().softmax(dim=0)
    values, vectors = torch.linalg.eigh(torch.diag(p) - torch.outer(p, p))
    root = (values.clamp_min(0).sqrt() * vectors).T.double() @ j
    assert (torch.linalg.eigvalsh(root @ root.T)[-1] / expected - 1).abs() > 0.05


@pytest.mark.parametrize("logit", [-80.0, -30.0, 30.0, 80.0])
def test_float32_keeps_its_digits_in_both_tails_of_a_sigmoid(logit):
    network, images = smooth_network(2, 1, seed=6), smooth_images(2)[:1]
    with torch.no_grad():
        network[-1].bias.add_(logit - network(images)[0])
    gradient = oracle.jacobian(network, images[0])[0]
    z = torch.tensor(logit).double()
    expected = torch.exp(-z.abs()) / (1 + torch.exp(-z.abs())) ** 2 * gradient.square().sum()
    space = mi.eigenspace(network.float(), images.float(), likelihood="bernoulli")
    assert (space.eigenvalues[0, 0] / expected - 1).abs() <= 2e-5
    cosine = space.eigenvectors[0, 0].flatten().double() @ gradient / gradient.norm()
    assert (cosine - 1).abs() <= 1e-6


def test_small_singular_values_survive_a_float32_network():
    """Singular values 1e-3 apart: a Gram matrix in float32 puts the eigenvalue 20 % off."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(24, 2, generator=generator, dtype=torch.float64))[0].T
    weight = torch.stack([basis[0], basis[0] + 2e-3 * basis[1]]).float()
    images = torch.zeros(1, 2, 3, 4)
    space = mi.eigenspace(Affine(weight), images, likelihood="bernoulli")
    expected = torch.linalg.svdvals(weight.double()).square() / 4
    assert ((space.eigenvalues[0] / expected - 1).abs() <= 1e-6).all()
    v = space.eigenvectors[0].flatten(1).double()
    assert (v @ v.T - torch.eye(2)).abs().max() <= 1e-3
