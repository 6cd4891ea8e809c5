"""Softmax: one of K classes for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from monai_ifim.core.families.divergence import softmax_divergence
from monai_ifim.core.families.probabilities import warn_of_probabilities
from monai_ifim.core.families.recoded import ChosenClasses, MergedClasses, as_numbers
from monai_ifim.core.families.voxelwise import VoxelwiseCategorical


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
                f"{tuple(logits.shape)}; for one logit of a sigmoid classifier use "
                "likelihood='bernoulli'; a regression output has no class probabilities: use "
                "likelihood=Gaussian(scale)"
            )
        warn_of_probabilities(logits)

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

    def outcome_probability(self, logits: Tensor, reference: Tensor) -> Tensor:
        """Probability of the class that is the most probable one for the reference logits.

        Args:
            logits: (B, K).
            reference: (B, K).

        Returns:
            (B,) in float64.

        >>> reference = torch.tensor([[0.0, 3.0, 1.0, 0.0]])
        >>> Categorical().outcome_probability(torch.zeros(1, 4), reference)
        tensor([0.2500], dtype=torch.float64)
        """
        return self.probabilities(logits).gather(1, reference.argmax(dim=1, keepdim=True))[:, 0]

    def entropy(self, logits: Tensor) -> Tensor:
        """Entropy in nats, from a sum of terms that are all positive.

        With d_c = z_r - z_c >= 0 and o = sum over c != r of exp(-d_c), the odds against the most
        probable class r: H = log(1 + o) + sum over c of p_c d_c.

        Args:
            logits: (B, K).

        Returns:
            (B,) in float64.
        """
        lead = self._lead(logits)
        probabilities = torch.softmax(logits.double(), dim=1)
        # A class of probability 0 adds nothing, also where its logit is minus infinity.
        terms = torch.where(probabilities > 0, probabilities * lead, 0)
        return torch.log1p(self._odds(logits)) + terms.sum(dim=1)

    def uncertainty(self, logits: Tensor) -> Tensor:
        """1 - p_r = o / (1 + o) with the odds o against the most probable class r.

        Args:
            logits: (B, K).

        Returns:
            (B,) in float64, with all digits where p_r is nearly 1.
        """
        odds = self._odds(logits)
        return odds / (1 + odds)

    def divergence(self, before: Tensor, after: Tensor) -> Tensor:
        """KL divergence between two predictions.

        Args:
            before: logits (B, K) of the first.
            after: logits (B, K) of the second.

        Returns:
            (B,) in float64, in nats.

        >>> Categorical().divergence(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))
        tensor([0.1201], dtype=torch.float64)
        """
        return softmax_divergence(before.double(), after.double())

    def predicted(self, logits: Tensor) -> Tensor:
        """The most probable class.

        Args:
            logits: (B, K).

        Returns:
            (B,) in int64.
        """
        return logits.argmax(dim=1)

    def class_table(self, logits: Tensor) -> Tensor:
        """Probabilities of the classes.

        Args:
            logits: (B, K).

        Returns:
            (B, K) in float64.
        """
        return self.probabilities(logits)

    def outcome_logits(self, logits: Tensor) -> list[tuple[int, int]]:
        """The logit of the most probable class.

        Args:
            logits: (B, K).

        Returns:
            For each image its position, and the sign 1.
        """
        return [(index, 1) for index in logits.argmax(dim=1).tolist()]

    def flips(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """By how much each contrast must rise for its class to be the most probable one.

        Args:
            logits: (B, K).

        Returns:
            z_r - z_c (B, K - 1) in float64, and the classes c.
        """
        _, others = self._order(logits)
        return self._lead(logits).gather(1, others), others

    def only(self, classes: Sequence[int]) -> ChosenClasses:
        """The prediction given that one of some classes is true; a pair takes one pass.

        Args:
            classes: their numbers, at least two.

        Returns:
            A family for the same logits.

        Raises:
            ValueError: fewer than two, a number twice, or no numbers.

        >>> Categorical().only([0, 2]).probabilities(torch.tensor([[1.0, 9.0, 1.0]]))
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
        """
        numbers = as_numbers(classes, "classes")
        if len(numbers) < 2:
            raise ValueError(
                f"expected at least two classes, got classes={list(numbers)}; for one class "
                f"against all others use groups, for example groups=[{list(numbers)}, [...]]"
            )
        return ChosenClasses(self, numbers)

    def merged(self, groups: Sequence[Sequence[int]]) -> MergedClasses:
        """The prediction of groups of classes: normal against any disease.

        Args:
            groups: numbers of each group's classes; what is in none is left out.

        Returns:
            A family for the same logits.

        Raises:
            ValueError: fewer than two groups, an empty one, or a class in two of them.

        >>> Categorical().merged([[0], [1, 2]]).probabilities(torch.zeros(1, 3))
        tensor([[0.3333, 0.6667]], dtype=torch.float64)
        """
        if not isinstance(groups, Sequence) or isinstance(groups, str):
            raise ValueError(
                f"expected groups as a list of lists of classes, got {groups!r}; for example "
                "groups=[[0], [1, 2]]"
            )
        return MergedClasses(self, tuple(as_numbers(group, "each group") for group in groups))

    def dense(self) -> VoxelwiseCategorical:
        """The same at every voxel of a segmentation."""
        return VoxelwiseCategorical()

    @staticmethod
    def _lead(logits: Tensor) -> Tensor:
        """By how much the largest logit exceeds each one, (B, K) in float64."""
        logits = logits.double()
        return logits.amax(dim=1, keepdim=True) - logits

    @classmethod
    def _odds(cls, logits: Tensor) -> Tensor:
        """Odds against the most probable class, (B,) in float64."""
        reference = logits.double().argmax(dim=1, keepdim=True)
        return torch.exp(-cls._lead(logits)).scatter(1, reference, 0).sum(dim=1)

    @staticmethod
    def _order(logits: Tensor) -> tuple[Tensor, Tensor]:
        """Most probable class (B,), and all others in rising order (B, K - 1)."""
        classes = torch.arange(logits.shape[1], device=logits.device).expand_as(logits)
        reference = logits.argmax(dim=1)
        others = classes[classes != reference[:, None]].view(logits.shape[0], -1)
        return reference, others
