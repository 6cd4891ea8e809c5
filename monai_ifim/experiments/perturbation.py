"""How far a prediction moves when an image is changed along chosen directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from monai_ifim.core import (
    Bernoulli,
    Categorical,
    Eigenspace,
    Likelihood,
    OutputTransform,
    as_likelihood,
    at_rest,
    eigenspace,
)


@dataclass(frozen=True)
class PerturbationCurve:
    """What changes of growing norm do to the predictions of B images, along D directions.

    Attributes:
        norms: L2 norms ε of the change, in input units: (E,), or (B, E) for own ones per image.
        logits: of the changed images, (B, D, E, K) in float64.
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
    likelihood: str | Likelihood = "categorical",
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
        likelihood: see ``eigenspace``.
        output_transform: see ``eigenspace``.
        space: the whole eigenspace of the images, when it is known already.

    Returns:
        The curve, one forward pass of the batch for each direction and norm.

    Raises:
        ValueError: directions of another shape than the images, a zero direction, or a norm that
            is not positive and finite.

    Source: KL(p(x) ‖ p(x+d)) = ½ dᵀF(x)d + O(‖d‖³), S. Sengupta and M. A. Anastasio, arXiv
    2606.16362.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).double()
    >>> images = torch.randn(2, 1, 6).double()
    >>> directions = torch.randn(1, 4, 1, 6).double()
    >>> curve = perturbation_curve(network, images, directions, [1e-3, 1e-2])
    >>> torch.allclose(curve.divergence, curve.quadratic, rtol=0.05)
    True
    """
    family = as_likelihood(likelihood)
    units = _unit(directions, images)
    grid = _grid(norms, images)
    if space is None:
        space = eigenspace(network, images, likelihood=family, output_transform=output_transform)
    before = space.logits.double()
    outcome, probability = family.most_probable(before)
    steps = []
    with at_rest(network, images.device), torch.no_grad():
        for unit in units.unbind(1):
            for norm in grid.expand(len(images), -1).unbind(1):
                scale = norm.reshape(-1, *[1] * (images.ndim - 1)).to(images.dtype)
                output = network(images + scale * unit)
                output = output if output_transform is None else output_transform(output)
                steps.append(output.flatten(1).double())  # a convolutional head keeps its axes

    def table(columns: list[Tensor]) -> Tensor:
        return torch.stack(columns, dim=1).unflatten(1, (units.shape[1], grid.shape[-1]))

    def differs(after: Tensor) -> Tensor:
        now = family.most_probable(after)[0]
        return torch.tensor([a != b for a, b in zip(outcome, now, strict=True)])

    forms = torch.stack([space.quadratic_form(unit) for unit in units.unbind(1)], dim=1)
    return PerturbationCurve(
        norms=grid,
        logits=table(steps),
        divergence=table([kullback_leibler(before, after, family) for after in steps]),
        quadratic=0.5 * forms.double()[..., None] * grid[..., None, :].square(),
        probability_change=table(
            [outcome_probability(after, before, family) - probability for after in steps]
        ),
        flipped=table([differs(after) for after in steps]).to(images.device),
    )


def kullback_leibler(before: Tensor, after: Tensor, likelihood: str | Likelihood) -> Tensor:
    """KL divergence between two predictions.

    Args:
        before: logits (B, K) of the first.
        after: logits (B, K) of the second.
        likelihood: ``categorical`` or ``bernoulli``, or such a family.

    Returns:
        (B,) in float64, in nats; for several labels the sum over them.

    Raises:
        ValueError: another family.

    >>> kullback_leibler(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), "categorical")
    tensor([0.1201], dtype=torch.float64)
    """
    before, after = before.double(), after.double()
    family = as_likelihood(likelihood)
    if isinstance(family, Bernoulli):  # a sigmoid is a softmax over the logit and 0
        pairs = [torch.stack([z, torch.zeros_like(z)], dim=-1) for z in (before, after)]
        return _softmax_divergence(*pairs).sum(dim=1)
    if not isinstance(family, Categorical):
        raise ValueError(
            f"expected the categorical or the Bernoulli family, got {type(family).__name__}; "
            "compute the divergence of other families from their logits"
        )
    return _softmax_divergence(before, after)


def _softmax_divergence(before: Tensor, after: Tensor) -> Tensor:
    """KL of softmax distributions over the last axis, with all digits of tiny values.

    With the change of the logits u, shifted to mean 0 under p, KL = log(1 + Σ p (eᵘ - 1 - u)):
    every term is positive, so a sure prediction's 1e-40 is as exact as 1. The difference of
    log-probabilities has an absolute error near 1e-16.
    """
    log_p, change = before.log_softmax(dim=-1), after - before
    p = log_p.exp()
    # Measured from the most probable class, whose own change would else swallow the others'.
    change = change - change.gather(-1, before.argmax(dim=-1, keepdim=True))
    change = change - (p * change).sum(dim=-1, keepdim=True)
    series = change.square() / 2 * (1 + change / 3 * (1 + change / 4 * (1 + change / 5)))
    terms = torch.where(change.abs() < 0.05, p * series, p * (torch.expm1(change) - change))
    large = change > 30  # where only eᵘ counts, and p eᵘ is a number that eᵘ alone may not be
    terms = torch.where(large, torch.exp(log_p + change), terms)
    exact = torch.log1p(terms.sum(dim=-1))
    return torch.where(torch.isfinite(exact), exact, torch.logsumexp(log_p + change, dim=-1))


def outcome_probability(logits: Tensor, reference: Tensor, likelihood: str | Likelihood) -> Tensor:
    """Probability of the outcome that is the most probable one for the reference logits.

    Args:
        logits: (B, K).
        reference: (B, K).
        likelihood: ``categorical`` or ``bernoulli``, or a family.

    Returns:
        (B,) in float64; for several labels of the whole set of labels.

    >>> outcome_probability(torch.zeros(1, 4), torch.tensor([[0.0, 3.0, 1.0, 0.0]]), "categorical")
    tensor([0.2500], dtype=torch.float64)
    """
    family = as_likelihood(likelihood)
    probabilities = family.probabilities(logits)
    if isinstance(family, Bernoulli):
        return torch.where(reference > 0, probabilities, 1 - probabilities).prod(dim=1)
    return probabilities.gather(1, reference.argmax(dim=1, keepdim=True))[:, 0]


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
