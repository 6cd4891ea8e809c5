"""A network of several inputs, as a network of one tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from monai_ifim.core.gradients.independence import Identity, fingerprint, rounding
from monai_ifim.core.inputs.layout import Layout, Name

Call = Callable[[nn.Module, Any], Any]

# For each network what is known of it, by the names of its inputs and the way it is called.
_IDENTITIES: WeakKeyDictionary[nn.Module, dict[Any, Identity]] = WeakKeyDictionary()


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
        identity: Identity,
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
            ValueError: another batch, an input to which the network does not react, or fixed inputs
                of one image that change the output of another.
        """
        if len(x) != self._batch:
            raise ValueError(
                f"expected the whole batch of {self._batch} images, whose other inputs are held "
                f"fixed, got {len(x)}; make SeveralInputs of the images that are wanted"
            )
        parts = {
            name: part.to(*self._like[name]) for name, part in self._layout.to_inputs(x).items()
        }
        first = torch.is_grad_enabled() and x.requires_grad and not self._checked
        if first:
            self._check_held(parts)
        starts = {
            name: part.grad_fn for name, part in parts.items()
        }  # before it is edited in place
        output = self._run(parts, self._held)
        if first:
            _check_reached(output, starts)
            self._checked = True
        return output

    def _run(self, parts: Mapping[Name, Tensor], held: Mapping[Name, Any]) -> Any:
        # Copies, because some networks edit their inputs in place.
        copies = {n: v.clone() if isinstance(v, Tensor) else v for n, v in held.items()}
        given = {**parts, **copies}
        return self._call(self.several, {name: given[name] for name in self._order})

    def _check_held(self, parts: Mapping[Name, Tensor]) -> None:
        """Refuse a network for which the fixed inputs of other images matter.

        Once for each network; no gradient shows it, and ``IndependenceCheck`` changes only what F
        is taken with respect to.

        Raises:
            ValueError: they do matter.
        """
        image, known = self._batch // 2, fingerprint(self.several)
        others = {
            n: v[image : image + 1].expand_as(v)
            for n, v in self._held.items()
            if isinstance(v, Tensor)
        }
        same = all(torch.equal(v, self._held[n]) for n, v in others.items())
        if same or self.identity.held == known:
            return
        with torch.no_grad():
            plain = {n: part.detach() for n, part in parts.items()}

            def outputs(held: Mapping[Name, Any]) -> list[Tensor]:
                copies = {n: part.clone() for n, part in plain.items()}
                leaves = tree_leaves(self._run(copies, {**self._held, **held}))
                rows = [v for v in leaves if isinstance(v, Tensor) and len(v.shape) > 1]
                return [v[image] for v in rows if len(v) == self._batch]

            before, after = outputs({}), outputs(others)
            if _differ(before, after) and not _differ(before, outputs({})):  # else it draws
                raise ValueError(
                    "expected a network that treats the images of a batch one by one, got other "
                    f"logits for image {image} (counted from 0) beside other values of "
                    f"{', '.join(map(repr, others))}; use batches of one image, or change the "
                    "layer that mixes them"
                )
        self.identity.held = known


def identity_of(network: nn.Module, *kind: Any) -> Identity:
    """What is known of all networks of one tensor that stand for the same network.

    Args:
        network: of several inputs.
        kind: all that tells its ways of being called apart.

    Returns:
        The same object for the same network and kind.
    """
    return _IDENTITIES.setdefault(network, {}).setdefault(kind, Identity())


def _differ(before: list[Tensor], after: list[Tensor]) -> bool:
    """Whether two lists of values differ by more than rounding."""
    if [v.shape for v in before] != [v.shape for v in after]:
        return True
    for old, new in zip(before, after, strict=True):
        if not old.is_floating_point():
            continue  # classes and masks follow from the logits
        old, new = (v.masked_fill(~v.isfinite(), 0).double() for v in (old, new))
        bound = rounding(before[0]) * old.abs().amax() if old.numel() else 0
        if bool(((new - old).abs() > bound).any()):
            return True
    return False


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
