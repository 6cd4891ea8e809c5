"""Predictive family of a segmentation network with sigmoids: labels that may overlap."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from monai_ifim.core.families.divergence import softmax_divergence
from monai_ifim.core.families.roots import DiagonalRoot


@dataclass(frozen=True)
class VoxelwiseBernoulli:
    """Independent labels at every voxel, p = sigmoid(z), with logits (B, L, *S), L >= 1.

    F = Σ over voxels v and labels l of σ(z) σ(-z) ∇z ∇zᵀ, as in BraTS, whose regions overlap. Only
    its products are formed (``krylov``).
    """

    def check(self, logits: Tensor) -> None:
        """Raise unless there is a label at each voxel.

        Args:
            logits: (B, L, *S).

        Raises:
            ValueError: no channels, or no voxels.
        """
        if logits.ndim < 3 or not logits[0].numel():
            raise ValueError(
                "expected logits of shape (batch, labels, *spatial) with at least 1 label, got "
                f"{tuple(logits.shape)}; for one outcome per image use likelihood='bernoulli'"
            )

    def root(self, logits: Tensor) -> DiagonalRoot:
        """Root of the variance of every label at every voxel.

        Args:
            logits: (B, L, *S).

        Returns:
            The root, with one coordinate for each label and voxel.
        """
        z = logits.double()
        return DiagonalRoot.of(torch.exp(0.5 * (logsigmoid(z) + logsigmoid(-z))), logits.dtype)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Mean probability of each label over the voxels, (B, L) in float64."""
        return torch.sigmoid(logits.double()).flatten(2).mean(dim=2)

    def most_probable(self, logits: Tensor) -> tuple[list[str], Tensor]:
        """The labels that are segmented.

        Args:
            logits: (B, L, *S).

        Returns:
            For each image the numbers of the labels that are present somewhere, joined by "+", or
            "none" (for L = 1, "1" or "0"), and the mean over voxels and labels of the probability
            of what is the more probable there, (B,) in float64.
        """
        present = (logits > 0).flatten(2).any(dim=2).tolist()
        if logits.shape[1] == 1:
            names = [str(int(row[0])) for row in present]
        else:
            joined = ["+".join(str(i) for i, yes in enumerate(row) if yes) for row in present]
            names = [name or "none" for name in joined]
        return names, torch.sigmoid(logits.double().abs()).flatten(1).mean(dim=1)

    def outcome_probability(self, logits: Tensor, reference: Tensor) -> Tensor:
        """Mean probability of what is the more probable for the reference, (B,) in float64."""
        signs = torch.where(reference > 0, 1.0, -1.0)
        return torch.sigmoid(signs * logits.double()).flatten(1).mean(dim=1)

    def entropy(self, logits: Tensor) -> Tensor:
        """Entropy of the whole segmentation in nats, the sum over voxels and labels, (B,)."""
        lead = logits.double().abs()
        return (lead * torch.sigmoid(-lead) - logsigmoid(lead)).flatten(1).sum(dim=1)

    def uncertainty(self, logits: Tensor) -> Tensor:
        """Mean probability of what is the less probable, (B,) in float64."""
        return torch.sigmoid(-logits.double().abs()).flatten(1).mean(dim=1)

    def divergence(self, before: Tensor, after: Tensor) -> Tensor:
        """KL divergence between two segmentations, the sum over voxels and labels.

        Args:
            before: logits (B, L, *S) of the first.
            after: logits (B, L, *S) of the second.

        Returns:
            (B,) in float64, in nats.
        """
        pairs = [torch.stack([z, torch.zeros_like(z)], -1).double() for z in (before, after)]
        return softmax_divergence(*pairs).flatten(1).sum(dim=1)
