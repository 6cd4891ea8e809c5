"""Perturbations that are made for each batch: an organ of its label maps, mm by its spacing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import torch
from torch import Tensor

from monai_ifim.changes.batch import Batch, MissingEntry
from monai_ifim.changes.label_map import label_map_of, label_numbers
from monai_ifim.core import EigenspaceOptions, Mask, Perturbation, Smooth


class OfBatch(ABC):
    """A perturbation that a host asks for each batch, ``perturbation=`` of the handler.

    By itself it changes nothing: there is no batch in a plain call.
    """

    @abstractmethod
    def of_batch(self, batch: Batch) -> Perturbation:
        """The changes of one batch.

        Args:
            batch: all of a host's batch, or one image of it.

        Returns:
            A perturbation for its images.

        Raises:
            MissingEntry: the batch lacks what is needed, which is no image's fault.
            ValueError: there is none for an image; then they are asked one by one.
        """

    def check(self, images: Tensor) -> NoReturn:
        """Refuse a plain call.

        Args:
            images: of the call.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"expected a batch with entries beside its images for {self!r}, as IFIMHandler and "
            "IFIMComponentsd have it, got images alone; in a plain call give mi.Mask(label_map == "
            "1), or mi.Smooth(2.0, spacing=(0.8, 0.8, 1.5))"
        )

    def apply(self, values: Tensor) -> NoReturn:
        """As ``check``."""
        self.check(values)

    def transpose(self, values: Tensor) -> NoReturn:
        """As ``check``."""
        self.check(values)


@dataclass(frozen=True)
class MaskOf(OfBatch):
    """Changes inside organs of each image's own label map, in some channels, or both.

    An image without these organs has no result, and its row says so.

    Attributes:
        key: of the label maps in the batch, (B, 1, *S) on the grid of the preprocessed images.
        labels: numbers of the organs, also by name, ``{"hippocampus": 1}``; all but 0 by default.
        channels: numbers of the channels from 0; all by default.

    Raises:
        ValueError: neither a key nor channels, or labels that are none.

    >>> organs = torch.tensor([0, 1, 2, 1]).reshape(1, 1, 2, 2)
    >>> batch = Batch.of({"organs": organs}, torch.zeros(1, 1, 2, 2))
    >>> MaskOf("organs", labels=[1]).of_batch(batch).mask.flatten().tolist()
    [False, True, False, True]
    """

    key: str | None = None
    labels: Mapping[str, int] | Sequence[int] = ()
    channels: Sequence[int] = ()

    def __post_init__(self) -> None:
        label_numbers(self.labels)
        if self.key is None and (self.labels or not self.channels):
            raise ValueError(
                f"expected the key of label maps, or channels, got {self!r}; for example "
                "MaskOf('organs', labels=[1])"
            )

    def of_batch(self, batch: Batch) -> Mask:
        """The mask of one batch.

        Args:
            batch: all of a host's batch, or one image of it.

        Returns:
            Booleans (B, C, *S), without label maps (1, C, 1, ...).

        Raises:
            MissingEntry: no label maps under that key.
            ValueError: label maps of another grid, an image without these labels, or a channel
                that does not exist.
        """
        images = batch.images
        count, dims = images.shape[1], images.ndim - 2
        channels = self.channels or range(count)
        mask = Mask.of_channels(channels, count, dims).mask.to(images.device)[None]
        if self.key is None:
            return Mask(mask)
        labels = label_map_of(batch, self.key)
        numbers = list(label_numbers(self.labels).values())
        inside = torch.isin(labels, labels.new_tensor(numbers)) if numbers else labels != 0
        empty = ~inside.flatten(1).any(dim=1)
        if bool(empty.any()):
            there = labels[int(empty.nonzero()[0])].unique().tolist()
            raise ValueError(
                f"expected {numbers or 'a label but 0'} in the label map {self.key!r}, got "
                f"{there}: without that region there are no changes to consider"
            )
        return Mask(inside & mask)


@dataclass(frozen=True)
class SmoothOf(OfBatch):
    """``Smooth`` in mm with each image's own spacing, by the affine of the preprocessed image.

    Attributes:
        sigma_mm: standard deviation of the kernel in mm, one for all axes or one for each.

    Raises:
        ValueError: a negative width.
    """

    sigma_mm: float | tuple[float, ...]

    def __post_init__(self) -> None:
        Smooth(self._sigma)

    def of_batch(self, batch: Batch) -> Perturbation:
        """The smooth changes of one batch.

        Args:
            batch: all of a host's batch, or one image of it.

        Returns:
            ``Smooth``, where images differ in their spacing one for each.

        Raises:
            MissingEntry: images without an affine.
        """
        if batch.spacing is None:
            raise MissingEntry(
                "expected images with an affine, whose spacing gives mm, got images without; load "
                "them as MetaTensor, or give mi.Smooth(sigma, spacing=…)"
            )
        parts = [Smooth(self._sigma, tuple(sizes)) for sizes in batch.spacing.tolist()]
        return parts[0] if len(set(parts)) == 1 else _Each(tuple(parts))

    @property
    def _sigma(self) -> float | tuple[float, ...]:
        sigma = self.sigma_mm
        return tuple(sigma) if isinstance(sigma, list | tuple) else sigma


@dataclass(frozen=True)
class _Each:
    """For each image of a batch a perturbation of its own."""

    parts: tuple[Perturbation, ...]

    def check(self, images: Tensor) -> None:
        for i, part in enumerate(self.parts):
            part.check(images[i : i + 1])

    def apply(self, values: Tensor) -> Tensor:
        pairs = zip(self.parts, values.split(1, dim=1), strict=True)
        return torch.cat([part.apply(each) for part, each in pairs], dim=1)

    def transpose(self, values: Tensor) -> Tensor:
        pairs = zip(self.parts, values.split(1, dim=1), strict=True)
        return torch.cat([part.transpose(each) for part, each in pairs], dim=1)


def with_changes_of(
    options: EigenspaceOptions, batch: Batch | None, index: int | None = None
) -> EigenspaceOptions:
    """Options whose perturbation is made for a batch, where it is one of a batch.

    Args:
        options: of the host.
        batch: the host's; None for images of zeros, of which all changes count.
        index: of the image that is meant; None for all of them.

    Returns:
        The options that the core takes. Errors are those of ``OfBatch.of_batch``.
    """
    changes = options.perturbation
    if not isinstance(changes, OfBatch):
        return options
    if batch is None:
        return replace(options, perturbation=None)
    return replace(
        options, perturbation=changes.of_batch(batch if index is None else batch.image(index))
    )
