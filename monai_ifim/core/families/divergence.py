"""KL divergence of softmax distributions."""

from __future__ import annotations

import torch
from torch import Tensor


def softmax_divergence(before: Tensor, after: Tensor) -> Tensor:
    """KL of softmax distributions over the last axis, with all digits of tiny values.

    With the change of the logits u, shifted to mean 0 under p, KL = log(1 + Σ p (eᵘ - 1 - u)):
    every term is positive, so a confident prediction's 1e-40 is as exact as 1. The difference of
    log-probabilities has an absolute error near 1e-16.

    Args:
        before: logits (..., K) of p, in float64.
        after: logits (..., K) of q, in float64.

    Returns:
        (...): KL(p ‖ q) in nats.
    """
    # A class that both rule out has no change; one that only q rules out makes it infinite.
    excluded = (before == -torch.inf) & (after == -torch.inf)
    log_p, change = before.log_softmax(dim=-1), torch.where(excluded, 0, after - before)
    p = log_p.exp()
    # Measured from the most probable class, whose own change would else swallow the others'.
    change = change - change.gather(-1, before.argmax(dim=-1, keepdim=True))
    change = change - (p * change).sum(dim=-1, keepdim=True)
    terms = p * excess(change)
    large = change > 30  # where only eᵘ counts, and p eᵘ is a number that eᵘ alone may not be
    terms = torch.where(large, torch.exp(log_p + change), terms)
    exact = torch.log1p(terms.sum(dim=-1))
    return torch.where(torch.isfinite(exact), exact, torch.logsumexp(log_p + change, dim=-1))


def excess(change: Tensor) -> Tensor:
    """The function eᵘ - 1 - u with the digits of small u, where the difference loses them.

    Args:
        change: u, in float64.

    Returns:
        The same shape.
    """
    series = change.square() / 2 * (1 + change / 3 * (1 + change / 4 * (1 + change / 5)))
    return torch.where(change.abs() < 0.05, series, torch.expm1(change) - change)
