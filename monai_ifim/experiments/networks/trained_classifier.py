"""A trained classifier as the measurements see it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from monai_ifim.core import Eigenspace, Likelihood, as_likelihood, eigenspace
from monai_ifim.core.angles import principal_angles
from monai_ifim.core.families import FAMILIES
from monai_ifim.experiments.logits import one_prediction

# Pixels of a batch: some 200 MB of activations in the networks that are trained here.
_PIXELS = 1 << 16


@dataclass(frozen=True, eq=False)
class TrainedClassifier:
    """A network, its predictive family, and where its weights come from.

    Attributes:
        name: for people.
        network: (B, C, *S) to logits (B, K).
        likelihood: what its logits mean, a family or its name.
        digest: short name of the weights.
    """

    name: str
    network: nn.Module
    likelihood: str | Likelihood
    digest: str

    @property
    def family(self) -> Likelihood:
        """The predictive family as an object."""
        return as_likelihood(self.likelihood)

    @property
    def family_name(self) -> str:
        """The family's name, for keys of results; a foreign family as it is written in Python."""
        names = [name for name, family in FAMILIES.items() if family == self.family]
        return names[0] if names else repr(self.family)

    def eigenspaces(self, images: Tensor) -> list[Eigenspace]:
        """Eigenspaces of many images, batch by batch.

        Args:
            images: (N, C, *S).

        Returns:
            One for each of ``batches(images)``.
        """
        return [self.eigenspace(batch) for batch in batches(images)]

    def eigenspace(self, images: Tensor) -> Eigenspace:
        """Eigenspace of one batch.

        Args:
            images: (B, C, *S).

        Returns:
            The whole eigenspace of each image.

        Raises:
            ValueError: a network with a dense prediction, or images that ``eigenspace`` refuses.
        """
        space = eigenspace(self.network, images, likelihood=self.family)
        one_prediction(space.logits)
        return space


def batches(images: Tensor) -> tuple[Tensor, ...]:
    """Batches of at most 64 images that fit the memory of a small machine.

    Args:
        images: (N, C, *S).

    Returns:
        Views of the images, in order.
    """
    return images.split(batch_size(images))


def batch_size(images: Tensor) -> int:
    """How many of these images a batch holds."""
    return max(1, min(64, _PIXELS // images[0].numel()))


def largest_angles(first: list[Eigenspace], second: list[Eigenspace]) -> Tensor:
    """Largest principal angle between two eigenspaces of each image, in degrees.

    Where one of them has more eigenpairs, only as many of its leading ones are compared.

    Args:
        first: of batches of images.
        second: of the same batches, of another network or of changed images.

    Returns:
        (N,) in float64; 90 where a space is empty.
    """
    angles = []
    for a, b in zip(first, second, strict=True):
        ranks = torch.minimum(a.rank, b.rank).tolist()
        for i, rank in enumerate(ranks):
            pair = a.eigenvectors[i : i + 1, :rank], b.eigenvectors[i : i + 1, :rank]
            angles.append(principal_angles(*pair)[0, -1].rad2deg() if rank else torch.tensor(90.0))
    return torch.stack([angle.double() for angle in angles])


def template_cosines(spaces: list[Eigenspace], templates: Tensor) -> Tensor:
    """Smallest principal cosine between eigenspaces and the span of known templates.

    Args:
        spaces: of batches of images.
        templates: (1, Q, C, *S).

    Returns:
        (N,) in float64; 0 where the eigenspace has fewer directions than there are templates, and
        so misses part of their span.
    """
    cosines = []
    for space in spaces:
        whole = space.rank >= templates.shape[1]
        found = torch.zeros(len(whole), dtype=torch.float64)
        if bool(whole.any()):
            found[whole] = principal_angles(space.eigenvectors[whole], templates)[:, -1].cos()
        cosines.append(found)
    return torch.cat(cosines)
