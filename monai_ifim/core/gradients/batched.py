"""Several passes through one graph at once, without the noise that this makes."""

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
    """Without the warning that torch runs what has no batched form pass by pass."""
    with _PROCESS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        yield
