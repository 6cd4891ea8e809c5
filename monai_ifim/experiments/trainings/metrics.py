"""In what directions are compared: pixels, after low-pass filtering, in a covariance."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from monai_ifim.core.smoothing import along_axes, gaussian_matrices
from monai_ifim.experiments.tasks.labelled import Split, balanced

LOW_PASS = 2.0  # standard deviation of the low-pass filter, in pixels
_DEVIATIONS = 1000  # images that estimate the covariance, at the most
# A direction that is shorter than this after the others were taken out of it is rounding.
_ROUNDING = 1e-5

Seen = Callable[[Tensor], Tensor]


def metrics_of(train: Split) -> Mapping[str, Seen]:
    """What is done to directions (D, R, C, *S) before their angles are taken.

    Args:
        train: images whose within-class covariance is one of the metrics.

    Returns:
        By name: ``pixels``, ``low_pass`` (a Gaussian of 2 pixels) and ``within_class``; each gives
        (D, R, P). The same as the metrics of ``PooledEigenspace.angles``.
    """
    spatial = train.images.shape[2:]
    matrices = gaussian_matrices(spatial, [LOW_PASS] * len(spatial))
    deviations = within_class_deviations(balanced(train, _DEVIATIONS)).flatten(1)

    def low_pass(directions: Tensor) -> Tensor:
        return along_axes(directions, matrices).flatten(2)

    def within_class(directions: Tensor) -> Tensor:
        return directions.flatten(2) @ deviations.T

    return {
        "pixels": lambda directions: directions.flatten(2),
        "low_pass": low_pass,
        "within_class": within_class,
    }


def within_class_deviations(split: Split) -> Tensor:
    """Images less the mean of their class, (n, C, *S)."""
    deviations = split.images.clone()
    for label in split.labels.unique():
        members = split.labels == label
        deviations[members] -= deviations[members].mean(dim=0)
    return deviations


def bases(directions: Tensor, seen: Seen) -> Tensor:
    """Orthonormal bases of nested spaces: the first q columns span the first q directions.

    Args:
        directions: (D, R, C, *S).
        seen: one of ``metrics_of``.

    Returns:
        (D, P, R) in float32; a column is zero where a direction was zero or dependent.
    """
    rows = seen(directions.float())
    lengths = rows.norm(dim=2, keepdim=True)
    found = torch.zeros_like(rows)
    for i, row in enumerate((rows / torch.where(lengths > 0, lengths, 1)).unbind(1)):
        for _ in range(2):  # once leaves rounding of nearly dependent directions
            row = row - torch.einsum("dr,drp->dp", torch.einsum("drp,dp->dr", found, row), found)
        left = row.norm(dim=1, keepdim=True)
        # Householder's way would give an arbitrary direction in the place of one that is missing.
        found[:, i] = torch.where(left > _ROUNDING, row / left, 0)
    return found.transpose(1, 2)


def shared(first: Tensor, second: Tensor, rank: int) -> Tensor:
    """Mean squared cosine of the principal angles between spaces: 1 for equal ones.

    Args:
        first: (D, P, R), from ``bases``.
        second: the same of other spaces; D or 1.
        rank: of the leading ``rank`` directions of both.

    Returns:
        (D,) in float64.
    """
    overlap = first[:, :, :rank].transpose(1, 2) @ second[:, :, :rank]
    return overlap.square().sum(dim=(1, 2)).double() / rank


def smallest_cosine(spaces: Tensor, templates: Tensor) -> Tensor:
    """Smallest principal cosine of spaces with the span of templates.

    Args:
        spaces: (D, P, R), from ``bases``.
        templates: (1, P, R).

    Returns:
        (D,) in float64; 0 where a space has fewer directions than there are templates.
    """
    return torch.linalg.svdvals(templates.transpose(1, 2) @ spaces)[:, -1].double()
