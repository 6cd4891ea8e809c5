"""How well a map orders the entries of an image that the prediction depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from monai_ifim.core import Likelihood, OutputTransform, as_likelihood, at_rest, unwrap
from monai_ifim.core.checks import check_finite_images, check_finite_logits, check_images
from monai_ifim.experiments.logits import image_logits
from monai_ifim.experiments.maps.ranks import importance_ranks

BASELINES = ("mean", "blur")


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
        likelihood: ``"categorical"`` (softmax), ``"bernoulli"`` (sigmoids), or a family.
        output_transform: chooses the logits when the network returns a tuple or a dict.
        insertion: start from the baseline and insert the entries of the image instead.
        baseline: what stands for a missing entry: ``"mean"`` of each image and channel, or
            ``"blur"``, the image after a Gaussian filter with a standard deviation of 1/16 of
            each axis.

    Returns:
        The curve: one forward pass of the batch for each share, and one for the prediction.

    Raises:
        ValueError: maps of another shape than the images, or which ``importance_ranks`` cannot
            order; shares that do not increase within 0 to 1; an unknown baseline; a dense
            prediction; values that are not finite.

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
    grid = _grid(shares, images)
    if maps.shape != images.shape:
        raise ValueError(
            f"expected maps {tuple(images.shape)} as the images, got {tuple(maps.shape)}; use "
            "expand_as(images) for a map without channels"
        )
    images = images.detach().as_subclass(Tensor)
    ranks, missing = importance_ranks(maps).to(images.device), _baseline(images, baseline)
    here, there = (missing, images) if insertion else (images, missing)

    def logits(changed: Tensor) -> Tensor:
        output = image_logits(network, changed, output_transform)
        check_finite_logits(output)
        return output.double()

    with at_rest(network, images.device), torch.no_grad():
        before = logits(images)
        family.check(before)
        columns = []
        for share in grid.tolist():
            chosen = ranks < round(share * images[0].numel())
            after = logits(torch.where(chosen, there, here))
            columns.append(family.outcome_probability(after, before))
    return DeletionCurve(grid, torch.stack(columns, dim=1), insertion)


def _grid(shares: Sequence[float], images: Tensor) -> Tensor:
    grid = torch.tensor(list(shares), dtype=torch.float64, device=images.device)
    rising = len(grid) > 0 and bool((grid.diff() > 0).all())
    if not rising or not (grid[0] >= 0 and grid[-1] <= 1):
        raise ValueError(
            f"expected shares that increase within 0 to 1, got {list(shares)}; sort them, and "
            "for 10 % say 0.1"
        )
    return grid


def _baseline(images: Tensor, name: str) -> Tensor:
    axes = tuple(range(2, images.ndim))
    if name == "mean":
        return images.mean(dim=axes, keepdim=True).expand(images.shape)
    if name == "blur":
        widths = (0, 0, *(size / 16 for size in images.shape[2:]))
        return torch.from_numpy(gaussian_filter(images.cpu().numpy(), widths)).to(images)
    raise ValueError(f"expected a baseline from {BASELINES}, got {name!r}; choose one of them")
