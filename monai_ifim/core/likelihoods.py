"""Predictive families: how logits become a probability p(y | x).

A family says which linear combinations of the logits (the contrasts) have to be
differentiated, and gives the small factor B with F = S B Bᵀ Sᵀ, where the columns of S
are the gradients of the contrasts with respect to the image. A new family is one more
small object with the same methods.

Source: S. Sengupta and M. A. Anastasio, "Input-Dependent Fisher Information for Local
Sensitivity Analysis of Medical Image Classifiers", arXiv 2606.16362.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class Family(Protocol):
    """What logits mean."""

    def check(self, logits: Tensor) -> None:
        """Raise ValueError unless the logits can belong to this family."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability of each class or label, (B, K) in float64."""

    def most_probable(self, logits: Tensor) -> tuple[list[str], Tensor]:
        """The most probable outcome of each image as text, and its probability (B,)."""


class Likelihood(Family, Protocol):
    """A family of one outcome per image, with what the Fisher information needs to know of it."""

    def contrasts(self, logits: Tensor) -> Tensor:
        """Cotangents (M, B, K), one vector-Jacobian product each."""

    def factor(self, logits: Tensor) -> Tensor:
        """Factor B as (B, M, M) in float64."""


@dataclass(frozen=True)
class Categorical:
    r"""One of K classes, p = softmax(z), with logits z of shape (B, K), K >= 2.

    With r the most probable class, s_c = grad(z_c - z_r) and w_c = sqrt(p_c) for c != r,

        diag(w²) - w² (w²)ᵀ = B Bᵀ,    B = diag(w) (I - w wᵀ / (1 + sqrt(p_r))),

    so that K - 1 backward passes suffice and no nearly equal gradients are subtracted: the
    form keeps its digits for saturated predictions, where sqrt(p_c) grad(log p_c) loses them.
    """

    def check(self, logits: Tensor) -> None:
        """Raise unless there are at least two classes.

        Args:
            logits: (B, K).

        Raises:
            ValueError: K = 1.
        """
        if logits.shape[1] < 2:
            raise ValueError(
                f"expected at least 2 logits per image for the categorical family, got shape "
                f"{tuple(logits.shape)}; for one logit with a sigmoid use likelihood='bernoulli'"
            )
        if (logits >= 0).all() and torch.allclose(
            logits.sum(dim=1), logits.new_ones(len(logits)), atol=1e-3
        ):
            warnings.warn(
                "the network's outputs are not negative and add up to 1: are they probabilities? "
                "Expected logits; pass output_transform=torch.log, or take the softmax away",
                stacklevel=2,
            )

    def contrasts(self, logits: Tensor) -> Tensor:
        """Cotangents e_c - e_r for every class c but the most probable one r.

        Args:
            logits: (B, K).

        Returns:
            (K - 1, B, K), of the logits' dtype.
        """
        reference, others = self._order(logits)
        identity = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
        return identity[others.T] - identity[reference]

    def factor(self, logits: Tensor) -> Tensor:
        """Factor B of the class covariance, with the most probable class left out.

        Args:
            logits: (B, K).

        Returns:
            (B, K - 1, K - 1) in float64.
        """
        reference, others = self._order(logits)
        # sqrt(p) as exp(log p / 2): at 1 - p = 1e-50 the root still has all its digits.
        root = torch.exp(0.5 * torch.log_softmax(logits.double(), dim=1))
        w = root.gather(1, others)
        root_reference = root.gather(1, reference[:, None])[:, :, None]
        outer = w[:, :, None] * w[:, None, :] / (1 + root_reference)
        identity = torch.eye(w.shape[1], dtype=w.dtype, device=w.device)
        return w[:, :, None] * (identity - outer)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax.

        Args:
            logits: (B, K).

        Returns:
            (B, K) in float64; rows add up to 1.
        """
        return torch.softmax(logits.double(), dim=1)

    def most_probable(self, logits: Tensor) -> tuple[list[str], Tensor]:
        """The most probable class.

        Args:
            logits: (B, K).

        Returns:
            Class numbers as text, and their probabilities (B,) in float64.
        """
        probability, index = self.probabilities(logits).max(dim=1)
        return [str(i) for i in index.tolist()], probability

    @staticmethod
    def _order(logits: Tensor) -> tuple[Tensor, Tensor]:
        """Most probable class (B,), and all others in rising order (B, K - 1)."""
        classes = torch.arange(logits.shape[1], device=logits.device).expand_as(logits)
        reference = logits.argmax(dim=1)
        others = classes[classes != reference[:, None]].view(logits.shape[0], -1)
        return reference, others


@dataclass(frozen=True)
class Bernoulli:
    """Independent yes-or-no labels, p_l = sigmoid(z_l), with logits z of shape (B, L), L >= 1.

    F = sum over l of p_l (1 - p_l) grad(z_l) grad(z_l)ᵀ, so B is diagonal. Through
    log-sigmoids it is exact in both tails. L = 1 is the two-class network with one logit.
    """

    def check(self, logits: Tensor) -> None:
        """Accept any (B, L) with L >= 1.

        Args:
            logits: (B, L).

        Raises:
            ValueError: L = 0.
        """
        if logits.shape[1] < 1:
            raise ValueError(
                f"expected at least 1 logit per image, got shape {tuple(logits.shape)}; "
                "check the network's output"
            )

    def contrasts(self, logits: Tensor) -> Tensor:
        """Cotangents e_l, one per label.

        Args:
            logits: (B, L).

        Returns:
            (L, B, L), of the logits' dtype.
        """
        identity = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
        return identity[:, None, :].expand(-1, logits.shape[0], -1)

    def factor(self, logits: Tensor) -> Tensor:
        """Diagonal factor with entries sqrt(p (1 - p)).

        Args:
            logits: (B, L).

        Returns:
            (B, L, L) in float64.
        """
        z = logits.double()
        return torch.diag_embed(torch.exp(0.5 * (logsigmoid(z) + logsigmoid(-z))))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoid of each label.

        Args:
            logits: (B, L).

        Returns:
            (B, L) in float64.
        """
        return torch.sigmoid(logits.double())

    def most_probable(self, logits: Tensor) -> tuple[list[str], Tensor]:
        """The most probable set of labels.

        Args:
            logits: (B, L).

        Returns:
            For L = 1, "1" or "0"; for more, the numbers of the labels that are present, joined
            by "+", or "none". And the probability of that outcome, (B,) in float64.
        """
        present = logits > 0
        probability = torch.sigmoid(logits.double().abs()).prod(dim=1)
        if logits.shape[1] == 1:
            return [str(int(row)) for row in present[:, 0].tolist()], probability
        names = ["+".join(str(i) for i, yes in enumerate(row) if yes) for row in present.tolist()]
        return [name or "none" for name in names], probability


FAMILIES: dict[str, Likelihood] = {"categorical": Categorical(), "bernoulli": Bernoulli()}


def as_likelihood(likelihood: str | Likelihood) -> Likelihood:
    """Family of that name, or the family itself.

    Args:
        likelihood: a name in ``FAMILIES``, or an object with the methods of ``Likelihood``.

    Returns:
        The family.

    Raises:
        ValueError: unknown name.

    >>> as_likelihood("bernoulli")
    Bernoulli()
    """
    if not isinstance(likelihood, str):
        return likelihood
    if likelihood not in FAMILIES:
        raise ValueError(
            f"expected likelihood in {sorted(FAMILIES)}, got {likelihood!r}; use 'categorical' "
            "for a softmax, 'bernoulli' for sigmoids"
        )
    return FAMILIES[likelihood]
