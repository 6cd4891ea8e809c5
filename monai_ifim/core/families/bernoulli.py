"""Sigmoids: independent yes-or-no labels for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from monai_ifim.core.families.divergence import softmax_divergence
from monai_ifim.core.families.probabilities import warn_of_probabilities
from monai_ifim.core.families.recoded import ChosenClasses, as_numbers
from monai_ifim.core.families.voxelwise_bernoulli import VoxelwiseBernoulli


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
        warn_of_probabilities(logits)

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

    def outcome_probability(self, logits: Tensor, reference: Tensor) -> Tensor:
        """Probability of the set of labels that is the most probable one for the reference.

        Args:
            logits: (B, L).
            reference: (B, L).

        Returns:
            (B,) in float64.

        >>> Bernoulli().outcome_probability(torch.zeros(1, 2), torch.tensor([[3.0, -1.0]]))
        tensor([0.2500], dtype=torch.float64)
        """
        probabilities = self.probabilities(logits)
        return torch.where(reference > 0, probabilities, 1 - probabilities).prod(dim=1)

    def entropy(self, logits: Tensor) -> Tensor:
        """Entropy in nats, the sum over the labels.

        Args:
            logits: (B, L).

        Returns:
            (B,) in float64.
        """
        lead = logits.double().abs()
        return (lead * torch.sigmoid(-lead) - logsigmoid(lead)).sum(dim=1)

    def uncertainty(self, logits: Tensor) -> Tensor:
        """1 - the probability of the most probable set of labels.

        Args:
            logits: (B, L).

        Returns:
            (B,) in float64, with all digits where that is nearly 0.
        """
        return -torch.expm1(logsigmoid(logits.double().abs()).sum(dim=1))

    def divergence(self, before: Tensor, after: Tensor) -> Tensor:
        """KL divergence between two predictions, the sum over the labels.

        Args:
            before: logits (B, L) of the first.
            after: logits (B, L) of the second.

        Returns:
            (B,) in float64, in nats.
        """
        # A sigmoid is a softmax over the logit and 0.
        pairs = [torch.stack([z, torch.zeros_like(z)], -1) for z in (before, after)]
        return softmax_divergence(*(pair.double() for pair in pairs)).sum(dim=1)

    def predicted(self, logits: Tensor) -> Tensor:
        """Whether each label is more probable than not.

        Args:
            logits: (B, L).

        Returns:
            0 and 1 in int64: (B,) for one label, (B, L) for several.
        """
        present = (logits > 0).long()
        return present[:, 0] if logits.shape[1] == 1 else present

    def class_table(self, logits: Tensor) -> Tensor | None:
        """One label is two classes, of which one is true; several labels are not.

        Args:
            logits: (B, L).

        Returns:
            (B, 2) in float64 for L = 1: of no and of yes. None for more labels.
        """
        if logits.shape[1] > 1:
            return None
        probabilities = self.probabilities(logits)
        return torch.cat([1 - probabilities, probabilities], dim=1)

    def outcome_logits(self, logits: Tensor) -> list[tuple[int, int]]:
        """The logit that is largest in absolute value.

        Args:
            logits: (B, L).

        Returns:
            For each image its position, and 1 where the label is predicted, else -1.
        """
        surest = logits.abs().argmax(dim=1, keepdim=True)
        signs = torch.where(logits.gather(1, surest) > 0, 1, -1)
        return list(zip(surest[:, 0].tolist(), signs[:, 0].tolist(), strict=True))

    def flips(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """By how much each logit must rise for its label to appear, or to disappear.

        Args:
            logits: (B, L).

        Returns:
            -z_l (B, L) in float64, and the labels l; for L = 1 the other outcome, 1 or 0.
        """
        if logits.shape[1] == 1:
            return -logits.double(), (logits <= 0).long()
        labels = torch.arange(logits.shape[1], device=logits.device)
        return -logits.double(), labels.expand_as(logits)

    def only(self, classes: Sequence[int]) -> ChosenClasses:
        """Some of the labels alone.

        Args:
            classes: numbers of the labels, at least one.

        Returns:
            A family for the same logits.

        Raises:
            ValueError: none, a number twice, or no numbers.
        """
        return ChosenClasses(self, as_numbers(classes, "classes"))

    def dense(self) -> VoxelwiseBernoulli:
        """The same at every voxel of a segmentation."""
        return VoxelwiseBernoulli()
