"""What tells one network from another, whatever process and device they are in."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn


def network_digest(network: nn.Module) -> str:
    """SHA-256 of a network's class name, weights and buffers.

    Args:
        network: on any device.

    Returns:
        64 hexadecimal digits, the same for the same weights in every process.
    """
    total = hashlib.sha256(type(network).__name__.encode())
    for name, value in sorted(network.state_dict().items()):
        total.update(name.encode())
        total.update(_content(value))
    return total.hexdigest()


def network_name(network: nn.Module, digest: str | None = None) -> str:
    """A network in the texts of a pooled eigenspace.

    Args:
        network: on any device.
        digest: of its weights, where that is known.

    Returns:
        Class name and digest.
    """
    return f"{type(network).__name__} {digest or network_digest(network)}"


def _content(value: Any) -> Any:
    if not isinstance(value, Tensor):  # the extra state of a module
        return repr(value).encode()
    value = value.detach()
    if value.is_quantized:
        value = value.int_repr()
    if value.layout is not torch.strided:
        value = value.to_dense()
    kind = f"{value.dtype} {tuple(value.shape)}".encode()
    return kind + value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
