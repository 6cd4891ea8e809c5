"""A bundle's preprocessing in a form that can be undone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from monai.transforms import Compose, EnsureType, EnsureTyped, ToTensor, ToTensord

from monai_ifim.messages import reason


def traceable_preprocessing(preprocessing: Any) -> Any:
    """The same preprocessing, with ``EnsureTyped`` in place of ``ToTensord``.

    ``ToTensord`` forgets how an image was made, and with that its file name and its way back to
    the scan's grid; so does ``EnsureTyped(track_meta=False)``. What takes their places does the
    same work and remembers. All else is kept: a container that holds one of them (``Compose``,
    ``OneOf``, ``RandomOrder``, ``SomeOf``, a subclass of yours, nested or not) is copied with all
    its arguments, and everything that holds none of them is the very same object. Random numbers
    are drawn from the same generators.

    Args:
        preprocessing: a bundle's; itself left as it is.

    Returns:
        The preprocessing itself where nothing in it forgets, else a copy.

    Raises:
        ValueError: a container holds ``ToTensord`` and cannot be copied.
    """
    if isinstance(preprocessing, Compose):
        return _container(preprocessing)
    for kind, substitute in _SUBSTITUTES.items():
        # A subclass may do more than its base: its images would not be the same.
        if type(preprocessing) is kind:
            return substitute(preprocessing)
    return preprocessing


def _container(container: Compose) -> Compose:
    parts = list(container.transforms)
    ours = [traceable_preprocessing(part) for part in parts]
    if all(own is part for own, part in zip(ours, parts, strict=True)):
        return container
    try:
        # A new one made from its class would lose arguments: overrides, weights, random state.
        copied = copy.copy(container)
        copied.transforms = ours
    except Exception as error:  # the code of the bundle's author raises what it likes
        raise ValueError(
            f"expected containers of transforms that can be copied, got {type(container).__name__} "
            f"({reason(error)}); write EnsureTyped in the place of ToTensord"
        ) from error
    if any(own is not part for own, part in zip(copied.transforms, ours, strict=True)):
        raise ValueError(
            f"expected containers that keep their transforms in `transforms`, got "
            f"{type(container).__name__}; write EnsureTyped in the place of ToTensord"
        )
    return copied


def _to_tensord(transform: ToTensord) -> EnsureTyped:
    converter = transform.converter
    return EnsureTyped(
        transform.keys,
        dtype=converter.dtype,
        device=converter.device,
        wrap_sequence=converter.wrap_sequence,
        track_meta=True,
        allow_missing_keys=transform.allow_missing_keys,
    )


def _to_tensor(transform: ToTensor) -> EnsureType:
    return EnsureType(
        dtype=transform.dtype,
        device=transform.device,
        wrap_sequence=transform.wrap_sequence,
        track_meta=True,
    )


def _ensure_typed(transform: EnsureTyped) -> EnsureTyped:
    converter = _ensure_type(transform.converter)
    if converter is transform.converter:
        return transform
    copied = copy.copy(transform)
    copied.converter = converter
    return copied


def _ensure_type(transform: EnsureType) -> EnsureType:
    if transform.track_meta or transform.data_type != "tensor":
        return transform
    copied = copy.copy(transform)
    copied.track_meta = True
    return copied


_SUBSTITUTES: dict[type, Callable[[Any], Any]] = {
    ToTensord: _to_tensord,
    ToTensor: _to_tensor,
    EnsureTyped: _ensure_typed,
    EnsureType: _ensure_type,
}
