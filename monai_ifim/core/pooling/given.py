"""A pooled eigenspace that somebody names, and what tells it from others."""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from torch import Tensor, nn

from monai_ifim.core.checks import check_rank
from monai_ifim.core.options import EigenspaceOptions
from monai_ifim.core.pooling.digest import network_name
from monai_ifim.core.pooling.pooled import PooledEigenspace
from monai_ifim.core.solvers import Auto, Krylov

logger = logging.getLogger(__name__)
# The networks that each pooled eigenspace was compared with.
_COMPARED: WeakKeyDictionary[PooledEigenspace, WeakSet[nn.Module]] = WeakKeyDictionary()

Space = PooledEigenspace | str | os.PathLike[str] | None  # itself, a file, or none ("" as well)


def load_pooled(space: Space) -> PooledEigenspace | None:
    """A pooled eigenspace from what a host or a configuration gives.

    Args:
        space: itself, a file that ``PooledEigenspace.save`` wrote, or nothing (None or "").

    Returns:
        The pooled eigenspace with all its directions, None for nothing.

    Raises:
        TypeError: something else.
        ValueError: not such a file, or no directions in it.
        FileNotFoundError: there is no such file.
    """
    if space is None or space == "":
        return None
    if isinstance(space, str | os.PathLike):
        if not Path(space).is_file():
            raise FileNotFoundError(
                f"expected a file of a pooled eigenspace, got none at {os.fspath(space)}; write "
                "it with pooled_eigenspace(...).save(FILE)"
            )
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


def leading(space: PooledEigenspace | None, rank: int | None) -> PooledEigenspace | None:
    """The directions of a pooled eigenspace that components are taken in.

    Args:
        space: with all its directions; None for nothing.
        rank: how many leading ones; by default those in which the two halves of the pooled images
            agree (``stable_rank``), because the others are mostly noise.

    Returns:
        The same with these directions alone.

    Raises:
        ValueError: fewer than ``rank``, or no stable ones.
    """
    if space is None:
        return None
    check_rank(rank)
    there = len(space.eigenvalues)
    if rank is not None and rank > there:
        raise ValueError(
            f"expected rank <= {there}, the directions of the pooled eigenspace, got {rank}; pool "
            f"the images again with rank={rank}, or leave it out"
        )
    if rank is None and not space.stable_rank:
        raise ValueError(
            f"expected directions in which the two halves of {space.count} pooled images agree, "
            f"got none of {there}; pool more images, or say how many to take with rank"
        )
    return replace(space, rank=rank or space.stable_rank)


def taken_in(
    space: Space, options: EigenspaceOptions
) -> tuple[PooledEigenspace | None, EigenspaceOptions]:
    """What components are taken in, and how each image's own eigenspace is made beside it.

    Args:
        space: as ``load_pooled`` takes it. ``options.rank`` counts its directions, and can be more
            than F of one image has.
        options: of a host.

    Returns:
        The leading directions, and the options with ``rank`` as a bound that F may fall short of;
        None and the options as they are for nothing. Errors are those of ``load_pooled`` and
        ``leading``.
    """
    found = leading(load_pooled(space), options.rank)
    solver = options.solver
    if found is None or options.rank is None or isinstance(solver, Krylov):
        return found, options
    if isinstance(solver, Auto):
        solver = replace(solver, at_most=options.rank)
    return found, replace(options, rank=None, method=solver, tolerance=None)


def warn_of_another(within: PooledEigenspace | None, network: nn.Module) -> None:
    """Say once where components are taken in the eigenspace of another network.

    Args:
        within: the pooled eigenspace; None for none.
        network: whose images are split.
    """
    made_by = None if within is None else within.about.get("network")
    if within is None or made_by is None:
        return
    compared = _COMPARED.setdefault(within, WeakSet())
    if network in compared:
        return
    compared.add(network)
    if made_by != network_name(network):
        logger.warning(
            "the pooled eigenspace is that of another network (%s), or of other weights; the "
            "components show that one's directions",
            made_by[:40],
        )


def pooled_digest(space: PooledEigenspace) -> str:
    """SHA-256 of what the directions of a pooled eigenspace come from.

    Of the stored rows, not of the eigenvectors, whose last digits depend on the machine.

    Args:
        space: whose rows and rank count.

    Returns:
        64 hexadecimal digits.
    """
    total = hashlib.sha256(str(len(space.eigenvalues)).encode())
    for half in space.halves:
        for values in (half.values, half.scale):
            total.update(_content(values))
    return total.hexdigest()


def pooled_summary(space: PooledEigenspace) -> dict[str, Any]:
    """What a record says of the pooled eigenspace that components were taken in.

    Args:
        space: as ``leading`` gives it.

    Returns:
        ``images``, how many were pooled, ``directions``, and the ``sha256`` of its digest.
    """
    directions = len(space.eigenvalues)
    return {"images": space.count, "directions": directions, "sha256": pooled_digest(space)}


def pooled_words(images: int, directions: int) -> str:
    """The same in words.

    Args:
        images: that were pooled.
        directions: that are used.

    Returns:
        The end of a sentence.

    >>> pooled_words(400, 1)
    "in a pooled eigenspace of 400 images (1 direction), not in each image's own"
    """
    ending = "" if directions == 1 else "s"
    return (
        f"in a pooled eigenspace of {images} images ({directions} direction{ending}), not in each "
        "image's own"
    )


def pooled_note(space: PooledEigenspace | None) -> dict[str, str]:
    """An entry for the numbers of one image.

    Args:
        space: as ``leading`` gives it, None for each image's own.

    Returns:
        ``components``, the sentence of ``pooled_words``; nothing for an image's own.
    """
    if space is None:
        return {}
    return {"components": pooled_words(space.count, len(space.eigenvalues))}


def _content(values: Tensor) -> bytes:
    values = values.detach().cpu().contiguous()
    return f"{values.dtype} {tuple(values.shape)}".encode() + values.numpy().tobytes()
