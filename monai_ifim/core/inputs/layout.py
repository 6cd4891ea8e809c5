"""Where each of several inputs lies in one tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

Name = str | int
Scale = float | Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """The inputs side by side, each divided by its scale.

    Attributes:
        shapes: of each input without the axis of the batch, in the order in which they lie.
        scales: of each input, a number or a tensor that fits its shape.
    """

    shapes: Mapping[Name, tuple[int, ...]]
    scales: Mapping[Name, Scale]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor without the axis of the batch.

        That of an input that is alone and has a channel axis, so that masks and filters fit it;
        else (1, N).
        """
        first, *others = self.shapes.values()
        return first if not others and len(first) > 1 else (1, sum(self._sizes.values()))

    @property
    def _sizes(self) -> dict[Name, int]:
        return {name: math.prod(shape) for name, shape in self.shapes.items()}

    def parts(self, values: Tensor) -> dict[Name, Tensor]:
        """What each input has of values of the tensor's shape; the scales stay in.

        Args:
            values: (..., *shape), for example eigenvectors (B, R, *shape).

        Returns:
            (..., *shape of the input) by name, views.

        Raises:
            ValueError: values of another shape.
        """
        axes = values.ndim - len(self.shape)
        if axes < 0 or tuple(values.shape[axes:]) != self.shape:
            raise ValueError(
                f"expected values of shape {('...', *self.shape)}, got {tuple(values.shape)}; pass "
                "what was computed from SeveralInputs.images, such as eigenvectors"
            )
        lead = values.shape[:axes]
        flat = values.as_subclass(Tensor).reshape(*lead, math.prod(self.shape))
        found: dict[Name, Tensor] = {}
        start = 0
        for name, size in self._sizes.items():
            found[name] = flat.narrow(-1, start, size).reshape(*lead, *self.shapes[name])
            start += size
        return found

    def join(self, parts: Mapping[Name, Tensor]) -> Tensor:
        """The opposite of ``parts``.

        Args:
            parts: (..., *shape of the input) by name; 0 for those that are left out.

        Returns:
            (..., *shape).

        Raises:
            ValueError: an unknown name, none, or another shape.
        """
        lead = self._lead(parts)
        first, sizes = next(iter(parts.values())), self._sizes
        kind = reduce(torch.promote_types, (part.dtype for part in parts.values()))
        rows = [
            parts[name].as_subclass(Tensor).reshape(*lead, size).to(first.device, kind)
            if name in parts
            else torch.zeros((*lead, size), dtype=kind, device=first.device)
            for name, size in sizes.items()
        ]
        return torch.cat(rows, dim=-1).reshape(*lead, *self.shape)

    def _lead(self, parts: Mapping[Name, Tensor]) -> tuple[int, ...]:
        """The axes that come before those of the inputs, the same for all parts."""
        unknown = [name for name in parts if name not in self.shapes]
        if unknown or not parts:
            raise ValueError(
                f"expected parts of {list(self.shapes)}, got {list(parts)}; give some of these"
            )
        shapes = {name: tuple(part.shape) for name, part in parts.items()}
        name, shape = next(iter(shapes.items()))
        lead = shape[: max(len(shape) - len(self.shapes[name]), 0)]
        expected = {name: (*lead, *self.shapes[name]) for name in parts}
        if shapes != expected:
            raise ValueError(
                f"expected parts of shapes {expected}, got {shapes}; give each the shape of its "
                "input, and all the same axes before"
            )
        return lead

    def to_inputs(self, values: Tensor) -> dict[Name, Tensor]:
        """As ``parts``, in the units of each input: times its scale."""
        return {n: part * _scale(self.scales[n], part) for n, part in self.parts(values).items()}

    def from_inputs(self, inputs: Mapping[Name, Tensor]) -> Tensor:
        """As ``join``, for values in the units of each input: divided by its scale."""
        known = {n: v for n, v in inputs.items() if n in self.scales}
        scaled = {n: v.as_subclass(Tensor) / _scale(self.scales[n], v) for n, v in known.items()}
        return self.join({**inputs, **scaled})


def _scale(scale: Scale, values: Tensor) -> Scale:
    return scale.to(values.device, values.dtype) if isinstance(scale, Tensor) else scale
