"""What a batch holds: its images, what lies beside them, and how large their voxels are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_ifim.core.one_by_one import of_image


class MissingEntry(KeyError):
    """No batch of this run has what is needed, which is no image's fault."""

    def __str__(self) -> str:
        """The sentence, which a KeyError would put into quotes."""
        return str(self.args[0])


@dataclass(frozen=True, eq=False)
class Batch:
    """What a batch holds.

    Attributes:
        images: (B, C, *S) without metadata.
        entries: beside the images, by key: label maps, …
        spacing: size of a voxel along each axis in mm, (B, dims) in float64; None where the images
            say nothing of it.
        affines: (B, d + 1, d + 1) in float64 on the CPU, of the entries that have one, by key;
            those of the images under None.
    """

    images: Tensor
    entries: Mapping[str, Any]
    spacing: Tensor | None
    affines: Mapping[str | None, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: Any, images: Tensor) -> Batch:
        """Of a host's batch.

        Args:
            batch: only of a dictionary are the other entries seen.
            images: (B, C, *S), with metadata or without.

        Returns:
            The same as a value.
        """
        entries: Mapping[str, Any] = batch if isinstance(batch, Mapping) else {}
        entries = {str(name): each for name, each in entries.items() if each is not images}
        tensors: dict[str | None, Any] = {None: images}
        for name, each in entries.items():
            tensors[name] = each
        found = {name: affines_of(each) for name, each in tensors.items()}
        affines = {name: affine for name, affine in found.items() if affine is not None}
        return cls(images.detach().as_subclass(Tensor), entries, spacing_of(images), affines)

    def image(self, index: int) -> Batch:
        """A batch of one of the images.

        Args:
            index: of the image.

        Returns:
            With that image's own entries.
        """
        one = slice(index, index + 1)
        entries = of_image(dict(self.entries), index, len(self.images))
        spacing = None if self.spacing is None else self.spacing[one]
        affines = {name: affine[one] for name, affine in self.affines.items()}
        return Batch(self.images[one], entries, spacing, affines)


def spacing_of(images: Tensor) -> Tensor | None:
    """Size of the voxels of preprocessed images, by their affines.

    Args:
        images: (B, C, *S).

    Returns:
        (B, dims) in mm and float64, on the CPU; None where the images carry no affine of use.

    >>> image = MetaTensor(torch.zeros(1, 1, 4, 5), affine=torch.diag(torch.tensor([2., 3, 1, 1])))
    >>> spacing_of(image)
    tensor([[2., 3.]], dtype=torch.float64)
    """
    affine, dims = affines_of(images), images.ndim - 2
    if affine is None or affine.shape[2] <= dims:
        return None
    spacing = affine[:, :-1, :dims].norm(dim=1)
    return spacing if bool((torch.isfinite(spacing) & (spacing > 0)).all()) else None


def affines_of(values: Any) -> Tensor | None:
    """The affines of a batch.

    Args:
        values: (B, ...), with metadata or without.

    Returns:
        (B, d + 1, d + 1) in float64 on the CPU; None where there are none.
    """
    if not isinstance(values, MetaTensor) or values.ndim == 0:
        return None
    affine = torch.as_tensor(values.affine).detach().as_subclass(Tensor).double().cpu()
    affine = affine.expand(len(values), *affine.shape) if affine.ndim == 2 else affine
    return affine if affine.ndim == 3 and len(affine) == len(values) else None
