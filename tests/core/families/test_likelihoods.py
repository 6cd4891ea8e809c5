"""Predictive families: the factor of the class covariance, names."""

import re

import pytest
import torch

import monai_ifim as mi
from _helpers import oracle
from monai_ifim.core import as_likelihood
from monai_ifim.core.families import FAMILIES


def logits(batch, outputs, gain=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return gain * torch.randn(batch, outputs, generator=generator, dtype=torch.float64)


def covariance(family, z):
    """Covariance of the score with respect to the logits, E[grad log p grad log pᵀ], (K, K)."""
    log_p = oracle.FAMILIES[family](z)
    scores = torch.func.jacrev(oracle.FAMILIES[family])(z)
    return scores.T @ (log_p.exp()[:, None] * scores)


@pytest.mark.parametrize(
    ("family", "outputs"),
    [
        ("categorical", 2),
        ("categorical", 3),
        ("categorical", 10),
        ("bernoulli", 1),
        ("bernoulli", 5),
    ],
)
def test_contrasts_and_factor_give_the_covariance_of_the_score(family, outputs):
    z = logits(4, outputs)
    likelihood = as_likelihood(family)
    c, b = likelihood.contrasts(z), likelihood.factor(z)  # (M, B, K), (B, M, M)
    assert len(c) == (outputs - 1 if family == "categorical" else outputs)
    root = torch.einsum("mbk,bml->bkl", c, b)
    for row in range(4):
        expected = covariance(family, z[row])
        torch.testing.assert_close(root[row] @ root[row].T, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("left", [1e-2, 1e-8, 1e-16, 1e-30, 1e-100])
def test_the_factor_keeps_its_digits_for_saturated_predictions(left):
    share = torch.logspace(0, -6, 9, dtype=torch.float64)
    z = torch.cat([torch.zeros(1), torch.log(left / (1 - left) * share / share.sum())])[None]
    b = mi.Categorical().factor(z)[0]
    p = z[0].log_softmax(dim=0).exp()[1:]
    # Entry by entry: p_c (1 - p_c) and -p_c p_k have no cancellation for the improbable classes.
    expected = torch.diag(p) - torch.outer(p, p)
    scale = torch.outer(p.sqrt(), p.sqrt())
    assert ((b @ b.T - expected).abs() <= 1e-14 * scale).all()


@pytest.mark.parametrize("z", [-600.0, -40.0, 0.0, 40.0, 600.0])
def test_the_sigmoid_is_exact_in_both_tails(z):
    b = mi.Bernoulli().factor(torch.tensor([[z]]))[0, 0, 0]
    e = torch.tensor(-abs(z)).double().exp()
    torch.testing.assert_close(b.square(), e / (1 + e).square(), rtol=1e-12, atol=0)


def test_factor_is_float64_for_float32_logits():
    for family in (mi.Categorical(), mi.Bernoulli()):
        z = torch.tensor([[0.1, -200.3, -210.7]])
        factor = family.factor(z)
        assert factor.dtype == torch.float64
        assert torch.equal(factor, family.factor(z.double()))  # and rounded nowhere on the way
        assert (factor.diagonal(dim1=1, dim2=2) > 0).all()


def test_ties_between_classes_choose_one_reference():
    z = torch.zeros(2, 4, dtype=torch.float64)
    c, b = mi.Categorical().contrasts(z), mi.Categorical().factor(z)
    root = torch.einsum("mbk,bml->bkl", c, b)[0]
    torch.testing.assert_close(root @ root.T, covariance("categorical", z[0]), rtol=0, atol=1e-15)


def test_most_probable_outcome():
    z = torch.tensor([[0.5, 2.0, -1.0], [-1.0, -2.0, -3.0], [4.0, -1.0, 1.0]])
    names, probability = mi.Categorical().most_probable(z)
    assert names == ["1", "0", "0"]
    torch.testing.assert_close(probability, z.double().softmax(dim=1).amax(dim=1))
    names, probability = mi.Bernoulli().most_probable(z)
    assert names == ["0+1", "none", "0+2"]
    best = [oracle.bernoulli(row).max().exp() for row in z.double()]
    torch.testing.assert_close(probability, torch.stack(best))
    names, probability = mi.Bernoulli().most_probable(z[:, :1])
    assert names == ["1", "0", "1"]
    torch.testing.assert_close(probability, z[:, 0].double().abs().sigmoid())


def test_names_and_objects_are_the_same_thing():
    assert as_likelihood("categorical") == mi.Categorical()
    family = mi.Bernoulli()
    assert as_likelihood(family) is family
    with pytest.raises(
        ValueError,
        match=re.escape(f"expected likelihood in {sorted(FAMILIES)}, got 'softmax'; use"),
    ):
        as_likelihood("softmax")
    for other in (mi.Categorical, None, 3):
        with pytest.raises(ValueError, match="an object such as Categorical"):
            as_likelihood(other)
