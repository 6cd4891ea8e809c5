"""Vector-Jacobian products Jᵀ u of one forward pass: input gradients."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from monai_ifim.core.checks import check_chunk
from monai_ifim.core.gradients.forward import Forward
from monai_ifim.core.gradients.quiet import quiet

# On a CPU, batches of backward passes took 0.3 to 1.0 of the loop's time for images of up to so
# many values in all, with every network tried; for larger ones it depends on the network
# (benchmarks/ideas.py). So many values of gradients make a batch then, and so many passes at most.
_SMALL, _BATCH, _MOST = 1 << 14, 1 << 17, 32

logger = logging.getLogger(__name__)


def vector_jacobian_products(
    forward: Forward,
    cotangents: Tensor,
    *,
    chunk: int | str | None = None,
    offload: bool = False,
) -> Tensor:
    """Gradients of M linear combinations of the logits with respect to the images, Jᵀ u.

    Where the pass has a perturbation A: with respect to its coordinates, Aᵀ Jᵀ u.

    One graph, M input-only backward passes: a loop, or ``chunk`` at a time through
    ``torch.func.vmap``. The loop needs the least memory, and is the faster one on CPU for all
    but small images. When a batch of passes runs out of GPU memory, it is halved, down to the
    loop.

    Args:
        forward: the pass, with its graph.
        cotangents: (M, *L) for logits of shape L.
        chunk: how many backward passes to batch; None or 1 for the loop; ``"auto"`` for what
            was measured to be fastest, and the loop where a network refuses batches.
        offload: keep the result in the CPU's memory, also when the images are on a GPU.

    Returns:
        (B, M, C, *S), in the images' dtype.

    Raises:
        ValueError: ``chunk`` is neither a number above 0, nor None, nor ``"auto"``.
        OutOfMemoryError: a single backward pass does not fit into the GPU's memory.
    """
    images = forward.images
    size = _chunk_size(chunk, images)
    shape = (len(images), len(cotangents), *images.shape[1:])
    products = images.new_empty(shape, device="cpu" if offload else images.device)
    # Not .to(logits): a MetaTensor's kind would come along, and its slices look at metadata.
    cotangents = cotangents.to(forward.logits.device, forward.logits.dtype)
    start = 0
    while start < len(cotangents):
        part = cotangents[start : start + size]
        try:
            single = len(part) == 1
            found = backward(forward, part[0])[None] if single else _batched(forward, part)
            if forward.perturbation is not None:
                found = forward.perturbation.transpose(found)
            products[:, start : start + size] = found.transpose(0, 1)
        except torch.OutOfMemoryError:
            if len(part) == 1:
                raise
            size = len(part) // 2
            torch.cuda.empty_cache()
            logger.warning("out of memory: vjp_chunk is now %d", size)
            continue
        except Exception as error:
            # Many ways to refuse a batch: autograd functions, checkpoints, hooks that look at
            # values. Who asked for a number is told.
            if len(part) == 1 or chunk != "auto":
                raise
            logger.info("no batch of backward passes, going on one by one: %s", error)
            size = 1
            continue
        start += len(part)
    return products


def _chunk_size(chunk: int | str | None, images: Tensor) -> int:
    if chunk is None:
        return 1
    if chunk == "auto":  # no GPU has been measured
        small = images.is_cpu and images.numel() <= _SMALL
        return min(_MOST, _BATCH // images.numel()) if small else 1
    check_chunk(chunk)
    return int(chunk)


def _batched(forward: Forward, cotangents: Tensor) -> Tensor:
    with quiet():
        batch = torch.func.vmap(lambda u: _gradient(forward, u))(cotangents)
    return batch.as_subclass(Tensor)


def _gradient(forward: Forward, cotangent: Tensor) -> Tensor:
    gradient = torch.autograd.grad(
        forward.logits, forward.images, cotangent, retain_graph=True, allow_unused=True
    )[0]
    if gradient is None:
        raise ValueError(
            "expected logits that depend on the images, got a graph that does not lead back to "
            "them: quantised layers (torch.ao.quantization) and integer operations have no "
            "gradient; use the network as it was before quantisation"
        )
    return gradient


def backward(forward: Forward, cotangent: Tensor) -> Tensor:
    """One backward pass.

    Args:
        forward: the pass, with its graph, which is kept.
        cotangent: of the logits' shape.

    Returns:
        Gradient with respect to the images, (B, C, *S).

    Raises:
        RuntimeError: the graph cannot be differentiated, or has been freed.
    """
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
