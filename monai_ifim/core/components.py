"""What is reported for each image, under the names that every door uses."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from monai_ifim.core.eigenspace import Eigenspace

VOLUMES = ("high", "orth", "sensitivity")


def check_volumes(volumes: Sequence[str]) -> tuple[str, ...]:
    """Refuse unknown names of component volumes.

    Args:
        volumes: some of ``VOLUMES``.

    Returns:
        The names as a tuple.

    Raises:
        ValueError: an unknown name.

    >>> check_volumes(["high", "low"])
    Traceback (most recent call last):
        ...
    ValueError: expected volumes from ('high', 'orth', 'sensitivity'), got ['low']; see README.md
    """
    unknown = [name for name in volumes if name not in VOLUMES]
    if unknown:
        raise ValueError(f"expected volumes from {VOLUMES}, got {unknown}; see README.md")
    return tuple(volumes)


def components(
    space: Eigenspace,
    images: Tensor,
    volumes: Sequence[str],
    *,
    coefficients: Tensor | None = None,
    prefix: str = "ifim",
) -> dict[str, Tensor]:
    """Component volumes and numbers of a batch as plain tensors, batch first.

    Args:
        space: eigenspace of the batch.
        images: (B, C, *S).
        volumes: which of ``VOLUMES`` to form.
        coefficients: ``space.coefficients(images)`` where it is known already.
        prefix: of the keys.

    Returns:
        ``ifim_eigenvalues`` (B, R), ``ifim_trace`` (B,), ``ifim_rank`` (B,), and each chosen
        volume as ``ifim_<volume>`` (B, C, *S): high and orth in the images' dtype, sensitivity
        (the diagonal of F) in float64.
    """
    result = {
        f"{prefix}_eigenvalues": space.eigenvalues,
        f"{prefix}_trace": space.trace,
        f"{prefix}_rank": space.rank,
    }
    if "high" in volumes or "orth" in volumes:
        if coefficients is None:
            coefficients = space.coefficients(images)
        high = space.synthesis(coefficients).to(images.dtype)
        pair = {"high": high, "orth": images - high}
        result.update({f"{prefix}_{name}": pair[name] for name in volumes if name in pair})
    if "sensitivity" in volumes:
        result[f"{prefix}_sensitivity"] = space.sensitivity()
    return result
