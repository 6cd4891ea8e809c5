"""A question that a host asks of each batch beside the components."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from monai_ifim.changes import Batch
from monai_ifim.core import Eigenspace, EigenspaceOptions


@dataclass(frozen=True, eq=False)
class Asked:
    """Images that have a result, with all that an answer can be made of.

    Attributes:
        space: their eigenspace, with the gradients of all contrasts.
        batch: the images as the network was given them, and what the host's batch holds beside
            them: label maps, …
        predict: images (B, C, *S) to the network's output, with each image's own further inputs.
            The network is in eval mode while a question is answered.
        options: that the eigenspace was made with.
    """

    space: Eigenspace
    batch: Batch
    predict: Callable[[Tensor], Any]
    options: EigenspaceOptions

    @property
    def images(self) -> Tensor:
        """The images (B, C, *S), without metadata."""
        return self.batch.images

    @property
    def spacing(self) -> Tensor | None:
        """Size of a voxel along each axis in mm, (B, dims) in float64; None without an affine."""
        return self.batch.spacing


@dataclass(frozen=True, eq=False)
class Answer:
    """What was found.

    Attributes:
        columns: of the table, one dictionary of numbers or texts an image; None where there is
            none.
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

    @property
    def volumes(self) -> tuple[str, ...]:
        """Names of those values that have the shape of the images.

        Where there is no answer they are NaN, so that who writes them finds them in every batch.
        """

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
