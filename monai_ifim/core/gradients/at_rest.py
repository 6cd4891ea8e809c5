"""A network in eval mode with frozen parameters, whose state is restored afterwards."""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from monai_ifim.core.checks import check_network

_LOCKS: WeakKeyDictionary[nn.Module, tuple[Any, ...]] = WeakKeyDictionary()
_NEW_LOCK = threading.Lock()

# Values compared at a time on the CPU: not more than one thread takes. Waking the others for so
# small a job took 8 ms where another process had their core.
_BLOCK = 1 << 15

# Integers as wide as a value of this many bytes; the widest serves complex128, too.
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}


def unwrap(network: nn.Module) -> nn.Module:
    """The network inside a (Distributed)DataParallel wrapper.

    A wrapper called with gradients on broadcasts buffers again, and with an uneven number of
    files the ranks then wait for each other for ever.

    Args:
        network: wrapped or not.

    Returns:
        The network without its wrapper.
    """
    wrappers = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    return network.module if isinstance(network, wrappers) else network


@contextmanager
def frozen_parameters(network: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient inside; each one's own flag is restored.

    Frozen parameters keep the graph small and make every backward pass input-only.
    """
    with exclusive(network), _frozen(network.parameters()):
        yield


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
    # One walk serves all: over the 500 modules of a DenseNet each takes 0.4 ms.
    modules = check_network(network)
    with (
        exclusive(network),
        torch.inference_mode(False),
        torch.enable_grad(),
        nullcontext() if autocast else torch.autocast(device.type, enabled=False),
        torch.random.fork_rng([device] if device.type == "cuda" else []),
        _frozen(p for m in modules for p in m._parameters.values() if p is not None),
        _same_buffers(modules),
        _eval_mode(network, modules),
    ):
        yield


@contextmanager
def exclusive(network: nn.Module) -> Iterator[None]:
    """One lock for each network: flags that two threads set and restore in turn stay wrong.

    Networks that share a module, as a backbone, share their locks.

    Args:
        network: the classifier, unwrapped.
    """
    with ExitStack() as stack:
        for lock in _locks_of(network):
            stack.enter_context(lock)
        yield


def _locks_of(network: nn.Module) -> tuple[Any, ...]:
    """Locks of all modules in one order for all threads; looked up when the network is new."""
    with _NEW_LOCK:
        known = _LOCKS.get(network)
        if known is None:
            modules = list(network.modules())
            found = {id(lock): lock for m in modules for lock in _LOCKS.get(m, ())}
            known = tuple(found[key] for key in sorted(found)) or (threading.RLock(),)
            for module in modules:
                _LOCKS.setdefault(module, known)
            _LOCKS[network] = known
        return known


@contextmanager
def _frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    trainable = [p for p in parameters if p.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def _eval_mode(network: nn.Module, modules: Iterable[nn.Module]) -> Iterator[None]:
    """Eval mode for the whole network; each module's own flag is restored."""
    flagged = [m for m in modules if hasattr(m, "training")]  # frozen TorchScript modules are not
    flags = [m.training for m in flagged]
    try:
        if any(flags):
            # The mode of a module from torch.export was fixed when it was exported.
            with suppress(NotImplementedError):
                network.eval()
        yield
    finally:
        for module, flag in zip(flagged, flags, strict=True):
            if module.training is not flag:
                _set_flag(module, flag)


def _set_flag(module: nn.Module, flag: bool) -> None:
    own = vars(module)
    if "training" in own:
        own["training"] = flag  # Module's own assignment takes 2 µs, hundreds of times
    else:
        module.training = flag  # TorchScript keeps it elsewhere


@contextmanager
def _same_buffers(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Each module has the same buffers afterwards, in the same storage and with the same values."""
    owners = [(m, dict(m._buffers.items()), m._non_persistent_buffers_set.copy()) for m in modules]
    # An alias keeps hold of the storage and the shape, which an assignment to .data takes away.
    buffers = [b for _, own, _ in owners for b in own.values() if b is not None]
    aliases = [(b, b.detach()) for b in buffers if _is_strided(b)]
    others = [(b, b.detach().clone()) for b in buffers if not _is_strided(b)]
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for _, alias in aliases:
        groups.setdefault((alias.dtype, alias.device), []).append(alias)
    values = [_joined(group) for group in groups.values()]
    try:
        yield
    finally:
        for module, own, unsaved in owners:
            now = module._buffers
            if (own or now) and not _identical(own, dict(now.items())):
                _register(module, own, unsaved)
        for buffer, alias in aliases:
            if not buffer.is_set_to(alias):
                buffer.data = alias
        for group, value in zip(groups.values(), values, strict=True):
            _write_back(group, value)
        for buffer, value in others:
            _write_back_whole(buffer, value)


def _is_strided(buffer: Tensor) -> bool:
    """Whether its values lie in plain memory; those of sparse and quantised buffers do not."""
    return buffer.layout is torch.strided and not buffer.is_quantized


def _identical(left: dict[str, Tensor | None], right: dict[str, Tensor | None]) -> bool:
    """The very same buffers under the same names, in the same order."""
    same = map(operator.is_, left.values(), right.values())
    return [*left] == [*right] and all(same)


def _register(module: nn.Module, own: dict[str, Tensor | None], unsaved: set[str]) -> None:
    """Make these the module's buffers again; ``unsaved`` names those not in the state dict."""
    if isinstance(module, torch.jit.ScriptModule):  # can assign, but neither add nor delete
        for name, buffer in own.items():
            setattr(module, name, buffer)
        return
    for name in own.keys() - module._buffers.keys():
        vars(module).pop(name, None)  # an attribute put in its place would hide the buffer
    module._buffers.clear()
    module._buffers.update(own)
    module._non_persistent_buffers_set = unsaved


def _joined(tensors: Iterable[Tensor]) -> Tensor:
    """All values in one tensor: hundreds of copies in one step."""
    return torch.cat([t if t.ndim == 1 else t.flatten() for t in tensors])


def _write_back(tensors: Sequence[Tensor], values: Tensor) -> None:
    """Write back what differs, and only that: a needless write spoils graphs that hold a buffer.

    Values are compared because a write through ``.data`` leaves the version counter alone.
    """
    now = _joined(tensors)
    if _same_bits(now, values):
        return
    sizes = [t.numel() for t in tensors]
    for tensor, new, old in zip(tensors, now.split(sizes), values.split(sizes), strict=True):
        if not _same_bits(new, old):
            tensor.copy_(old.view_as(tensor))


def _write_back_whole(buffer: Tensor, value: Tensor) -> None:
    """A sparse or quantised buffer, compared part by part, with its old value where it differs."""
    same = all(
        a.shape == b.shape and _same_bits(a.contiguous().flatten(), b.contiguous().flatten())
        for a, b in zip(_parts(buffer.detach()), _parts(value), strict=True)
    )
    if not same:
        with torch.no_grad():  # of a detached sparse tensor only the alias would change
            buffer.copy_(value)


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """Plain tensors that make up a sparse or quantised one."""
    if tensor.is_quantized:
        return (tensor.int_repr(),)
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return tensor.crow_indices(), tensor.col_indices(), tensor.values()


def _same_bits(left: Tensor, right: Tensor) -> bool:
    """NaN is the same as itself, and 0 is not -0."""
    bits = _BITS[left.element_size()]
    left, right = left.view(bits), right.view(bits)
    # Elsewhere than on the CPU each comparison waits for the device.
    block = _BLOCK if left.is_cpu else len(left)
    return all(map(torch.equal, left.split(block), right.split(block)))
