"""Input gradients of convolutions on CPU, associated so that vector registers are full.

The library's backward passes are tuned for layers with many channels on both sides. Towards the
one to four channels of an image they leave most of each vector register empty, and single small
volumes take a route without oneDNN. Both products are associated differently here; the sums are
the same.
"""

from __future__ import annotations

from math import prod

import torch.nn.functional as F
from torch import Tensor, cat, float32

# One vector register of float32: a product with no more output channels leaves it partly empty.
_REGISTER = 8

# Most input channels, and fewest output positions, for which re-association paid.
FEW = 4
_POSITIONS = 1 << 12

# Fewest products for each kernel offset for which a single volume is worth cutting in halves.
_SMALLEST_PRODUCT = 1 << 18

# In a batch of one, ATen hands float32 volumes to oneDNN only above this many elements in
# channels x depth x height, or with a kernel wider than this (use_mkldnn in
# aten/src/ATen/native/Convolution.cpp).
_SLICE = 20480
_NARROW = 3


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
    if prod(kernel) == 1 or x.dtype != float32:
        return None
    few = channels <= FEW and positions > _POSITIONS
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
    x = cat([x.narrow(2, start, half + taps - 1) for start in (0, depth - half)])
    first, second = convolution(x, weight, padding=[0, *margin[1:]]).split(1)
    return cat([first, second.narrow(2, 2 * half - depth, depth - half)], dim=2)


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
