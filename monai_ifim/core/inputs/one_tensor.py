"""A network of several inputs, as a network of one tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from monai_ifim.core.gradients.forward import copies
from monai_ifim.core.gradients.independence import NetworkIdentity
from monai_ifim.core.inputs.layout import Layout, Name
from monai_ifim.core.one_by_one import of_image

Call = Callable[[nn.Module, Any], Any]

# For each network what is known of it, by the names of its inputs and the way it is called.
_IDENTITIES: WeakKeyDictionary[nn.Module, dict[Any, NetworkIdentity]] = WeakKeyDictionary()


class OneTensor(nn.Module):
    """A network of several inputs as one of a single tensor, with the other inputs held fixed.

    Args:
        network: that is called with several inputs.
        inputs: all of them, by name.
        layout: of those that lie in the tensor.
        call: (network, inputs by name) to the network's output.
        identity: for what is asked once of a network, not of each batch; see ``identity_of``.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Mapping[Name, Any],
        layout: Layout,
        call: Call,
        identity: NetworkIdentity,
    ) -> None:
        super().__init__()
        self.several = network
        self.identity = identity
        self._layout, self._call = layout, call
        self._like = {n: (inputs[n].device, inputs[n].dtype) for n in layout.shapes}
        self._order = list(inputs)
        self._held = {
            n: v.detach().as_subclass(Tensor) if isinstance(v, Tensor) else v
            for n, v in inputs.items()
            if n not in layout.shapes
        }
        self._batch = len(inputs[next(iter(layout.shapes))])
        self._checked = False

    def forward(self, x: Tensor) -> Any:
        """What the network returns.

        Args:
            x: (B, *layout.shape), of the batch whose other inputs are held fixed.

        Returns:
            The network's output.

        Raises:
            ValueError: another batch, or an input to which the network does not react.
        """
        if len(x) != self._batch:
            raise ValueError(
                f"expected the whole batch of {self._batch} images, whose other inputs are held "
                f"fixed, got {len(x)}; make SeveralInputs of the images that are wanted"
            )
        parts = self._parts(x)
        starts = {name: part.grad_fn for name, part in parts.items()}  # they may be edited in place
        output = self._run(parts, self._held)
        if torch.is_grad_enabled() and x.requires_grad and not self._checked:
            _check_reached(output, starts)
            self._checked = True
        return output

    def with_inputs_of(self, x: Tensor, index: int) -> Any:
        """What the network returns when all have the fixed inputs of one image.

        Args:
            x: as in ``forward``.
            index: of the image.

        Returns:
            The network's output; None where nothing is held fixed that differs between images.
        """
        if not any(isinstance(value, Tensor) for value in self._held.values()):
            return None
        held = of_image(self._held, index, self._batch, repeat=self._batch)
        return self._run(self._parts(x), held)

    def _parts(self, x: Tensor) -> dict[Name, Tensor]:
        found = self._layout.to_inputs(x)
        return {name: part.to(*self._like[name]) for name, part in found.items()}

    def _run(self, parts: Mapping[Name, Tensor], held: Mapping[Name, Any]) -> Any:
        # Copies, because some networks edit their inputs in place.
        given = {**parts, **copies(held)}
        return self._call(self.several, {name: given[name] for name in self._order})


def identity_of(network: nn.Module, *kind: Any) -> NetworkIdentity:
    """What is known of all networks of one tensor that stand for the same network.

    Args:
        network: of several inputs.
        kind: all that tells its ways of being called apart.

    Returns:
        The same object for the same network and kind.
    """
    return _IDENTITIES.setdefault(network, {}).setdefault(kind, NetworkIdentity())


def _check_reached(output: Any, starts: Mapping[Name, Any]) -> None:
    """Refuse an input to which no path leads from the output."""
    leaves = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
    stack = [leaf.grad_fn for leaf in leaves if leaf.grad_fn is not None]
    seen = set(stack)
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is not None and node not in seen:
                seen.add(node)
                stack.append(node)
    missed = [name for name, node in starts.items() if node not in seen]
    if missed:
        raise ValueError(
            f"expected a network that reacts to each input in wrt, got logits that do not depend "
            f"on {', '.join(map(repr, missed))}: is it unused, rounded to integers, or detached? "
            "Leave it out of wrt"
        )
