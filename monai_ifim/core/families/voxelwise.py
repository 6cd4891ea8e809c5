"""Predictive family of a segmentation network: one softmax at each voxel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from monai_ifim.core.families.divergence import softmax_divergence
from monai_ifim.core.families.roots import unit_scale


@dataclass(frozen=True)
class VoxelwiseCategorical:
    """Independent classes at every voxel, p_v = softmax(z_v), with logits (B, K, *S), K >= 2.

    F = sum over voxels v of J_vᵀ (diag(p_v) - p_v p_vᵀ) J_v: the Kullback-Leibler divergence of
    the whole segmentation is the sum over its voxels. There are (K - 1) times as many contrasts
    as voxels, so only its products are formed (``krylov``).
    """

    def check(self, logits: Tensor) -> None:
        """Raise unless there are at least two classes at each voxel.

        Args:
            logits: (B, K, *S).

        Raises:
            ValueError: K = 1, or no voxels.
        """
        if logits.ndim < 3 or logits.shape[1] < 2:
            raise ValueError(
                "expected logits of shape (batch, classes, *spatial) with at least 2 classes, got "
                f"{tuple(logits.shape)}; one channel with a sigmoid is two classes: "
                "output_transform=lambda z: torch.cat([torch.zeros_like(z), z], dim=1)"
            )

    def root(self, logits: Tensor) -> VoxelwiseRoot:
        """Root of the class covariance at every voxel.

        Args:
            logits: (B, K, *S).

        Returns:
            The root, with K coordinates for each voxel.
        """
        log_p = torch.log_softmax(logits.double(), dim=1)
        root = torch.exp(0.5 * log_p)
        reference = logits.argmax(dim=1, keepdim=True)
        others = root.scatter(1, reference, 0)
        scale = unit_scale(others.flatten(1))
        # Scaled before they are rounded: a confident prediction's roots lie below float32's range.
        others = others / scale.view(-1, *[1] * (others.ndim - 1))
        return VoxelwiseRoot(root.to(logits.dtype), others.to(logits.dtype), reference, scale)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Mean probability of each class over the voxels.

        Args:
            logits: (B, K, *S).

        Returns:
            (B, K) in float64; rows add up to 1.
        """
        return torch.softmax(logits.double(), dim=1).flatten(2).mean(dim=2)

    def most_probable(self, logits: Tensor) -> tuple[list[str], Tensor]:
        """The classes that are segmented.

        Args:
            logits: (B, K, *S).

        Returns:
            For each image the classes that are the most probable one somewhere, joined by "+",
            and the mean over the voxels of the most probable class's probability, (B,).
        """
        probability, index = torch.softmax(logits.double(), dim=1).max(dim=1)
        names = ["+".join(str(c) for c in image.unique().tolist()) for image in index]
        return names, probability.flatten(1).mean(dim=1)

    def outcome_probability(self, logits: Tensor, reference: Tensor) -> Tensor:
        """Mean probability of the classes that are the most probable ones for the reference.

        Args:
            logits: (B, K, *S).
            reference: (B, K, *S).

        Returns:
            (B,) in float64, the mean over the voxels.
        """
        probabilities = torch.softmax(logits.double(), dim=1)
        chosen = probabilities.gather(1, reference.argmax(dim=1, keepdim=True))
        return chosen.flatten(1).mean(dim=1)

    def entropy(self, logits: Tensor) -> Tensor:
        """Entropy of the whole segmentation in nats, the sum over its voxels.

        Args:
            logits: (B, K, *S).

        Returns:
            (B,) in float64.
        """
        log_p = torch.log_softmax(logits.double(), dim=1)
        return -(log_p.exp() * log_p).flatten(1).sum(dim=1)

    def uncertainty(self, logits: Tensor) -> Tensor:
        """1 - the mean over the voxels of the most probable class's probability.

        Args:
            logits: (B, K, *S).

        Returns:
            (B,) in float64.
        """
        logits = logits.double()
        odds = torch.exp(logits - logits.amax(dim=1, keepdim=True))
        odds = odds.scatter(1, logits.argmax(dim=1, keepdim=True), 0).sum(dim=1)
        return (odds / (1 + odds)).flatten(1).mean(dim=1)

    def divergence(self, before: Tensor, after: Tensor) -> Tensor:
        """KL divergence between two segmentations, the sum over their voxels.

        Args:
            before: logits (B, K, *S) of the first.
            after: logits (B, K, *S) of the second.

        Returns:
            (B,) in float64, in nats.
        """
        pair = (z.double().movedim(1, -1) for z in (before, after))
        return softmax_divergence(*pair).flatten(1).sum(dim=1)


@dataclass(frozen=True)
class VoxelwiseRoot:
    """A = diag(w) (I - w wᵀ) with w = sqrt(p) at each voxel, because w has length 1.

    With r the most probable class, both products are formed from differences with r, so that a
    saturated voxel loses no digits.

    Attributes:
        root: w, (B, K, *S), in the logits' dtype.
        others: w / scale, 0 for the reference, (B, K, *S).
        reference: r, (B, 1, *S).
        scale: (B,) in float64.
    """

    root: Tensor
    others: Tensor
    reference: Tensor
    scale: Tensor

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return self.root[0].numel()

    @property
    def dtype(self) -> torch.dtype:
        """Of the coordinates."""
        return self.root.dtype

    def cotangents(self, coordinates: Tensor) -> Tensor:
        """A r / scale.

        Args:
            coordinates: (B, M, D).

        Returns:
            (M, B, K, *S).
        """
        u = coordinates.transpose(0, 1).reshape(-1, *self.root.shape)
        along = (self.root * u).sum(dim=2, keepdim=True)
        values = self.others * (u - self.root * along)
        # Components add up to 0: the reference's own would be a difference of nearly equal ones.
        reference = self.reference.expand(len(u), *self.reference.shape)
        return values.scatter(2, reference, -values.sum(dim=2, keepdim=True))

    def coordinates(self, outputs: Tensor) -> Tensor:
        """Aᵀ z / scale.

        Args:
            outputs: (M, B, K, *S).

        Returns:
            (B, M, D).
        """
        reference = self.reference.expand(len(outputs), *self.reference.shape)
        z = outputs - outputs.gather(2, reference)
        along = (self.root.square() * z).sum(dim=2, keepdim=True)
        values = self.others * (z - along)
        root_of_reference = self.root.gather(1, self.reference)
        own = -root_of_reference * (self.root * self.others * z).sum(dim=2, keepdim=True)
        return values.scatter(2, reference, own).flatten(2).transpose(0, 1)
