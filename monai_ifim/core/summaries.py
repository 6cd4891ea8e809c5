"""The numbers that are reported for each image, whatever the door."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_ifim.core.eigenspace import Eigenspace


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
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
