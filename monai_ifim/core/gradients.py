"""A network at rest, one forward pass, and its input-only vector-Jacobian products."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from monai_ifim.core.checks import check_images, check_logits, check_network

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


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside a (Distributed)DataParallel wrapper.

    A wrapper called with gradients on broadcasts buffers again, and with an uneven number of
    files the ranks then wait for each other for ever.
    """
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    return network.module if isinstance(network, wrappers) else network


@contextmanager
def frozen_parameters(network: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient inside; each one's own flag is restored.

    Frozen parameters keep the graph small and make every backward pass input-only.
    """
    trainable = [p for p in network.parameters() if p.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def at_rest(network: nn.Module, device: torch.device, *, autocast: bool = False) -> Iterator[None]:
    """The network as it predicts, with gradients on, and no trace of that afterwards.

    Inside: eval mode, frozen parameters, gradients on (also under ``no_grad`` and
    ``inference_mode``), autocast off unless asked for. Afterwards, also after an exception:
    every module's own training flag, every ``requires_grad``, every buffer and the global
    random state are as before.

    Args:
        network: the classifier, unwrapped.
        device: where the images are.
        autocast: leave the caller's autocast on. Off by default: bfloat16 autocast put the
            input gradients of a DenseNet 17 % off.

    Raises:
        TypeError: not a ``torch.nn.Module``.
        ValueError: parameters or buffers made under ``inference_mode``.
    """
    check_network(network)
    # Frozen TorchScript modules have no flag.
    flags = [(m, m.training) for m in network.modules() if hasattr(m, "training")]
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        nullcontext() if autocast else torch.autocast(device.type, enabled=False),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        frozen_parameters(network),
    ):
        buffers = [(module, _buffers(module)) for module in network.modules()]
        values = _values(network.buffers())
        try:
            network.eval()
            yield
        finally:
            for module, flag in flags:
                module.training = flag
            for module, before in buffers:
                for name in _buffers(module).keys() - before.keys():
                    delattr(module, name)
                for name, buffer in before.items():
                    if _buffers(module).get(name, module) is not buffer:
                        setattr(module, name, buffer)
            _restore(network.buffers(), values)


def _buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """A module's own buffers by name, empty ones too."""
    scripted = isinstance(module, torch.jit.ScriptModule)
    return dict(module.named_buffers(recurse=False) if scripted else module._buffers)


def _values(buffers: Iterable[Tensor]) -> dict[tuple[torch.dtype, torch.device], Tensor]:
    """All values in one tensor for each dtype and device: hundreds of copies in one step."""
    groups = _grouped(buffers)
    return {key: torch.cat([b.flatten() for b in group]) for key, group in groups.items()}


@torch.no_grad()
def _restore(
    buffers: Iterable[Tensor], values: dict[tuple[torch.dtype, torch.device], Tensor]
) -> None:
    """Write back what differs, and only that: a needless write spoils graphs that hold a buffer.

    Values are compared because a write through ``.data`` leaves the version counter alone.
    """
    for key, group in _grouped(buffers).items():
        if torch.equal(torch.cat([b.flatten() for b in group]), values[key]):
            continue
        for buffer, value in zip(group, values[key].split([b.numel() for b in group]), strict=True):
            if not torch.equal(buffer.flatten(), value):
                buffer.copy_(value.view_as(buffer))


def _grouped(
    buffers: Iterable[Tensor],
) -> dict[tuple[torch.dtype, torch.device], list[Tensor]]:
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for buffer in buffers:
        groups.setdefault((buffer.dtype, buffer.device), []).append(buffer.detach())
    return groups


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
