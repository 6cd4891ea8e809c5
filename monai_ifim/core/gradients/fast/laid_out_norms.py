"""Norms of which torch gives a wrong gradient on the CPU where channels lie last.

Their backward pass looks at how the input lies in memory and how the gradient of the output does.
Of one image, channels can lie last with another stride between images than the image is long, as
in a map of tokens. Where they do so in one of the two, it reads the other in the wrong order.
Instance norms make one image of the whole batch, so that it concerns them for batches, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

INSTANCE_NORMS = (F.instance_norm, torch.instance_norm)
_NORMS = (F.batch_norm, *INSTANCE_NORMS)


class LaidOutNorms(TorchFunctionMode):
    """Runs the norms so that their gradients are right, and everything else as it is."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _NORMS:
            return func(*args, **kwargs)
        input, others, named = input_first(args, kwargs)
        if not may_be_misread(func, input):
            return func(*args, **kwargs)
        if not carries_metadata(input):
            return _laid_out(func, input, *others, **named)
        ours = _laid_out(func, input.as_subclass(Tensor), *others, **named)
        return type(input).__torch_function__(lambda *_, **__: ours, tuple(types), args, kwargs)


def input_first(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, list[Any], dict[str, Any]]:
    """Arguments of an operation of torch's, of which the input may be given by name.

    Args:
        args: by position.
        kwargs: by name.

    Returns:
        The input, the other ones by position, and those by name.
    """
    input, *others = args if args else (kwargs["input"],)
    return input, others, {name: value for name, value in kwargs.items() if name != "input"}


def carries_metadata(x: Any) -> bool:
    """Whether a tensor's class only carries something along, and dispatches nothing itself.

    Args:
        x: a tensor.

    Returns:
        Yes for MONAI's ``MetaTensor``.
    """
    return (
        isinstance(x, Tensor)
        and type(x) is not Tensor
        and type(x).__torch_dispatch__ is Tensor.__torch_dispatch__
    )


def may_be_misread(func: Any, x: Any) -> bool:
    """Whether a norm may have a wrong gradient for an input.

    Args:
        func: batch norm or instance norm.
        x: what it is applied to.

    Returns:
        Yes for maps and volumes whose gradient is wanted: of one image, or by an instance norm.
    """
    return (
        isinstance(x, Tensor)
        and x.ndim > 3
        and x.requires_grad
        and (len(x) == 1 or func in INSTANCE_NORMS)
        and x.device.type == "cpu"
    )


def _laid_out(norm: Any, x: Tensor, *others: Any, **named: Any) -> Tensor:
    """The norm, between values and gradients that lie in the order of their axes."""
    output: Tensor = norm(x.contiguous(), *others, **named)
    # A hook and no node: the output may be edited in place, which that of a node may not.
    if output.requires_grad:  # not in a part that the network runs without gradients
        output.register_hook(Tensor.contiguous)
    return output
