"""Faster input gradients of frozen networks on CPU, exact to rounding.

The library's backward passes through convolutions are tuned for layers with many channels on both
sides. Towards the one to four channels of an image they leave most of each vector register empty,
and single small volumes take a route without oneDNN: a ResNet-18 on 64 x 64 x 64 spends 60 % of a
backward pass in its first layer. Both products are associated differently here; the sums are the
same. Eval-mode batch norm is a scale, so its input need not be kept.

The network is not touched: a ``TorchFunctionMode`` sees the calls while the graph is made, and
the graph keeps its faster nodes after the context has ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# One vector register of float32: a product with no more output channels leaves it partly empty.
_REGISTER = 8

# Most input channels, and fewest output positions, for which re-association paid.
_FEW = 4
_POSITIONS = 1 << 12

# Fewest elements of a batch norm that takes our node: it saves memory, and time only when large.
_SMALLEST_NORM = 1 << 21

# Fewest products for each kernel offset for which a single volume is worth cutting in halves.
_SMALLEST_PRODUCT = 1 << 18

# In a batch of one, ATen hands float32 volumes to oneDNN only above this many elements in
# channels x depth x height, or with a kernel wider than this (use_mkldnn in
# aten/src/ATen/native/Convolution.cpp).
_SLICE = 20480
_NARROW = 3

_PLAIN = (Tensor, torch.nn.Parameter)
_CONVOLUTIONS = {torch.conv2d: 2, torch.conv3d: 3}


@contextmanager
def input_gradients() -> Iterator[None]:
    """Graphs made inside have faster backward passes towards their inputs, on CPU.

    Convolutions and eval-mode batch norms whose weights do not require a gradient are recorded
    with our own backward pass where that was measured to pay. Outputs are bit for bit those of
    the original operations, and everything else runs as it would. The backward passes themselves
    may come later, outside the context, also vmapped or differentiated once more. Left alone are
    other devices, autocast, tensor subclasses, and regions under hooks for saved tensors
    (checkpoints and offloading count on the original tensors).

    Example:
        >>> network = torch.nn.Conv2d(1, 8, 5).requires_grad_(False)
        >>> images = torch.rand(2, 1, 64, 64, requires_grad=True)
        >>> with input_gradients():
        ...     logits = network(images)
        >>> torch.autograd.grad(logits.sum(), images)[0].shape
        torch.Size([2, 1, 64, 64])
    """
    with _Recording():
        yield


class _Recording(TorchFunctionMode):
    """Sends the calls that pay through our own nodes, everything else on."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            ours = _batch_norm(*args, **kwargs)
        elif func in _CONVOLUTIONS:
            ours = _convolution(func, *args, **kwargs)
        else:
            return func(*args, **kwargs)
        return func(*args, **kwargs) if ours is None else ours


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
        type(weight) not in _PLAIN
        or (axes == 2 and weight.shape[1] > _FEW)  # most calls: refused before the rest is asked
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


def convolved_axes(x: Tensor, weight: Tensor, stride: tuple[int, ...]) -> tuple[int, ...] | None:
    """The axes along which ``convolution_gradient`` is to convolve, or None where it is slower.

    Args:
        x: input of the convolution, (B, I, *S).
        weight: (O, I, *k).
        stride: of the convolution, one number for each axis.

    Returns:
        Axes of S. For images with few channels the most that still leave more than a register of
        output channels, never the last: those kernels are slow at some widths.
    """
    axes, (features, channels, *kernel) = weight.ndim - 2, weight.shape
    positions = x[:, 0].numel() // prod(stride)
    if prod(kernel) == 1 or x.dtype != torch.float32:
        return None
    few = channels <= _FEW and positions > _POSITIONS
    if _without_onednn(x, weight):
        if prod(stride) > 1:
            return None
        if not few:
            # Turning the weights round costs more than is saved where they outweigh the volume.
            worth = positions > max(features, channels)
            worth = worth and features * channels * positions > _SMALLEST_PRODUCT
            return tuple(range(axes)) if worth else None
    elif not few or (axes == 2 and channels > 2 and max(kernel) <= 3 and prod(stride) == 1):
        return None
    # In volumes kernels along the depth alone are slow, therefore (1,).
    for convolved in ((0, 1), (1,), ()) if axes == 3 else ((0,), ()):
        if _products(weight, stride, convolved) > _REGISTER:
            return convolved
    return None


def _products(weight: Tensor, stride: tuple[int, ...], convolved: tuple[int, ...]) -> int:
    """Output channels of the one convolution that is left."""
    kernel = weight.shape[2:]
    return weight.shape[1] * prod(
        stride[axis] if axis in convolved else kernel[axis] for axis in range(len(kernel))
    )


