"""A question that a host asks of each batch beside the components."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from monai_ifim.core import Eigenspace, EigenspaceOptions


@dataclass(frozen=True, eq=False)
class Asked:
    """Images that have a result, with all that an answer can be made of.

    Attributes:
        space: their eigenspace, with the gradients of all contrasts.
        images: (B, C, *S) without metadata, as the network was given them.
        predict: images (B, C, *S) to the network's output, with each image's own further inputs.
            The network is in eval mode while a question is answered.
        batch: what the host's batch holds of these images beside them, by key: label maps, …
        options: that the eigenspace was made with.
        spacing: size of a voxel along each axis in mm, (B, dims) in float64 on the CPU; None where
            the images carry no affine.
    """

    space: Eigenspace
    images: Tensor
    predict: Callable[[Tensor], Any]
    batch: Mapping[str, Any]
    options: EigenspaceOptions
    spacing: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """What was found.

    Attributes:
        columns: of the table, one dictionary of numbers an image; None where there is no number. A
            name that ends in ``_class`` is one of a text.
        values: (B, ...) by name without a prefix, for the engine's output and as volumes.
    """

    columns: Sequence[Mapping[str, Any]]
    values: Mapping[str, Tensor] = field(default_factory=dict)


class Question(Protocol):
    """Something that is asked of each batch.

    Attributes:
        name: for the status of an image without an answer, "failed: no <name>: …".
    """

    name: str

    def answer(self, asked: Asked) -> Answer:
        """Answer it for some images.

        Args:
            asked: images, all of which have an eigenspace with numbers.

        Returns:
            Columns and values.

        Raises:
            MissingEntry: no batch of this run has what is needed: the run ends.
            ValueError: there is no answer for these images. They are asked one by one then, so
                that it is missing for the image alone whose fault it is.
        """
