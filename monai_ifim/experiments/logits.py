"""Logits of many images, one prediction for each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from monai_ifim.core import OutputTransform, at_rest, predicted_logits


def image_logits(
    network: Callable[[Tensor], Any],
    images: Tensor,
    output_transform: OutputTransform | None = None,
) -> Tensor:
    """Logits of one batch, where a measure needs one prediction per image.

    Args:
        network: the classifier; it gets a copy of the images.
        images: (B, C, *S).
        output_transform: chooses the logits when the network returns a tuple or a dict.

    Returns:
        (B, K), in the network's dtype and with its graph, if any is recorded.

    Raises:
        TypeError: not one tensor of logits.
        ValueError: a dense prediction (B, K, *S).
    """
    return one_prediction(predicted_logits(network, images, output_transform))


def one_prediction(logits: Any) -> Tensor:
    """Refuse logits that are not one prediction per image.

    Args:
        logits: from ``predicted_logits``.

    Returns:
        The same logits, (B, K).

    Raises:
        TypeError: not one tensor of logits.
        ValueError: a dense prediction (B, K, *S), or no axis of classes.

    >>> one_prediction(torch.zeros(2, 3, 8, 8))
    Traceback (most recent call last):
        ...
    ValueError: expected one prediction per image, logits (batch, classes), got (2, 3, 8, 8), as \
of a segmentation; pool them with output_transform, for example lambda z: z.mean(dim=(2, 3))
    """
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"expected the network to return one tensor of logits, got {type(logits).__name__}; "
            "choose it with output_transform, for example output_transform=lambda y: y[0]"
        )
    if logits.ndim != 2:
        axes = tuple(range(2, logits.ndim))
        dense = (
            f", as of a segmentation; pool them with output_transform, for example lambda z: "
            f"z.mean(dim={axes})"
        )
        raise ValueError(
            "expected one prediction per image, logits (batch, classes), got "
            f"{tuple(logits.shape)}{dense if axes else '; choose them with output_transform'}"
        )
    return logits


def logits_of(network: nn.Module, images: Tensor, batch_size: int = 64) -> Tensor:
    """Logits of many images, batch by batch, in eval mode.

    Args:
        network: the classifier; left as it was.
        images: (N, C, *S).
        batch_size: images at a time.

    Returns:
        (N, K) in float64, detached.

    Raises:
        TypeError: not one tensor of logits.
        ValueError: a dense prediction (B, K, *S).
    """
    with at_rest(network, images.device), torch.no_grad():
        parts = [image_logits(network, batch).double() for batch in images.split(batch_size)]
    return torch.cat(parts)
