"""From what a network returns to logits: the one place that says what is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

OutputTransform = Callable[[Any], Tensor]


def choose_logits(output: Any, output_transform: OutputTransform | None = None) -> Any:
    """The logits in a network's output.

    Args:
        output: what the network returned.
        output_transform: chooses the logits from it; None where it is the logits.

    Returns:
        (B, K), or (B, K, *S) of a dense prediction: trailing axes of length one, as a
        convolutional head leaves them, are dropped. ``check_logits`` refuses all else.
    """
    if output_transform is not None:
        output = output_transform(output)
    if isinstance(output, Tensor) and output.ndim > 2 and output.shape[2:].numel() == 1:
        return output.flatten(1)
    return output


def predicted_logits(
    network: Callable[[Tensor], Any],
    images: Tensor,
    output_transform: OutputTransform | None = None,
) -> Any:
    """Logits of images, without a graph of ours.

    Args:
        network: the classifier; it gets a copy, because some edit their input in place.
        images: (B, C, *S).
        output_transform: chooses the logits when the network returns a tuple or a dict.

    Returns:
        As ``choose_logits``.
    """
    return choose_logits(network(images.clone()), output_transform)
