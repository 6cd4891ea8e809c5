"""One forward pass with its graph kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only

from monai_ifim.core.changes.perturbation import Perturbation
from monai_ifim.core.checks import check_images, check_logits
from monai_ifim.core.gradients.fast.input_gradients import input_gradients
from monai_ifim.core.gradients.logits import OutputTransform, choose_logits, predicted_logits


@dataclass(frozen=True)
class Forward:
    """One forward pass with its graph kept.

    Attributes:
        images: leaf of the graph, (B, C, *S).
        logits: (B, K), or (B, K, *S') for a dense prediction; differentiable with respect to
            ``images``.
        function: images to logits once more, for Jacobian-vector products in forward mode; None
            when the pass cannot be repeated, and the graph is then differentiated twice.
        perturbation: A of the changes x + A u that products with the Jacobian are about; None for
            all changes of the images.
        with_inputs_of: of a network with further inputs: (images, i) to logits when all images have
            those of image i; None where they have none.
    """

    images: Tensor
    logits: Tensor
    function: Callable[[Tensor], Tensor] | None = None
    perturbation: Perturbation | None = None
    with_inputs_of: Callable[[Tensor, int], Any] | None = None


def as_leaf(images: Tensor) -> Tensor:
    """The images as a plain leaf that requires a gradient; the caller's tensor stays as it is.

    Under inference_mode the images are inference tensors, which autograd cannot record: only
    those are copied.

    Args:
        images: (B, C, *S), floating point.

    Returns:
        The leaf, which shares the images' memory where it can.
    """
    leaf = images.detach().as_subclass(Tensor)
    return (leaf.clone() if leaf.is_inference() else leaf).requires_grad_()


def copies(values: Any) -> Any:
    """Further inputs of a network as copies of their own.

    Some networks edit their inputs in place, and autograd cannot record what was made under
    ``inference_mode``; a copy made outside of it is a tensor like any other.

    Args:
        values: tensors and anything else, also nested.

    Returns:
        The same with each tensor copied, without a graph.
    """
    return tree_map_only(Tensor, lambda value: value.detach().clone(), values)


def run_forward(
    network: Callable[..., Any],
    images: Tensor,
    *args: Any,
    output_transform: OutputTransform | None = None,
    **kwargs: Any,
) -> Forward:
    """Forward pass with its graph kept, to be called inside ``at_rest``.

    Args:
        network: the classifier.
        images: (B, C, *S); left as they are, the network gets a copy.
        args: further positional arguments of the network.
        output_transform: chooses the logits from what the network returns.
        kwargs: further keyword arguments of the network.

    Returns:
        The pass. Errors are those of ``check_images`` and ``check_logits``.

    """
    check_images(images)
    leaf = as_leaf(images)

    # The network gets a copy, because some edit their input in place.
    def function(x: Tensor) -> Tensor:
        return choose_logits(network(x.clone(), *args, **kwargs), output_transform)

    with input_gradients(images):
        logits = check_logits(function(leaf), len(leaf))
    others = _with_inputs_of(network, output_transform)
    return Forward(leaf, logits, function, with_inputs_of=others)


def kept_forward(
    leaf: Tensor,
    output: Any,
    *,
    output_transform: OutputTransform | None = None,
    network: Callable[[Tensor], Any] | None = None,
) -> Forward:
    """Forward pass that somebody else made and whose graph was kept.

    Args:
        leaf: the images in that graph, (B, C, *S).
        output: what the network returned.
        output_transform: chooses the logits from it.
        network: repeats the pass, where that is possible.

    Returns:
        The pass. Errors are those of ``check_logits``.
    """
    logits = check_logits(choose_logits(output, output_transform), len(leaf))
    if network is None:
        return Forward(leaf, logits)
    repeat, others = network, _with_inputs_of(network, output_transform)

    def function(x: Tensor) -> Tensor:
        return choose_logits(repeat(x.clone()), output_transform)

    return Forward(leaf, logits, function, with_inputs_of=others)


def _with_inputs_of(
    network: Callable[..., Any], output_transform: OutputTransform | None
) -> Callable[[Tensor, int], Any] | None:
    """The method of this name, of a network with further inputs, to logits."""
    method = getattr(network, "with_inputs_of", None)
    if method is None:
        return None

    def logits(images: Tensor, index: int) -> Any:
        output = method(images.clone(), index)
        return None if output is None else choose_logits(output, output_transform)

    return logits


def lacks_batch_axis(
    network: Callable[[Tensor], Any], images: Tensor, output_transform: OutputTransform | None
) -> bool:
    """Whether a network that does not take the images would take them as one image.

    Args:
        network: that failed.
        images: that it was given.
        output_transform: chooses the logits from its output.

    Returns:
        A guess: the network takes ``images[None]``.
    """
    if images.ndim > 4:
        return False
    try:
        check_logits(predicted_logits(network, as_leaf(images)[None], output_transform), 1)
    except Exception:
        return False
    return True
