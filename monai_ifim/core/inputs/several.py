"""Networks that are called with several inputs: MR and CT, an image and clinical data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from monai_ifim.core.eigenspace import Eigenspace, like
from monai_ifim.core.gradients.at_rest import unwrap
from monai_ifim.core.inputs.checks import as_names, check_batch, check_scales, named_inputs
from monai_ifim.core.inputs.layout import Layout, Name, Scale
from monai_ifim.core.inputs.one_tensor import Call, OneTensor, identity_of


class SeveralInputs:
    """A network of several inputs, at a batch, as a network of one tensor.

    Every function for a network and its images then takes ``several.network`` and
    ``several.images``. F is that of the inputs named in ``wrt``; the others are held fixed, and no
    gradient is taken of them. Where several are named, F is joint: one spectrum, and a part of each
    eigenvector for each input.

    Args:
        network: the classifier; left as it is.
        inputs: all that it is called with: a dictionary, or a tuple, whose inputs are named by
            their positions. Tensors have the axis of the batch first; anything else (None, a flag)
            is handed on.
        wrt: the names of the inputs that F is about, or one of them; floating-point tensors.
        scale: what one unit of each input in ``wrt`` is, > 0; required where several are named,
            because F adds up their squared gradients. The standard deviation of each over the data
            makes their changes comparable: a number, or a tensor that fits the input, such as one
            number for each column of clinical data; a single number is for all, 1 where they
            share a unit.
        call: ``"separate"`` for ``network(**inputs)`` or ``network(*inputs)``, ``"whole"`` for
            ``network(inputs)``, or a function of the network and the inputs.

    Attributes:
        network: takes ``images`` and returns the network's output.
        images: the inputs in ``wrt`` in units of their scales, side by side as (B, 1, N); of one
            input alone with a channel axis (B, C, *S) as it is.

    Raises:
        TypeError: network or inputs of the wrong type; integers in ``wrt``.
        ValueError: an unknown name, batches of different sizes, or an impossible scale.

    >>> import monai_ifim as mi
    >>> class Both(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.image, self.data = nn.Linear(12, 3), nn.Linear(5, 3)
    ...     def forward(self, image, data):
    ...         return self.image(image.flatten(1)) + self.data(data)
    >>> inputs = {"image": torch.randn(2, 1, 3, 4), "data": torch.randn(2, 5)}
    >>> several = SeveralInputs(Both(), inputs, wrt=["image", "data"], scale=1.0)
    >>> space = mi.eigenspace(several.network, several.images)
    >>> {name: tuple(part.shape) for name, part in several.parts(space.eigenvectors).items()}
    {'image': (2, 2, 1, 3, 4), 'data': (2, 2, 5)}
    >>> bool(torch.allclose(sum(several.shares(space).values()), torch.ones(2).double()))
    True
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Mapping[Any, Any] | Sequence[Any],
        *,
        wrt: Name | Sequence[Name],
        scale: Scale | Mapping[Any, Scale] | None = None,
        call: str | Call = "separate",
    ) -> None:
        network = unwrap(network)
        named = named_inputs(network, inputs)
        names = as_names(wrt, named)
        check_batch(named)
        shapes = {name: tuple(named[name].shape[1:]) for name in names}
        self._layout = Layout(shapes, check_scales(scale, shapes))
        self._given = {name: named[name] for name in names}
        self._held = [name for name in named if name not in names]
        way = _Call(call, isinstance(inputs, Mapping))
        identity = identity_of(network, tuple(named), tuple(names), *way.key)
        self.network = OneTensor(network, named, self._layout, way, identity)
        with torch.inference_mode(False):
            self.images = self._layout.from_inputs({n: v.detach() for n, v in self._given.items()})

    def __repr__(self) -> str:
        """One line: the inputs that F is about with their shapes, and those held fixed."""
        shapes = ", ".join(f"{name} {shape}" for name, shape in self._layout.shapes.items())
        held = f"; held fixed: {', '.join(map(str, self._held))}" if self._held else ""
        return f"SeveralInputs({len(self.images)} of {shapes}{held})"

    def parts(self, values: Tensor) -> dict[Name, Tensor]:
        """What each input has of eigenvectors, sensitivities and the like, in units of its scale.

        Args:
            values: (..., *S) with S the shape of an image of ``images``.

        Returns:
            (..., *shape of the input) by name.

        Raises:
            ValueError: values of another shape.
        """
        return self._layout.parts(values)

    def join(self, parts: Mapping[Name, Tensor]) -> Tensor:
        """The opposite of ``parts``, for example for ``Mask(several.join({"mr": mask}))``.

        Args:
            parts: (..., *shape of the input) by name; 0 for those that are left out.

        Returns:
            (..., *S) with S the shape of an image of ``images``.

        Raises:
            ValueError: an unknown name, or another shape.
        """
        return self._layout.join(parts)

    def to_inputs(self, values: Tensor) -> dict[Name, Tensor]:
        """Images, components or changes in the units of each input: ``parts`` times the scales.

        Args:
            values: (..., *S) with S the shape of an image of ``images``.

        Returns:
            (..., *shape of the input) by name; with the input's metadata where it has any and the
            shape is that of the whole batch.

        Raises:
            ValueError: values of another shape.
        """
        found = self._layout.to_inputs(values)
        return {
            name: like(value, self._given[name].to(value))
            if value.shape == self._given[name].shape
            else value
            for name, value in found.items()
        }

    def from_inputs(self, inputs: Mapping[Name, Tensor]) -> Tensor:
        """The opposite of ``to_inputs``: changes of the inputs as changes of ``images``.

        Args:
            inputs: (..., *shape of the input) by name; 0 for those that are left out.

        Returns:
            (..., *S) with S the shape of an image of ``images``.

        Raises:
            ValueError: an unknown name, or another shape.
        """
        return self._layout.from_inputs(inputs)

    def split(
        self, space: Eigenspace, rank: int | None = None
    ) -> tuple[dict[Name, Tensor], dict[Name, Tensor]]:
        """High-sensitivity and orthogonal component of each input, in its units.

        Args:
            space: eigenspace of ``images``.
            rank: use only the leading ``rank`` of the kept eigenvectors.

        Returns:
            Both by name. They add up to the inputs; orthogonal are those of all inputs together, in
            units of the scales.

        Raises:
            ValueError: rank out of range, or the eigenspace of other images.
        """
        high, orth = space.split(self.images, rank)
        return self.to_inputs(high), self.to_inputs(orth)

    def shares(self, space: Eigenspace) -> dict[Name, Tensor]:
        """Shares of the trace that each input has, which depend on the scales.

        Args:
            space: eigenspace of ``images``.

        Returns:
            (B,) in float64 by name; they add up to 1, and are 0 where the trace is 0.

        Raises:
            ValueError: the eigenspace of other images.
        """
        parts = self.parts(space.sensitivity())
        sums = {name: part.flatten(1).sum(dim=1) for name, part in parts.items()}
        total = torch.stack([*sums.values()]).sum(dim=0)
        total = torch.where(total == 0, 1, total)
        return {name: value / total for name, value in sums.items()}


class _Call:
    """How the network is called.

    Args:
        call: ``"separate"``, ``"whole"`` or a function.
        by_name: whether the inputs are a dictionary.

    Raises:
        ValueError: another word.
    """

    def __init__(self, call: str | Call, by_name: bool) -> None:
        if not callable(call) and call not in ("separate", "whole"):
            raise ValueError(
                f"expected call 'separate', 'whole' or a function of network and inputs, got "
                f"{call!r}; 'separate' calls network(**inputs) or network(*inputs)"
            )
        self._call, self._by_name = call, by_name

    @property
    def key(self) -> tuple[Any, bool]:
        """The same for the same way of calling; keeps no function, which may hold the network.

        A lambda in a loop is a new object each time, with the same code.
        """
        word = self._call if isinstance(self._call, str) else type(self._call)
        return getattr(self._call, "__code__", word), self._by_name

    def __call__(self, network: nn.Module, inputs: dict[Name, Any]) -> Any:
        given: Any = inputs if self._by_name else tuple(inputs.values())
        if callable(self._call):
            return self._call(network, given)
        if self._call == "whole":
            return network(given)
        return network(**given) if self._by_name else network(*given)
