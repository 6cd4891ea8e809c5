"""One forward pass with its graph kept, and its input-only vector-Jacobian products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from monai_ifim.core.checks import check_images, check_logits

OutputTransform = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Forward:
    """One forward pass with its graph kept.

    Attributes:
        images: leaf of the graph, (B, C, *S).
        logits: (B, K), differentiable with respect to ``images``.
    """

    images: Tensor
    logits: Tensor


def as_leaf(images: Tensor) -> Tensor:
    """The images as a plain leaf that requires a gradient; the caller's tensor stays as it is.

    Under inference_mode the images are inference tensors, which autograd cannot record: only
    those are copied.
    """
    leaf = images.detach().as_subclass(Tensor)
    return (leaf.clone() if leaf.is_inference() else leaf).requires_grad_()


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
    output = network(leaf.clone(), *args, **kwargs)
    return Forward(leaf, read_logits(output, len(leaf), output_transform))


def read_logits(output: Any, batch: int, output_transform: OutputTransform | None) -> Tensor:
    """Logits (B, K) from whatever the network returned; see ``check_logits`` for the errors."""
    if output_transform is not None:
        output = output_transform(output)
    return check_logits(output, batch)


def vector_jacobian_products(
    forward: Forward, cotangents: Tensor, *, chunk: int | None = None
) -> Tensor:
    """Gradients of M linear combinations of the logits with respect to the images.

    One graph, M input-only backward passes: a loop, or ``chunk`` at a time through
    ``torch.func.vmap``. The loop is the faster one on CPU and needs the least memory.

    Args:
        forward: the pass, with its graph.
        cotangents: (M, B, K).
        chunk: how many backward passes to batch; None or 1 for the loop.

    Returns:
        (B, M, C, *S), in the images' dtype.

    Raises:
        ValueError: ``chunk`` < 1.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"expected vjp_chunk >= 1 or None, got {chunk}; None is the plain loop")
    size = (cotangents.shape[1], cotangents.shape[0], *forward.images.shape[1:])
    products = forward.images.new_empty(size)
    cotangents = cotangents.to(forward.logits)
    if chunk is None or chunk == 1:
        for m, cotangent in enumerate(cotangents):
            products[:, m] = _backward(forward, cotangent)
        return products
    batched = torch.func.vmap(lambda u: _gradient(forward, u))
    for start in range(0, len(cotangents), chunk):
        part = batched(cotangents[start : start + chunk])
        products[:, start : start + chunk] = part.transpose(0, 1)
    return products


def _gradient(forward: Forward, cotangent: Tensor) -> Tensor:
    return torch.autograd.grad(forward.logits, forward.images, cotangent, retain_graph=True)[0]


def _backward(forward: Forward, cotangent: Tensor) -> Tensor:
    try:
        return _gradient(forward, cotangent).as_subclass(Tensor)
    except RuntimeError as error:
        if "use_reentrant" not in str(error) and "Checkpointing is not" not in str(error):
            raise
    # Reentrant checkpointing knows only backward(). All parameters are frozen here, so our own
    # leaf is the only tensor that can receive a gradient.
    forward.images.grad = None
    forward.logits.backward(cotangent, retain_graph=True)
    gradient, forward.images.grad = forward.images.grad, None
    assert gradient is not None  # a graph that reaches the leaf always fills it
    return gradient.as_subclass(Tensor)
