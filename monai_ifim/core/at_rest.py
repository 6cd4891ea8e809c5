"""A network at rest: as it predicts, ready for input gradients, and left as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from monai_ifim.core.checks import check_network


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
