"""How far a prediction moves when an image is changed along chosen directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from monai_ifim.core.decomposition import eigenspace
from monai_ifim.core.eigenspace import Eigenspace
from monai_ifim.core.families import Family, Likelihood, as_likelihood, family_of, require
from monai_ifim.core.gradients.at_rest import at_rest, unwrap
from monai_ifim.core.gradients.logits import OutputTransform, predicted_logits
from monai_ifim.core.options import EigenspaceOptions


@dataclass(frozen=True)
class PerturbationCurve:
    """What changes of growing norm do to the predictions of B images, along D directions.

    Attributes:
        norms: L2 norms ε of the change, in input units: (E,), or (B, E) for own ones per image.
        logits: of the changed images, (B, D, E, K) in float64; (B, D, E, K, *S) of a segmentation.
        divergence: KL(p(x) ‖ p(x + εd)) in nats, (B, D, E) in float64.
        quadratic: ½ε² dᵀF(x)d, what the Fisher information predicts for it, (B, D, E).
        probability_change: of the outcome that was the most probable one at x, (B, D, E).
        flipped: whether the most probable outcome is another one, (B, D, E).
    """

    norms: Tensor
    logits: Tensor
    divergence: Tensor
    quadratic: Tensor
    probability_change: Tensor
    flipped: Tensor

    def quadratic_radius(self, tolerance: float = 0.1) -> Tensor:
        """Largest norm of the grid up to which the quadratic law holds.

        Args:
            tolerance: largest relative difference between divergence and law.

        Returns:
            (B, D): 0 where it fails at the smallest norm already, as it does along directions
            that F says change nothing.
        """
        off = (self.divergence - self.quadratic).abs() > tolerance * self.quadratic
        holds = (~off & (self.quadratic > 0)).long().cumprod(dim=-1)
        return (holds * self.norms[..., None, :]).amax(dim=-1)


def perturbation_curve(
    network: nn.Module,
    images: Tensor,
    directions: Tensor,
    norms: Sequence[float] | Tensor,
    *,
    likelihood: str | Family | None = None,
    output_transform: OutputTransform | None = None,
    space: Eigenspace | None = None,
) -> PerturbationCurve:
    """Change images along directions, at equal norm, and measure the predictions.

    Args:
        network: the classifier; left as it was.
        images: (B, C, *S), floating point. The measured divergence is a difference of nearly
            equal numbers for small norms: use float64 there, for network and images.
        directions: (B, D, C, *S), or (1, D, C, *S) for the same ones for all; scaled to norm 1.
        norms: L2 norms of the change, ascending: E of them, or (B, E) for own ones per image.
        likelihood: a name such as ``"categorical"`` or ``"bernoulli"``, or an object; by default
            that of ``space``, else categorical.
        output_transform: chooses the logits when the network returns a tuple or a dict.
        space: the whole eigenspace of the images, when it is known already.

    Returns:
        The curve, one forward pass of the batch for each direction and norm.

    Raises:
        ValueError: directions of another shape than the images, a zero direction, a norm that is
            not positive and finite, another likelihood than that of ``space``, or a ``space`` with
            a perturbation.

    Source: KL(p(x) ‖ p(x+d)) = ½ dᵀF(x)d + O(‖d‖³), S. Sengupta and M. A. Anastasio, arXiv
    2606.16362.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).double()
    >>> images = torch.randn(2, 1, 6).double()
    >>> directions = torch.randn(1, 4, 1, 6).double()
    >>> curve = perturbation_curve(network, images, directions, [1e-3, 1e-2])
    >>> torch.allclose(curve.divergence, curve.quadratic, rtol=0.05)
    True
    """
    network = unwrap(network)
    units = _unit(directions, images)
    grid = _grid(norms, images)
    if space is None:
        asked = as_likelihood("categorical" if likelihood is None else likelihood)
        require(asked, "most_probable", "outcome_probability", "divergence")
        choices = EigenspaceOptions(likelihood=asked, output_transform=output_transform)
        space = eigenspace(network, images, options=choices)
    before = space.logits.double()
    family = _family(space, before, likelihood)
    outcome, probability = family.most_probable(before)
    steps = []
    with at_rest(network, images.device), torch.no_grad():
        for unit in units.unbind(1):
            for norm in grid.expand(len(images), -1).unbind(1):
                scale = norm.reshape(-1, *[1] * (images.ndim - 1)).to(images.dtype)
                changed = images + scale * unit
                steps.append(predicted_logits(network, changed, output_transform).double())

    def table(columns: list[Tensor]) -> Tensor:
        return torch.stack(columns, dim=1).unflatten(1, (units.shape[1], grid.shape[-1]))

    def differs(after: Tensor) -> Tensor:
        now = family.most_probable(after)[0]
        return torch.tensor([a != b for a, b in zip(outcome, now, strict=True)])

    forms = torch.stack([space.quadratic_form(unit) for unit in units.unbind(1)], dim=1)
    return PerturbationCurve(
        norms=grid,
        logits=table(steps),
        divergence=table([family.divergence(before, after) for after in steps]),
        quadratic=0.5 * forms.double()[..., None] * grid[..., None, :].square(),
        probability_change=table(
            [family.outcome_probability(after, before) - probability for after in steps]
        ),
        flipped=table([differs(after) for after in steps]).to(images.device),
    )


def _family(space: Eigenspace, logits: Tensor, likelihood: str | Family | None) -> Family:
    """The family of the eigenspace, which must be the one that was asked for."""
    if space.perturbation is not None:
        raise ValueError(
            "expected the eigenspace of all changes of the images, got that of "
            f"{type(space.perturbation).__name__}; leave space out"
        )
    family = space.likelihood
    asked = family if likelihood is None else family_of(as_likelihood(likelihood), logits)
    if asked != family:
        raise ValueError(
            f"expected the likelihood of the eigenspace, {family!r}, got {asked!r}; leave "
            "likelihood out, or compute the eigenspace with it"
        )
    require(family, "most_probable", "outcome_probability", "divergence")
    return family


def kullback_leibler(before: Tensor, after: Tensor, likelihood: str | Likelihood) -> Tensor:
    """KL divergence between two predictions.

    Args:
        before: logits (B, K) of the first.
        after: logits (B, K) of the second.
        likelihood: ``"categorical"``, ``"bernoulli"``, or a family.

    Returns:
        (B,) in float64, in nats; for several labels the sum over them.

    >>> kullback_leibler(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), "categorical")
    tensor([0.1201], dtype=torch.float64)
    """
    return as_likelihood(likelihood).divergence(before, after)


def _grid(norms: Sequence[float] | Tensor, images: Tensor) -> Tensor:
    grid = torch.as_tensor(norms, dtype=torch.float64).to(images.device)
    fits = grid.ndim == 1 or (grid.ndim == 2 and len(grid) == len(images))
    if not fits or grid.numel() == 0 or not bool((torch.isfinite(grid) & (grid > 0)).all()):
        raise ValueError(
            f"expected positive norms, a list or ({len(images)}, E), got {norms}; leave 0 out"
        )
    return grid


def _unit(directions: Tensor, images: Tensor) -> Tensor:
    fits = directions.ndim == images.ndim + 1 and directions.shape[2:] == images.shape[1:]
    if not fits or directions.shape[0] not in (1, len(images)):
        raise ValueError(
            f"expected directions (B, D, C, *S) for images {tuple(images.shape)}, got "
            f"{tuple(directions.shape)}; use directions[:, None] for one per image"
        )
    norms = directions.flatten(2).norm(dim=2)
    if bool((norms == 0).any()):
        raise ValueError(
            "expected directions that are not zero, got a zero one; leave out eigenvectors that "
            "were not kept, and components that are zero"
        )
    scaled = directions / norms.reshape(*norms.shape, *[1] * (directions.ndim - 2))
    return scaled.to(images.dtype).expand(len(images), *directions.shape[1:])
