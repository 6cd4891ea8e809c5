"""Warnings of torch that its users can do nothing about."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Kernels of attention and filters of warnings are the process's: two threads that choose and
# restore them in turn would leave a stranger's choice behind.
_PROCESS = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of torch that its users can do nothing about.

    Operations without a batched form run pass by pass; forward mode scripts functions of torch's
    own when it is first used; some bundles hold their network as TorchScript.

    Yields:
        Nothing; other threads wait for this block.
    """
    with _PROCESS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        # A DeprecationWarning up to torch 2.13, a FutureWarning, which everybody sees, after it.
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated")
        yield
