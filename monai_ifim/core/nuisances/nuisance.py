"""What a nuisance is able to do."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Nuisance(Protocol):
    """A transformation of images by an amount, 0 for none.

    Attributes:
        name: for tables.
        unit: of the amount.
        reach: largest plausible amount; looked at is from -reach to reach.
        one_sided: only amounts >= 0 have a meaning.
        step: amount for the difference that approximates the tangent.
    """

    name: str
    unit: str
    reach: float
    one_sided: bool
    step: float

    def __call__(self, images: Tensor, amounts: Tensor) -> Tensor:
        """Images (B, C, *S), each transformed by its own amount (B,).

        They come in float64 for the tangent, and as the network takes them for forward passes:
        tensors of one's own are converted by ``.to(images)``.
        """
