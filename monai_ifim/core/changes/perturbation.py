"""What a perturbation is able to do."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Perturbation(Protocol):
    """The linear map A of changes x + A u that are considered, with its transpose."""

    def check(self, images: Tensor) -> None:
        """Raise ValueError unless A fits images (B, C, *S)."""

    def apply(self, values: Tensor) -> Tensor:
        """A u for values (M, B, C, *S), in their dtype."""

    def transpose(self, values: Tensor) -> Tensor:
        """Aᵀ g for values (M, B, C, *S), in their dtype."""


def check_perturbation(perturbation: object) -> None:
    """Refuse what is no perturbation.

    Args:
        perturbation: an object with ``check``, ``apply`` and ``transpose``, or None.

    Raises:
        ValueError: anything else.
    """
    methods = ("check", "apply", "transpose")
    is_class = isinstance(perturbation, type)
    if perturbation is None or (not is_class and all(hasattr(perturbation, m) for m in methods)):
        return
    raise ValueError(
        f"expected perturbation as an object such as Mask(mask) or Smooth(2.0), got "
        f"{perturbation!r}; of a class, make an object"
    )
