"""How much maps of one image agree, and how well a map orders what the prediction rests on.

Maps are compared by the absolute values of their entries, because methods disagree on the sign.
A map that says nothing (zeros, or one absolute value everywhere) agrees with no other: correlation
0, angle 90 degrees, share 0. It is refused where its entries have to be ordered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from torch import Tensor, nn

from monai_ifim.core import Eigenspace, Likelihood, OutputTransform, as_likelihood, at_rest, unwrap
from monai_ifim.core.checks import check_finite_images, check_finite_logits, check_images
from monai_ifim.experiments.maps.attributions import importance_ranks

BASELINES = ("mean", "blur")


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


@dataclass(frozen=True)
class DeletionCurve:
    """What becomes of a prediction as the entries that a map holds for important are replaced.

    Attributes:
        shares: of the entries replaced (or inserted), (E,) in float64.
        probability: of the outcome that was predicted for the whole image, (B, E) in float64;
            for several labels that of the whole set of labels.
        insertion: entries were inserted into the baseline rather than deleted from the image.
    """

    shares: Tensor
    probability: Tensor
    insertion: bool

    @property
    def area(self) -> Tensor:
        """Area under each curve, divided by the range of the shares: a mean probability.

        Low is good for deletion, high for insertion.

        Returns:
            (B,) in float64.

        Raises:
            ValueError: one share only.
        """
        if len(self.shares) < 2:
            raise ValueError("expected at least 2 shares for an area, got 1; pass 0 and 1, too")
        span = self.shares[-1] - self.shares[0]
        return torch.trapezoid(self.probability, self.shares, dim=1) / span


def deletion_curve(
    network: nn.Module,
    images: Tensor,
    maps: Tensor,
    shares: Sequence[float],
    *,
    likelihood: str | Likelihood = "categorical",
    output_transform: OutputTransform | None = None,
    insertion: bool = False,
    baseline: str = "mean",
) -> DeletionCurve:
    """Replace the entries that a map holds for most important, and measure the prediction.

    Every entry (channel and voxel) is replaced on its own, in the order of its absolute value.

    Args:
        network: the classifier; left as it was.
        images: (B, C, *S), floating point.
        maps: (B, C, *S), one for each image.
        shares: of the entries to replace, strictly increasing from 0 to 1; round(share N) are.
        likelihood: see ``eigenspace``.
        output_transform: see ``eigenspace``.
        insertion: start from the baseline and insert the entries of the image instead.
        baseline: what stands for a missing entry: ``"mean"`` of each image and channel, or
            ``"blur"``, the image after a Gaussian filter with a standard deviation of 1/16 of
            each axis.

    Returns:
        The curve: one forward pass of the batch for each share, and one for the prediction.

    Raises:
        ValueError: maps of another shape than the images, or which ``importance_ranks`` cannot
            order; shares that do not increase within 0 to 1; an unknown baseline; values that
            are not finite.

    Source: V. Petsiuk et al., "RISE: Randomized Input Sampling for Explanation of Black-box
    Models", BMVC 2018. There, deletion goes to a constant and insertion starts from a blurred
    image.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    >>> images = torch.randn(2, 1, 6)
    >>> curve = deletion_curve(network, images, images, [0, 0.5, 1])
    >>> curve.probability.shape, curve.area.shape
    (torch.Size([2, 3]), torch.Size([2]))
    """
    check_images(images)
    check_finite_images(images)
    family, network = as_likelihood(likelihood), unwrap(network)
    if maps.shape != images.shape:
        raise ValueError(
            f"expected maps {tuple(images.shape)} as the images, got {tuple(maps.shape)}; use "
            "expand_as(images) for a map without channels"
        )
    grid = torch.tensor(list(shares), dtype=torch.float64, device=images.device)
    rising = len(grid) > 0 and bool((grid.diff() > 0).all())
    if not rising or not (grid[0] >= 0 and grid[-1] <= 1):
        raise ValueError(
            f"expected shares that increase within 0 to 1, got {list(shares)}; sort them, and "
            "for 10 % say 0.1"
        )
    images = images.detach().as_subclass(Tensor)
    ranks, missing = importance_ranks(maps).to(images.device), _baseline(images, baseline)
    here, there = (missing, images) if insertion else (images, missing)

    def logits(changed: Tensor) -> Tensor:
        output = network(changed)
        output = output if output_transform is None else output_transform(output)
        output = output.flatten(1)  # a convolutional head keeps its axes
        check_finite_logits(output)
        return output.double()

    with at_rest(network, images.device), torch.no_grad():
        before = logits(images.clone())
        family.check(before)
        columns = []
        for share in grid.tolist():
            chosen = ranks < round(share * images[0].numel())
            after = logits(torch.where(chosen, there, here))
            columns.append(family.outcome_probability(after, before))
    return DeletionCurve(grid, torch.stack(columns, dim=1), insertion)


def _baseline(images: Tensor, name: str) -> Tensor:
    axes = tuple(range(2, images.ndim))
    if name == "mean":
        return images.mean(dim=axes, keepdim=True).expand(images.shape)
    if name == "blur":
        widths = (0, 0, *(size / 16 for size in images.shape[2:]))
        return torch.from_numpy(gaussian_filter(images.cpu().numpy(), widths)).to(images)
    raise ValueError(f"expected a baseline from {BASELINES}, got {name!r}; choose one of them")


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
