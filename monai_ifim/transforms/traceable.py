"""A bundle's preprocessing in a form that can be undone."""

from __future__ import annotations

from typing import Any

from monai.transforms import Compose, EnsureTyped, ToTensord


def traceable_preprocessing(preprocessing: Compose) -> Compose:
    """The same preprocessing, with ``EnsureTyped`` in place of ``ToTensord``.

    ``ToTensord`` forgets how an image was made, and with that its file name and its way back to
    the scan's grid. ``EnsureTyped`` does the same work and remembers.

    Args:
        preprocessing: a bundle's; itself left as it is.

    Returns:
        A new ``Compose`` of the same transforms.
    """
    return Compose([_traceable(t) for t in preprocessing.transforms], lazy=preprocessing.lazy)


def _traceable(transform: Any) -> Any:
    if isinstance(transform, Compose):
        return traceable_preprocessing(transform)
    if not isinstance(transform, ToTensord):
        return transform
    converter = transform.converter
    return EnsureTyped(
        transform.keys,
        dtype=converter.dtype,
        device=converter.device,
        track_meta=converter.track_meta,
        allow_missing_keys=transform.allow_missing_keys,
    )
