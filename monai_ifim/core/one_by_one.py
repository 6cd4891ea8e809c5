"""The images of a batch one by one, after something raised for the whole of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def each_alone(run: Callable[[Tensor], T], images: Tensor, error: Exception) -> list[T | Exception]:
    """What becomes of each image without the others.

    Args:
        run: images (B, C, *S) to a result.
        images: (B, C, *S), for which it raised.
        error: that it raised; of a batch of one it is the image's own.

    Returns:
        The result or the error of each image.
    """
    if len(images) == 1:
        return [_without_memory(error)]
    _without_memory(error)
    results: list[T | Exception] = []
    for image in images:
        try:
            results.append(run(image[None]))
        except Exception as own:
            results.append(_without_memory(own))
    return results


def of_zeros(run: Callable[[Tensor], T], images: Tensor, error: Exception) -> T | None:
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
        return run(torch.zeros_like(images[:1]))
    except Exception:
        if is_out_of_memory(error):
            return None
        raise error from None


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


def _without_memory(error: Exception) -> Exception:
    """The error, of a lack of memory without the frames that hold it."""
    if is_out_of_memory(error):
        error.__traceback__ = None
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
    return error
