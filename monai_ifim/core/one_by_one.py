"""The images of a batch one by one, after something raised for the whole of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from monai_ifim.core.eigenspace import Approximation, Eigenspace

T = TypeVar("T")
D = TypeVar("D", Eigenspace, Approximation)
# Takes images (1, C, *S), and the place in the batch of the one that it is, None of zeros.
Run = Callable[[Tensor, int | None], T]


def of_image(values: Any, index: int | None, count: int, repeat: int = 1) -> Any:
    """What one image has of the further inputs of a batch, such as clinical data.

    Args:
        values: tensors and lists of texts with one row for each image, also nested; anything else
            is for all images.
        index: of the image; None for zeros in the place of each tensor's rows.
        count: how many images the batch has.
        repeat: how often the row is to be there.

    Returns:
        The same with that row.

    >>> of_image((torch.tensor([3, 4]), ["a", "b"], (96, 96)), 1, 2)
    (tensor([4]), ['b'], (96, 96))
    """
    start = 0 if index is None else index

    def is_texts(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)

    def row(value: Any) -> Any:
        if isinstance(value, Tensor):
            if value.ndim == 0 or len(value) != count:
                return value
            # Plain: slices of a tensor with metadata look at it.
            own = value.as_subclass(Tensor)[start : start + 1]
            own = torch.zeros_like(own) if index is None else own
            return own.expand(repeat, *own.shape[1:])
        texts = is_texts(value) and len(value) == count
        return value[start : start + 1] * repeat if texts else value

    return tree_map(row, values, is_leaf=is_texts)


def each_alone(run: Run[T], images: Tensor, error: Exception) -> list[T | Exception]:
    """What becomes of each image without the others.

    Args:
        run: an image (1, C, *S) and its place to a result.
        images: (B, C, *S), for which it raised.
        error: that it raised; of a batch of one it is the image's own.

    Returns:
        The result or the error of each image.
    """
    if len(images) == 1:
        return [without_memory(error)]
    without_memory(error)
    results: list[T | Exception] = []
    for index, image in enumerate(images):
        try:
            results.append(run(image[None], index))
        except Exception as own:
            results.append(without_memory(own))
    return results


def of_zeros(run: Run[T], images: Tensor, error: Exception) -> T | None:
    """The result of an image of zeros, which tells a fault of an image from one of the network.

    Args:
        run: as in ``each_alone``.
        images: (B, C, *S), of which the shape counts.
        error: of the images.

    Returns:
        The result; None where memory does not suffice for such an image.

    Raises:
        Exception: the error, where an image of zeros fails, too.
    """
    try:
        return run(torch.zeros_like(images[:1]), None)
    except Exception:
        if is_out_of_memory(error):
            return None
        raise error from None


def one_image(space: Eigenspace, index: int) -> Eigenspace:
    """The eigenspace of one image of a batch.

    Args:
        space: of a batch.
        index: of the image.

    Returns:
        An eigenspace of a batch of one, without its ``perturbation``, which may differ between
        images.
    """
    return replace(_one(space, index), perturbation=None)


def _one(batch: D, index: int) -> D:
    """Of a dataclass whose tensors have an axis for the images, that of one image."""
    parts: dict[str, Any] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            parts[field.name] = value[index : index + 1]
        elif isinstance(value, Approximation):
            parts[field.name] = _one(value, index)
    return replace(batch, **parts)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the device, or of the machine, does not suffice.

    Args:
        error: as caught.

    Returns:
        Yes or no.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError())
    (True, False)
    """
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    )


def without_memory(error: Exception) -> Exception:
    """The error, of a lack of memory without the frames that hold it.

    Args:
        error: as caught.

    Returns:
        The same error.
    """
    if is_out_of_memory(error):
        error.__traceback__ = None
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    return error
