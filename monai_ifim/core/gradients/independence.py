"""Whether the images of a batch are treated one by one."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from monai_ifim.core.checks import masked_classes, not_finite
from monai_ifim.core.gradients.forward import Forward
from monai_ifim.core.gradients.vjp import backward

# A gradient with respect to another image that is larger than this share of the own one is no
# rounding. (Where images are independent it is exactly zero.)
_ROUNDING = 1e-6

# Networks that were found to treat images one by one, with the modules that they had then.
_known: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def check_independence(forward: Forward, network: nn.Module | None = None) -> None:
    """Refuse a network for which the images of a batch influence each other.

    F(x) of one image is then not that of its own prediction alone: with batch norm that takes the
    statistics of the batch, a second eigenvalue was 37 % off.

    The images are divided into two halves, in log2(B) ways so that every two images are once in
    different halves; the gradient of a half's logits with respect to the other half must vanish.
    That is 2 log2(B) backward passes, made once for each network.

    Args:
        forward: a pass of B images, with its graph.
        network: that made it; None when it is not known, and the passes are made again.

    Raises:
        ValueError: some image's logits depend on another image.
    """
    count = len(forward.images)
    if count < 2 or _is_known(network):
        return
    finite = ~(
        not_finite(forward.images)
        | not_finite(forward.logits.masked_fill(masked_classes(forward.logits), 0))
    )
    if int(finite.sum()) < 2:
        return
    positions = torch.arange(count, device=forward.images.device)
    for bit in range((count - 1).bit_length()):
        upper = (positions >> bit) % 2 == 1
        for chosen in (upper, ~upper):
            _check_half(forward, chosen & finite, ~chosen & finite)
    if network is not None and bool(finite.all()):
        _known[network] = _fingerprint(network)


def _check_half(forward: Forward, chosen: Tensor, others: Tensor) -> None:
    cotangent = torch.zeros_like(forward.logits)
    # Not the same for all classes: a softmax does not react to a shift of all its inputs.
    weights = torch.linspace(1, 2, forward.logits[0].numel(), device=cotangent.device)
    cotangent[chosen] = weights.view(forward.logits.shape[1:]).to(cotangent)
    sizes = backward(forward, cotangent).flatten(1).abs().amax(dim=1)
    own = sizes[chosen].amax() if bool(chosen.any()) else sizes.new_zeros(())
    influenced = others & (sizes > _ROUNDING * own)
    if bool(influenced.any()):
        image = int(influenced.nonzero()[0])
        raise ValueError(
            "expected a network that treats the images of a batch one by one, got logits that "
            f"also depend on another image of the batch (image {image}, counted from 0); is there "
            "a batch norm without running statistics, or an attention, recurrence or softmax along "
            "the batch axis? Use batches of one image, or change that layer"
        )


def _is_known(network: nn.Module | None) -> bool:
    return network is not None and _known.get(network) == _fingerprint(network)


def _fingerprint(network: nn.Module) -> int:
    """Changes when a module is replaced, or a norm begins or ceases to use running statistics."""
    parts = [
        (id(m), getattr(m, "track_running_stats", None), getattr(m, "running_mean", None) is None)
        for m in network.modules()
    ]
    return hash(tuple(parts))
