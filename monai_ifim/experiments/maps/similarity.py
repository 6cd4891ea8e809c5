"""How much maps of one image agree.

Maps are compared by the absolute values of their entries, because methods disagree on the sign.
A map that says nothing (zeros, or one absolute value everywhere) agrees with no other: correlation
0, angle 90 degrees, share 0.
"""

from __future__ import annotations

import math

import torch
from scipy.stats import spearmanr
from torch import Tensor

from monai_ifim.core import Eigenspace


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation between the absolute values of two maps of each image.

    Args:
        a: maps (B, C, *S).
        b: the others, of the same shape.

    Returns:
        (B,) in float64, from -1 to 1; 0 where a map has one absolute value everywhere, because
        it has no ranking that another could share.

    Raises:
        ValueError: maps of different shape, of fewer than 2 entries, or not finite.

    Source: as used on maps by J. Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018.

    >>> a = torch.tensor([[[1.0, -2.0, 3.0]]])
    >>> rank_correlation(a, a.exp())
    tensor([0.5000], dtype=torch.float64)
    """
    first, second = _sizes(a, b)
    if first.shape[1] < 2:
        raise ValueError(
            f"expected maps of at least 2 entries, got {tuple(a.shape)}; one entry has no ranking"
        )
    values = []
    for one, other in zip(first.cpu().numpy(), second.cpu().numpy(), strict=True):
        ranked = one.min() < one.max() and other.min() < other.max()
        values.append(float(spearmanr(one, other).statistic) if ranked else 0.0)
    return torch.tensor(values, dtype=torch.float64, device=a.device)


def map_angle(a: Tensor, b: Tensor) -> Tensor:
    """Angle between the absolute values of two maps of each image, as vectors of N entries.

    Args:
        a: maps (B, C, *S).
        b: the others, of the same shape.

    Returns:
        (B,) in float64, in radians, from 0 (equal up to a factor) to pi / 2 (no entry that both
        hold); pi / 2 also where a map is zero.

    Raises:
        ValueError: maps of different shape, or not finite.

    >>> map_angle(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[-3.0, 3.0]]])).rad2deg().round()
    tensor([45.], dtype=torch.float64)
    """
    first, second = _sizes(a, b)
    zero = (first.amax(dim=1) == 0) | (second.amax(dim=1) == 0)
    first, second = _unit(first), _unit(second)
    # The arc cosine alone loses half of the digits of a small angle.
    difference, total = (first - second).norm(dim=1), (first + second).norm(dim=1)
    return torch.where(zero, math.pi / 2, 2 * torch.atan2(difference, total))


def share_inside(space: Eigenspace, direction: Tensor) -> Tensor:
    """Share of a direction's squared norm that lies within the kept eigenspace.

    Args:
        space: of the images.
        direction: (B, C, *S) with its signs, for example an attribution map.

    Returns:
        (B,) in float64, from 0 to 1; 0 for a direction of zeros. Of a random direction in N
        dimensions the share is R / N on average.

    Raises:
        ValueError: directions of another shape than the images, or not finite.

    >>> from torch import nn
    >>> from monai_ifim.core import eigenspace
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(6, 2))
    >>> space = eigenspace(network, torch.randn(1, 1, 6))
    >>> share_inside(space, space.eigenvectors[:, 0]).round(decimals=5)
    tensor([1.], dtype=torch.float64)
    """
    _check_finite(direction)
    plain = direction.detach().as_subclass(Tensor).double()
    unit = _unit(plain.flatten(1)).view(plain.shape)
    # Eigenvectors in float32 are orthonormal to about 1e-7, which may end above 1.
    return space.coefficients(unit).square().sum(dim=1).clamp(max=1)


def _sizes(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute values of both maps as (B, N) in float64."""
    if a.shape != b.shape or a.ndim < 3:
        raise ValueError(
            f"expected two maps (B, C, *S) of one shape, got {tuple(a.shape)} and "
            f"{tuple(b.shape)}; add missing axes with [None], and repeat one for all channels "
            "with expand_as"
        )
    for values in (a, b):
        _check_finite(values)
    first, second = (x.detach().as_subclass(Tensor).double().flatten(1).abs() for x in (a, b))
    return first, second.to(first.device)


def _check_finite(values: Tensor) -> None:
    if not bool(torch.isfinite(values).all()):
        raise ValueError("expected finite maps, got NaN or infinity; leave those images out")


def _unit(vectors: Tensor) -> Tensor:
    """Rows (B, N) of norm 1; a row of zeros stays."""
    # Divided by the largest entry first: squares of tiny gradients leave the range of float64.
    largest = vectors.abs().amax(dim=1, keepdim=True)
    scaled = vectors / torch.where(largest == 0, 1, largest)
    norms = scaled.norm(dim=1, keepdim=True)
    return scaled / torch.where(norms == 0, 1, norms)
