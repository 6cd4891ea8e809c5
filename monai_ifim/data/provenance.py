"""Which network made a result."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from monai_ifim.core import PooledEigenspace
from monai_ifim.core.pooling.digest import network_digest

_SHOWN = 8  # hexadecimal digits of a digest that a person reads
_NAME = 20  # characters of a class's name, so that a NIfTI header holds both
POOLED = ", pooled "  # before the number of images of a pooled eigenspace


def pooled_name(within: PooledEigenspace | None) -> str:
    """What follows a network's name where components are taken in a pooled eigenspace.

    Args:
        within: the pooled eigenspace; None for each image's own.

    Returns:
        How many images were pooled, in a few characters.
    """
    return "" if within is None else f"{POOLED}{within.count} images"


class ModelName:
    """Class and weights of a network in a few characters; weights are read again when they change.

    Args:
        within: a pooled eigenspace that components are taken in, which is named, too.

    >>> ModelName()(nn.Identity())
    'Identity 999f23fc'
    """

    def __init__(self, within: PooledEigenspace | None = None) -> None:
        self._within = pooled_name(within)
        self._state: list[tuple[int, int]] | None = None
        self._digest = ""

    def __call__(self, network: nn.Module) -> str:
        """Name of a network.

        Args:
            network: on any device.

        Returns:
            Class name and the start of its digest, and how many images were pooled.
        """
        name = type(network).__name__[:_NAME]
        return f"{name} {self.digest(network)[:_SHOWN]}{self._within}"

    def digest(self, network: nn.Module) -> str:
        """SHA-256 of a network's class name, weights and buffers.

        Args:
            network: on any device.

        Returns:
            64 hexadecimal digits.
        """
        state = [_change(value) for value in network.state_dict().values()]
        if state != self._state:
            self._digest, self._state = network_digest(network), state
        return self._digest


def _change(value: Any) -> tuple[int, int]:
    """Another one when a tensor has been changed by torch, or is another one."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        return id(value), 0
    return value.data_ptr(), 0 if value.is_inference() else value._version
