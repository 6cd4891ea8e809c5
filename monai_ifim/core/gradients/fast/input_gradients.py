"""Faster input gradients of frozen networks on CPU, exact to rounding.

Convolutions are associated differently where that pays (``convolution_gradients``): a ResNet-18 on
64 x 64 x 64 spends 60 % of a backward pass in its first layer. Eval-mode batch norm is a scale, so
its input need not be kept.

The network is not touched: a ``TorchFunctionMode`` sees the calls while the graph is made, and
the graph keeps its faster nodes after the context has ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_ifim.core.gradients.fast.convolutions import FEW, convolution_gradient, convolved_axes
from monai_ifim.core.gradients.fast.laid_out_norms import (
    INSTANCE_NORMS,
    LaidOutNorms,
    carries_metadata,
    input_first,
    may_be_misread,
)
from monai_ifim.core.gradients.fast.pooled_stems import PooledStem, is_pooling, scaled

# Fewest elements of a batch norm that takes our node: it saves memory, and time only when large.
_SMALLEST_NORM = 1 << 21

# Fewest values in a batch of flat images for which the first layer's gain exceeds the watching.
_SMALLEST_PLANES = 1 << 17

_PLAIN = (Tensor, torch.nn.Parameter)
_CONVOLUTIONS = {torch.conv2d: 2, torch.conv3d: 3}


@contextmanager
def input_gradients(images: Tensor | None = None) -> Iterator[None]:
    """Graphs made inside have faster backward passes towards their inputs, on CPU.

    Convolutions and eval-mode batch norms whose weights do not require a gradient are recorded
    with our own backward pass where that was measured to pay. Outputs are bit for bit those of
    the original operations, and everything else runs as it would. The backward passes themselves
    may come later, outside the context, also vmapped or differentiated once more. Left alone are
    other devices, autocast, and regions under hooks for saved tensors (checkpoints and offloading
    count on the original tensors). Norms of which torch gives a wrong gradient have the right one
    (``LaidOutNorms``), of channels-last values also outputs that may differ in their last bits.

    Args:
        images: (B, C, *S) that the network is going to get; where nothing can pay for them, only
            the norms are looked after. None: it does what it can.

    Example:
        >>> network = torch.nn.Conv2d(1, 8, 5).requires_grad_(False)
        >>> images = torch.rand(2, 1, 64, 64, requires_grad=True)
        >>> with input_gradients():
        ...     logits = network(images)
        >>> torch.autograd.grad(logits.sum(), images)[0].shape
        torch.Size([2, 1, 64, 64])
    """
    if images is None or _can_pay(images):
        with _Recording():
            yield
    elif images.device.type == "cpu":
        with LaidOutNorms():
            yield
    else:
        yield


def _can_pay(images: Tensor) -> bool:
    """Watching costs about 15 ms for the 550 calls of a DenseNet121, for images of any size."""
    plane = images.shape[1] <= FEW and images.numel() >= _SMALLEST_PLANES
    return images.device.type == "cpu" and (images.ndim == 5 or plane)


class _Recording(LaidOutNorms):
    """Sends the calls that pay through our own nodes, everything else on."""

    def __init__(self) -> None:
        super().__init__()
        self._stem = PooledStem()

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.relu:
            return self._stem.rectified(func, args[0] if args else None, args, kwargs)
        if func in INSTANCE_NORMS:
            return super().__torch_function__(func, types, args, kwargs)
        if func is not F.batch_norm and func not in _CONVOLUTIONS and not is_pooling(func):
            return func(*args, **kwargs)
        input, others, named = input_first(args, kwargs)
        # A tensor with metadata is a plain one here, and its class adds the metadata again.
        metadata = carries_metadata(input)
        x = input.as_subclass(Tensor) if metadata else input
        norm = _recordable_norm(x, *others, **named) if func is F.batch_norm else None
        if func is F.batch_norm:
            ours = None
            if norm is not None and (may_be_misread(func, x) or x.numel() >= _SMALLEST_NORM):
                ours = _BatchNorm.apply(*norm)
        elif is_pooling(func):
            ours = self._stem.pooled(func, input, *others, **named)
        else:
            ours = _convolution(func, x, *others, **named)
        if ours is None:
            result = super().__torch_function__(func, types, args, kwargs)
        elif metadata:
            wrap = type(input).__torch_function__
            result = wrap(lambda *_, **__: ours, tuple(types), args, kwargs)
        else:
            result = ours
        if norm is not None:
            _, _, variance, weight, _, eps = norm
            self._stem.normed(result, x, variance, weight, eps)
        return result


def _recordable(x: Any, *frozen: Any) -> bool:
    """Whether these are plain CPU tensors of which only x needs a gradient, in a plain graph."""
    return (
        type(x) is Tensor
        and x.requires_grad
        and torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and all(type(t) in _PLAIN and not t.requires_grad for t in frozen if t is not None)
        and not torch.is_autocast_enabled("cpu")
        and torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    )


def _convolution(
    func: Any,
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
) -> Tensor | None:
    """The convolution with our backward pass, or None where the original is to run."""
    axes = _CONVOLUTIONS[func]
    if (
        type(weight) not in _PLAIN  # noqa: PLR0916 - all that it relies on, the cheapest first
        or (axes == 2 and weight.shape[1] > FEW)  # most calls: refused before the rest is asked
        or weight.ndim != axes + 2
        or not _recordable(input, weight, bias)
        or input.ndim != weight.ndim
        or groups != 1
        or isinstance(padding, str)
        or _each(dilation, axes) != (1,) * axes
    ):
        return None
    stride, padding = _each(stride, axes), _each(padding, axes)
    convolved = convolved_axes(input, weight, stride)
    if convolved is None:
        return None
    output: Tensor = _Convolution.apply(input, weight, bias, stride, padding, convolved)
    return output


def _each(value: Any, axes: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * axes if len(values) == 1 else values


class _Convolution(torch.autograd.Function):
    """Keeps the weights alone: the input matters for the gradient of the weights only."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        convolved: tuple[int, ...],
    ) -> Tensor:
        convolution = (F.conv2d, F.conv3d)[x.ndim - 4]
        return convolution(x, weight, bias, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, *ctx.settings = inputs
        ctx.size = tuple(x.shape[2:])
        ctx.save_for_backward(weight)
        ctx.save_for_forward(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        gradient = convolution_gradient(gradients[0], weight, ctx.size, *ctx.settings)
        return gradient, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (weight,) = ctx.saved_tensors
        stride, padding, _ = ctx.settings
        return (F.conv2d, F.conv3d)[weight.ndim - 4](tangents[0], weight, None, stride, padding)


def _recordable_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Any, ...] | None:
    """Input, mean, variance, weight, bias and eps of a batch norm; None where it is not a scale."""
    if training or running_mean is None or running_var is None:
        return None
    if not _recordable(input, running_mean, running_var, weight, bias):
        return None
    return input, running_mean, running_var, weight, bias, eps


class _BatchNorm(torch.autograd.Function):
    """Keeps the channels' statistics alone: the gradient is the same scale as the output's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
    ) -> Tensor:
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, _, variance, weight, _, ctx.eps = inputs
        ctx.save_for_backward(variance, weight)
        ctx.save_for_forward(variance, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        variance, weight = ctx.saved_tensors
        return scaled(gradients[0], variance, weight, ctx.eps), None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        variance, weight = ctx.saved_tensors
        return scaled(tangents[0], variance, weight, ctx.eps)
