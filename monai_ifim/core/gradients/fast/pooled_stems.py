"""Batch norm, ReLU and max-pooling at the beginning of a network as one node of its graph.

Their gradient is the pooled one, masked, scaled and only then spread: all but the last step at the
resolution after pooling, and nothing of the full resolution need be kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_POOLINGS = {F.max_pool2d: 2, F.max_pool3d: 3}


@dataclass(frozen=True)
class _Followed:
    """A tensor and the batch norm that it comes from."""

    output: Tensor
    version: int
    rectified: bool
    norm: tuple[Tensor, Tensor, Tensor | None, float]
    norm_version: int

    def is_still(self, tensor: Any) -> bool:
        """Unchanged since, and still a part of the graph that nobody watches."""
        return (
            tensor is self.output
            and tensor._version == self.version
            and self.norm[0]._version == self.norm_version
            and torch.is_grad_enabled()
            and tensor.requires_grad
            and not tensor._backward_hooks
        )


class PooledStem:
    """Follows the last batch norm's output through a ReLU to a max-pooling.

    Other uses of the tensors between keep their own way through the graph; the pooling's
    gradient goes past them, to the batch norm's input.
    """

    def __init__(self) -> None:
        self._followed: _Followed | None = None

    def normed(self, output: Tensor, x: Tensor, variance: Tensor, weight: Any, eps: float) -> None:
        """A batch norm in eval mode has given ``output`` for ``x``."""
        norm = (x, variance, weight, eps)
        self._followed = _Followed(output, output._version, False, norm, x._version)

    def rectified(self, func: Any, x: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Run a ReLU, and follow it."""
        followed = self._followed
        ours = followed is not None and not followed.rectified and followed.is_still(x)
        output: Tensor = func(*args, **kwargs)
        if followed is not None and ours:
            version = output._version
            norm = followed.norm, followed.norm_version
            self._followed = _Followed(output, version, True, *norm)
        return output

    def pooled(
        self,
        func: Any,
        input: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Tensor | None:
        """The max-pooling as one node with what came before, or None where it is another's.

        Args:
            func: ``max_pool2d`` or ``max_pool3d``, whose arguments follow.
            input: (B, C, *S), what is pooled.
            kernel_size: of a window, one number or one for each axis.
            stride: between windows; the kernel's size by default.
            padding: added on both sides of each axis.
            dilation: distance of the elements of a window.
            ceil_mode: whether a window that is cut off counts.
            return_indices: whether the places of the maxima are wanted.

        Returns:
            A plain tensor.
        """
        followed, axes = self._followed, _POOLINGS[func]
        self._followed = None
        if followed is None or not followed.rectified or not followed.is_still(input):
            return None
        if return_indices or input.ndim != axes + 2:
            return None
        # The operation below takes the settings as lists.
        kernel, strides, paddings, dilations = (
            [value] * axes if isinstance(value, int) else list(value)
            for value in (kernel_size, stride or kernel_size, padding, dilation)
        )
        x, variance, weight, eps = followed.norm
        values = input.detach().as_subclass(Tensor)
        settings = (kernel, strides, paddings, dilations, ceil_mode)
        output: Tensor = _PooledStem.apply(x, values, variance, weight, eps, settings)[0]
        return output


class _PooledStem(torch.autograd.Function):
    """Keeps what is pooled, and where it was."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        values: Tensor,
        variance: Tensor,
        weight: Tensor | None,
        eps: float,
        settings: tuple[Any, ...],
    ) -> tuple[Tensor, Tensor]:
        pool = (F.max_pool2d, F.max_pool3d)[x.ndim - 4]
        output, indices = pool(values, *settings, return_indices=True)
        return output, indices

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, _, variance, weight, ctx.eps, ctx.settings = inputs
        ctx.shape = tuple(x.shape)
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output, variance, weight)
        ctx.save_for_forward(*output, variance, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        output, indices, *_ = ctx.saved_tensors
        axes, (kernel, stride, padding, dilation, ceil) = output.ndim - 2, ctx.settings
        spread = (
            torch.ops.aten.max_pool2d_with_indices_backward,
            torch.ops.aten.max_pool3d_with_indices_backward,
        )[axes - 2]
        gradient = _masked_and_scaled(ctx, gradients[0])
        like = output.new_empty(()).expand(ctx.shape)  # only its shape is read
        gradient = spread(gradient, like, kernel, stride, padding, dilation, ceil, indices)
        return gradient, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, None]:
        output, indices, *_ = ctx.saved_tensors
        chosen = tangents[0].flatten(2).gather(2, indices.flatten(2)).view_as(output)
        return _masked_and_scaled(ctx, chosen), None


def _masked_and_scaled(ctx: Any, pooled: Tensor) -> Tensor:
    output, _, variance, weight = ctx.saved_tensors
    return scaled(torch.where(output > 0, pooled, 0), variance, weight, ctx.eps)


def scaled(x: Tensor, variance: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """What a batch norm in eval mode does to a change of its input: weight / sqrt(variance + eps).

    Args:
        x: (B, C, *S).
        variance: (C,).
        weight: (C,), or None.
        eps: of the norm.

    Returns:
        (B, C, *S).
    """
    return F.batch_norm(x, torch.zeros_like(variance), variance, weight, eps=eps)


def is_pooling(func: Any) -> bool:
    """Whether the call is a max-pooling that can be followed to."""
    return func in _POOLINGS
