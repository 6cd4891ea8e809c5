"""From the eigenspace of a batch to the volumes and numbers of each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
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


def summaries(
    space: Eigenspace, images: Tensor, coefficients: Tensor | None = None
) -> list[dict[str, Any]]:
    """Prediction and spectrum of each image as plain numbers.

    Args:
        space: of the images.
        images: (B, C, *S), plain tensor.
        coefficients: ``space.coefficients(images)``, when they are known already.

    Returns:
        One dictionary an image: ``predicted_class`` (text), its ``probability``, the
        ``probabilities`` of all classes or labels, ``trace`` and ``eigenvalues`` in
        (input unit)⁻², ``rank``, ``trace_share`` (of the kept eigenvalues in the trace) and
        ``high_energy_share`` (of the high-sensitivity component in the image's squared norm).
        Where directions were left out (``Approximation``) also ``residual`` (the largest of the
        image's pairs) and ``trace_error``, the standard error of the trace.
    """
    if coefficients is None:
        coefficients = space.coefficients(images)
    outcomes, probability = space.likelihood.most_probable(space.logits)
    energy = torch.linalg.vector_norm(images.flatten(1), dim=1, dtype=torch.float64).square()
    high = coefficients.square().sum(dim=1)
    kept = space.eigenvalues.sum(dim=1)
    columns = {
        "predicted_class": outcomes,
        "probability": probability.tolist(),
        "probabilities": space.likelihood.probabilities(space.logits).tolist(),
        "trace": space.trace.tolist(),
        "eigenvalues": space.eigenvalues.tolist(),
        "rank": space.rank.tolist(),
        "trace_share": (kept / torch.where(space.trace == 0, 1, space.trace)).tolist(),
        "high_energy_share": (high / torch.where(energy == 0, 1, energy)).tolist(),
    }
    if space.approximation is not None:
        columns["residual"] = space.approximation.residual.amax(dim=1).tolist()
        columns["trace_error"] = space.approximation.trace_error.tolist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def with_class_names(numbers: dict[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """The same numbers with classes or labels by name.

    Args:
        numbers: of one image, from ``summaries``.
        class_names: in order; numbers take their place when their count does not fit.

    Returns:
        A copy with ``class_names``, ``probabilities`` by name, and ``predicted_class`` as a name.

    >>> with_class_names({"predicted_class": "1", "probabilities": [0.1, 0.9]}, ["a", "b"])
    {'predicted_class': 'b', 'probabilities': {'a': 0.1, 'b': 0.9}, 'class_names': ['a', 'b']}
    """
    probabilities = numbers["probabilities"]
    names = [str(i) for i in range(len(probabilities))]
    if len(class_names) == len(names):
        names = list(class_names)
    outcome = numbers["predicted_class"]
    if len(names) > 1 and outcome != "none":  # the outcome of one sigmoid is 0 or 1
        outcome = "+".join(names[int(i)] for i in outcome.split("+"))
    named = dict(zip(names, probabilities, strict=True))
    return {**numbers, "predicted_class": outcome, "probabilities": named, "class_names": names}
