"""The order in which a map holds the entries of an image for important."""

from __future__ import annotations

import torch
from torch import Tensor


def importance_ranks(attribution: Tensor) -> Tensor:
    """Place of each entry when its image's entries are ordered by absolute value.

    Args:
        attribution: (B, C, *S).

    Returns:
        (B, C, *S) integers, 0 for the entry that is largest in absolute value, N - 1 for the
        smallest; equal ones by position.

    Raises:
        ValueError: values that are not finite, or a map with one absolute value everywhere,
            as a map of zeros: no entry of it comes before another.

    >>> importance_ranks(torch.tensor([[[0.5, -2.0, 0.0, 0.5]]]))
    tensor([[[1, 0, 3, 2]]])
    """
    sizes = attribution.detach().as_subclass(Tensor).flatten(1).abs()
    if not bool(torch.isfinite(sizes).all()):
        raise ValueError(
            "expected finite attributions, got NaN or infinity; leave those images out"
        )
    flat = sizes.amax(dim=1) == sizes.amin(dim=1)
    if sizes.shape[1] > 1 and bool(flat.any()):
        raise ValueError(
            "expected maps whose entries can be ordered, got the same absolute value everywhere "
            f"in {int(flat.sum())} of {len(flat)} (the network may be locally constant there); "
            "leave those images out"
        )
    order = sizes.argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1).view(attribution.shape)


def top_mask(attribution: Tensor, share: float) -> Tensor:
    """The entries of each image that are largest in absolute value.

    Args:
        attribution: (B, C, *S), with N entries an image.
        share: which share of them, 0 to 1.

    Returns:
        (B, C, *S) booleans, exactly round(share N) of them true for each image, but at least
        one; of equal entries the first ones by position.

    Raises:
        ValueError: a share out of range, or maps that ``importance_ranks`` cannot order.

    >>> top_mask(torch.tensor([[[0.5, -2.0, 0.0, 0.5]]]), 0.5)
    tensor([[[ True,  True, False, False]]])
    """
    if not 0 <= share <= 1:
        raise ValueError(f"expected a share from 0 to 1, got {share}; for 10 % say 0.1")
    return importance_ranks(attribution) < max(1, round(share * attribution[0].numel()))
