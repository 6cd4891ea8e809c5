"""A pooled eigenspace that somebody names, and what tells it from others."""

from __future__ import annotations

import hashlib
import os

from monai_ifim.core.pooling.pooled import PooledEigenspace


def load_pooled(
    space: PooledEigenspace | str | os.PathLike[str] | None,
) -> PooledEigenspace | None:
    """A pooled eigenspace from what a host or a configuration gives.

    Args:
        space: itself, a file that ``PooledEigenspace.save`` wrote, or nothing (None or "").

    Returns:
        The pooled eigenspace, None for nothing.

    Raises:
        TypeError: something else.
        ValueError: not such a file, or no directions in it.
        OSError: the file cannot be read.
    """
    if space is None or space == "":
        return None
    if isinstance(space, str | os.PathLike):
        space = PooledEigenspace.load(space)
    if not isinstance(space, PooledEigenspace):
        raise TypeError(
            f"expected a PooledEigenspace or a file of one, got {type(space).__name__}; make one "
            "with pooled_eigenspace, and save it"
        )
    if not len(space.eigenvalues):
        raise ValueError(
            "expected a pooled eigenspace with directions, got one without; was it pooled from "
            "images to which the network reacts?"
        )
    return space


def pooled_digest(space: PooledEigenspace) -> str:
    """SHA-256 of the directions of a pooled eigenspace.

    Args:
        space: whose eigenvectors count.

    Returns:
        64 hexadecimal digits.
    """
    values = space.eigenvectors.detach().cpu().contiguous()
    total = hashlib.sha256(f"{values.dtype} {tuple(values.shape)}".encode())
    total.update(values.numpy().tobytes())
    return total.hexdigest()