def _without_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether ATen runs this convolution of a single volume without oneDNN."""
    return (
        x.ndim == 5
        and len(x) == 1
        and prod(x.shape[1:4]) <= _SLICE
        and min(weight.shape[2:]) <= _NARROW
    )


def convolution_gradient(
    gradient: Tensor,
    weight: Tensor,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    convolved: tuple[int, ...],
) -> Tensor:
    """Input gradient of a convolution as one convolution with more output channels.

    Along a convolved axis of stride s, the s phases of the input are output channels that are
    interleaved afterwards. Along any other axis the kernel's offsets are output channels that
    are shifted and added afterwards. Made of differentiable operations only.

    Args:
        gradient: with respect to the output, (B, O, *T).
        weight: (O, I, *k).
        size: S, the extents of the input.
        stride: of the convolution, one number for each axis.
        padding: likewise.
        convolved: the axes of S to convolve along.

    Returns:
        (B, I, *S).
    """
    axes = range(len(size))
    shifted = [axis for axis in axes if axis not in convolved]
    kernel = list(weight.shape[2:])
    for axis in convolved:
        kernel[axis] = -(-kernel[axis] // stride[axis])
    # Padding of a stride-1 axis need not be computed and cropped.
    cropped = [padding[a] if a in convolved and stride[a] == 1 else 0 for a in axes]
    cropped = [min(crop, extent - 1) for crop, extent in zip(cropped, kernel, strict=True)]
    margin = [kernel[a] - 1 - cropped[a] if a in convolved else 0 for a in axes]
    parts = _convolve(gradient, _regrouped(weight, kernel, stride, convolved, shifted), margin)
    parts = parts.unflatten(
        1, [weight.shape[1], *(stride[a] for a in convolved), *(kernel[a] for a in shifted)]
    )
    for axis in convolved:
        place = parts.ndim - len(size) + axis  # where the axis is, counted from the front
        parts = parts.movedim(2, place).flatten(place - 1, place)
        parts = _cut(parts, place - 1, padding[axis] - cropped[axis], size[axis])
    for axis in shifted:
        place = parts.ndim - len(size) + axis - 1
        parts = _cut(_added(parts, place, stride[axis]), place, padding[axis], size[axis])
    return parts


def _regrouped(
    weight: Tensor,
    kernel: list[int],
    stride: tuple[int, ...],
    convolved: tuple[int, ...],
    shifted: list[int],
) -> Tensor:
    """Weights of the one convolution: (I * phases * offsets, O, *k'), k' = 1 where shifted."""
    missing = [k * s - w for k, s, w in zip(kernel, stride, weight.shape[2:], strict=True)]
    filled = [(0, missing[a] if a in convolved else 0) for a in range(len(kernel))]
    weight = F.pad(weight, [n for pair in reversed(filled) for n in pair])
    # (O, I, then for each axis taps and phases); an axis that is shifted has offsets and one tap.
    split = [
        (kernel[a], stride[a]) if a in convolved else (1, kernel[a]) for a in range(len(kernel))
    ]
    weight = weight.reshape(*weight.shape[:2], *(n for pair in split for n in pair))
    inner = [3 + 2 * axis for axis in (*convolved, *shifted)]
    taps = [2 + 2 * axis for axis in range(len(kernel))]
    weight = weight.permute(1, *inner, 0, *taps).flatten(0, len(inner))
    return weight.flip([2 + axis for axis in convolved])


def _convolve(x: Tensor, weight: Tensor, margin: list[int]) -> Tensor:
    """Stride-1 convolution; a single small volume in two halves, as a batch that oneDNN takes."""
    convolution = (F.conv2d, F.conv3d)[len(margin) - 2]
    taps, depth = weight.shape[2], x.shape[2] + 2 * margin[0] - weight.shape[2] + 1
    if depth < 2 or not _without_onednn(x, weight):
        return convolution(x, weight, padding=margin)
    half = -(-depth // 2)
    x = F.pad(x, (0, 0, 0, 0, margin[0], margin[0]))
    x = torch.cat([x.narrow(2, start, half + taps - 1) for start in (0, depth - half)])
    first, second = convolution(x, weight, padding=[0, *margin[1:]]).split(1)
    return torch.cat([first, second.narrow(2, 2 * half - depth, depth - half)], dim=2)


def _added(parts: Tensor, place: int, stride: int) -> Tensor:
    """Sum over the offsets (third dimension), each shifted by its own along ``place``."""
    offsets, reach = parts.shape[2], stride * (parts.shape[place + 1] - 1) + 1
    shape = [*parts.shape[:2], *parts.shape[3:]]
    shape[place] = reach + offsets - 1
    total = parts.new_zeros(shape)
    for offset, part in enumerate(parts.unbind(2)):
        window = slice(offset, offset + reach, stride)
        total[(slice(None),) * place + (window,)].add_(part)
    return total


def _cut(x: Tensor, place: int, start: int, extent: int) -> Tensor:
    """A range of one dimension; what lies beyond the end was never read, and is 0."""
    missing = start + extent - x.shape[place]
    if missing > 0:
        x = F.pad(x, (0, 0) * (x.ndim - 1 - place) + (0, missing))
    return x.narrow(place, start, extent)


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


def _batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """The batch norm with our backward pass, or None where the original is to run."""
    if (
        training
        or type(input) is not Tensor
        or input.numel() < _SMALLEST_NORM
        or running_mean is None
        or running_var is None
        or not _recordable(input, running_mean, running_var, weight, bias)
    ):
        return None
    output: Tensor = _BatchNorm.apply(input, running_mean, running_var, weight, bias, eps)
    return output


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
        return _scaled(ctx, gradients[0]), None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _scaled(ctx, tangents[0])


def _scaled(ctx: Any, x: Tensor) -> Tensor:
    variance, weight = ctx.saved_tensors
    return F.batch_norm(x, torch.zeros_like(variance), variance, weight, eps=ctx.eps)
