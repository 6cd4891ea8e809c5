"""How far a prediction moves when an image is changed along chosen directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

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
        norms: L2 norms ε of the change, (E,), in input units.
        divergence: KL(p(x) ‖ p(x + εd)) in nats, (B, D, E) in float64.
        quadratic: ½ε² dᵀF(x)d, what the Fisher information predicts for it, (B, D, E).
        probability_change: of the outcome that was the most probable one at x, (B, D, E).
        flipped: whether the most probable outcome is another one, (B, D, E).
    """

    norms: Tensor
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
        return (holds * self.norms).amax(dim=-1)


def perturbation_curve(
    network: nn.Module,
    images: Tensor,
    directions: Tensor,
    norms: Sequence[float],
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
        norms: L2 norms of the change.
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
    grid = torch.tensor(list(norms), dtype=torch.float64, device=images.device)
    if grid.numel() == 0 or not bool((torch.isfinite(grid) & (grid > 0)).all()):
        raise ValueError(f"expected positive norms, got {list(norms)}; leave 0 out")
    if space is None:
        space = eigenspace(network, images, likelihood=family, output_transform=output_transform)
    before = space.logits.double()
    outcome, probability = family.most_probable(before)
    divergence, change, flipped = [], [], []
    with at_rest(network, images.device), torch.no_grad():
        for unit in units.unbind(1):
            for norm in grid.tolist():
                output = network(images + norm * unit)
                output = output if output_transform is None else output_transform(output)
                after = output.flatten(1).double()  # a convolutional head keeps its axes
                divergence.append(kullback_leibler(before, after, family))
                change.append(_probability(after, before, family) - probability)
                now = family.most_probable(after)[0]
                differ = [a != b for a, b in zip(outcome, now, strict=True)]
                flipped.append(torch.tensor(differ, device=images.device))
    count, steps = units.shape[1], len(grid)

    def table(columns: list[Tensor]) -> Tensor:
        return torch.stack(columns, dim=1).unflatten(1, (count, steps))

    forms = torch.stack([space.quadratic_form(unit) for unit in units.unbind(1)], dim=1)
    quadratic = 0.5 * forms.double()[..., None] * grid.square()
    return PerturbationCurve(grid, table(divergence), quadratic, table(change), table(flipped))


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
    if not isinstance(family, Categorical | Bernoulli):
        raise ValueError(
            f"expected the categorical or the Bernoulli family, got {type(family).__name__}; "
            "compute the divergence of other families from their logits"
        )
    if isinstance(family, Bernoulli):
        p, q = torch.sigmoid(before), torch.sigmoid(-before)
        yes = p * (logsigmoid(before) - logsigmoid(after))
        no = q * (logsigmoid(-before) - logsigmoid(-after))
        return (yes + no).sum(dim=1)
    log_p, log_q = before.log_softmax(dim=1), after.log_softmax(dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


def _probability(logits: Tensor, reference: Tensor, likelihood: Likelihood) -> Tensor:
    """Probability of the outcome that is the most probable one for the reference logits."""
    probabilities = likelihood.probabilities(logits)
    if isinstance(likelihood, Bernoulli):
        return torch.where(reference > 0, probabilities, 1 - probabilities).prod(dim=1)
    return probabilities.gather(1, reference.argmax(dim=1, keepdim=True))[:, 0]


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
