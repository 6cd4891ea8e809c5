"""The preprocessing of a plain network, and any preprocessing in words."""

from __future__ import annotations

from typing import Any


def in_words(transform: Any) -> str:
    """The steps of a preprocessing by name.

    Args:
        transform: one, or several in containers; None where there is none.

    Returns:
        Their classes in order.

    >>> from monai.transforms import Compose, LoadImaged, Resized
    >>> in_words(Compose([Resized("image", (4, 5))]))
    'Resized (4, 5)'
    """
    parts = getattr(transform, "transforms", None)
    if parts is None:
        parts = [] if transform is None else [transform]
    return ", ".join(in_words(p) if hasattr(p, "transforms") else _step(p) for p in parts) or "none"


def _step(transform: Any) -> str:
    """A transform's class, with the numbers that say most about it."""
    name = type(transform).__name__
    for holder, attribute in _NUMBERS.get(name, ()):
        value = getattr(getattr(transform, holder, None), attribute, None)
        if value is not None:
            value = tuple(value.tolist() if hasattr(value, "tolist") else value)
            return f"{name} {value}"
    return name


_NUMBERS = {
    "Resized": [("resizer", "spatial_size")],
    "Spacingd": [("spacing_transform", "pixdim")],
    "Orientationd": [("ornt_transform", "axcodes")],
}
