"""Outputs that look like probabilities, where logits are expected."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

# Fewer numbers than these lie between 0 and 1 by chance too often.
_FEWEST = 24
# Operations of autograd that only pass values on.
_PASSING = ("Alias", "View", "Reshape", "Unsafe", "Squeeze", "Unsqueeze", "Clone", "ToCopy")


def warn_of_probabilities(logits: Tensor) -> None:
    """Warn where the outputs of a network look like those of a softmax or of sigmoids.

    Args:
        logits: (B, K); with its graph, which shows a sigmoid for certain, where there is one.
    """
    if not len(logits) or not bool((logits >= 0).all()):
        return
    if logits.shape[1] > 1 and torch.allclose(
        logits.sum(dim=1), logits.new_ones(len(logits)), atol=1e-3
    ):
        warnings.warn(
            "the network's outputs are not negative and add up to 1: are they probabilities? "
            "Expected logits; pass output_transform=torch.log, or take the softmax away",
            stacklevel=3,
        )
    elif _after_sigmoid(logits) or (
        logits.numel() >= _FEWEST and bool((logits <= 1).all() and (logits % 1 != 0).any())
    ):
        warnings.warn(
            "the network's outputs all lie between 0 and 1: are they probabilities of sigmoids? "
            "Expected logits; pass output_transform=torch.logit with likelihood='bernoulli', or "
            "take the sigmoid away",
            stacklevel=3,
        )


def _after_sigmoid(logits: Tensor) -> bool:
    """Whether a sigmoid is the last operation that the graph shows."""
    node = logits.grad_fn
    while node is not None and node.name().startswith(_PASSING):
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith("SigmoidBackward")
