"""Label maps in a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from monai_ifim.changes.batch import Batch, MissingEntry

_MM = 0.01  # by which two affines of one grid may differ


def label_map_of(batch: Batch, key: str) -> Tensor:
    """The label maps of a batch's images.

    Args:
        batch: that has them beside the images.
        key: where.

    Returns:
        Whole numbers (B, 1, *S), on the device of the images.

    Raises:
        MissingEntry: no entry of that name.
        ValueError: another grid than that of the images, by its size or by its affine, or numbers
            that are not whole.
    """
    if key not in batch.entries:
        there = ", ".join(sorted(batch.entries)) or "nothing beside the images"
        raise MissingEntry(
            f"expected label maps under {key!r} in the batch, got {there}; load them with the "
            "images (LoadImaged and the other transforms with both keys, nearest neighbours where "
            "they resample)"
        )
    labels, images = batch.entries[key], batch.images
    expected = (len(images), 1, *images.shape[2:])
    if not isinstance(labels, Tensor) or tuple(labels.shape) != expected:
        got = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(
            f"expected label maps {expected} under {key!r}, on the grid of the preprocessed "
            f"images, got {got}; give them the same spatial transforms (nearest neighbours), and "
            "numbers in one channel"
        )
    _check_affines(batch, key)
    plain = labels.detach().as_subclass(Tensor).to(images.device)
    if plain.is_complex() or (plain.is_floating_point() and bool((plain != plain.round()).any())):
        raise ValueError(
            f"expected label maps of whole numbers under {key!r}, got fractions or NaN: were they "
            "resampled linearly? Use nearest neighbours"
        )
    return plain.to(torch.int64)


def _check_affines(batch: Batch, key: str) -> None:
    """A mirrored or shifted label map has the size of its image, too."""
    own, images = batch.affines.get(key), batch.affines.get(None)
    if own is None or images is None or own.shape != images.shape:
        return
    for i, (one, other) in enumerate(zip(own, images, strict=True)):
        if not torch.allclose(one, other, rtol=1e-4, atol=_MM):
            raise ValueError(
                f"expected the label map under {key!r} on the grid of the preprocessed image, got "
                f"another affine for image {i} of the batch (counted from 0): "
                f"{_numbers(one)} and {_numbers(other)}; give both the same spatial transforms"
            )


def _numbers(affine: Tensor) -> list[list[float]]:
    return [[round(value, 3) for value in row] for row in affine[:-1].tolist()]


def label_numbers(labels: Mapping[str, int] | Sequence[int | str]) -> dict[str, int]:
    """Names and numbers of regions.

    Args:
        labels: numbers by name, or numbers.

    Returns:
        Numbers by name.

    Raises:
        ValueError: a number that is not whole, or one that comes twice.

    >>> label_numbers([1, 3]), label_numbers({"hippocampus": 1})
    ({'1': 1, '3': 3}, {'hippocampus': 1})
    """
    pairs = labels.items() if isinstance(labels, Mapping) else [(str(n), n) for n in labels]
    found: dict[str, int] = {}
    for name, number in pairs:
        if isinstance(number, bool) or not isinstance(number, int) or number in found.values():
            raise ValueError(
                "expected the numbers of labels, each once, as [1, 2] or as {'liver': 1}, got "
                f"{labels!r}; whole numbers as they are in the label map"
            )
        found[str(name)] = number
    return found
