"""How far an image is from another answer, to first order.

With the contrasts s_m, the gradients of z_m - z_w for the most probable class w, the answer m is
reached when contrast m has risen by z_w - z_m: to first order after a change of the L2 norm
(z_w - z_m) / ‖s_m‖ along s_m. The nearest answer is the smallest of these. For logits that are
affine in the image that is the distance to the decision boundary itself.

Source: the first step of S. Moosavi-Dezfooli, A. Fawzi and P. Frossard, "DeepFool", CVPR 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from monai_ifim.core.families.family import Family, Likelihood
from monai_ifim.core.spectrum import inner_products

if TYPE_CHECKING:
    from monai_ifim.core.eigenspace import Eigenspace


@dataclass(frozen=True, eq=False)
class FlipDistance:
    """The nearest other answer of each image, to first order.

    Attributes:
        distance: L2 norm of the change that leads there, (B,) in float64, in input units; infinite
            where no answer reacts to the image, NaN where none could be compared.
        index: the answer, (B,) in int64: the class; of one sigmoid 0 or 1; of several labels the
            label that appears or disappears. -1 where there is none.
        direction: of that change, (B, C, *S), of length 1; 0 where there is none. With a
            perturbation x + A u, length and distance are those of u, and the direction is A u.
        compared: numbers of the answers that were compared, (B, M); -1 in the place of one whose
            gradient was not computed (methods that leave directions out).
    """

    distance: Tensor
    index: Tensor
    direction: Tensor
    compared: Tensor


@dataclass(frozen=True, eq=False)
class NearestAnswer:
    """The nearest other answer of each image, without the direction to it.

    Attributes:
        distance: (B,) in float64, as in ``FlipDistance``.
        index: (B,) in int64.
        compared: (B, M) in int64.
        distances: to each of these answers, (B, M) in float64; NaN in the place of one whose
            gradient was not computed.
        steps: weights of the contrast gradients whose combination leads there, (B, M).
    """

    distance: Tensor
    index: Tensor
    compared: Tensor
    distances: Tensor
    steps: Tensor


def flip_distance(space: Eigenspace) -> FlipDistance:
    """The nearest other answer and the way there, from gradients that are there.

    Args:
        space: of a classifier.

    Returns:
        Distance, answer and direction for each image. Errors are those of ``nearest_answer``.
    """
    nearest = nearest_answer(space)
    direction = space.combination(nearest.steps)
    if space.perturbation is not None:
        direction = space.perturbation.apply(direction[None])[0]
    return FlipDistance(nearest.distance, nearest.index, direction, nearest.compared)


def nearest_answer(space: Eigenspace) -> NearestAnswer:
    """The nearest other answer; unlike the direction it needs no volume.

    Args:
        space: of a classifier.

    Returns:
        Distance and answer for each image.

    Raises:
        ValueError: the family has no answers that could be flipped.
    """
    _check_answers(space.likelihood)
    rise, index = cast(Likelihood, space.likelihood).flips(space.logits)
    device = space.factor.device
    rise, index = rise.to(device), index.to(device)
    weights = space.contrast_weights
    if weights is None:
        lengths = torch.linalg.vector_norm(space.gradients.flatten(2), dim=2, dtype=torch.float64)
        lengths, known = lengths.to(device), torch.ones_like(index, dtype=torch.bool)
    else:
        known = ~weights.isnan().any(dim=2)
        gram = inner_products(space.gradients, space.gradients, device)
        squares = torch.einsum("bmq,bqp,bmp->bm", weights, gram, weights)
        lengths = squares.clamp_min(0).sqrt()

    # A class that the network rules out (a logit of minus infinity) is infinitely far.
    distances = rise.abs() / torch.where(lengths > 0, lengths, 0)
    distances = torch.where((lengths == 0) | rise.isinf(), torch.inf, distances)
    distances = torch.where(space.trace.isnan()[:, None], torch.nan, distances)
    distance, best = torch.where(known, distances, torch.inf).min(dim=1, keepdim=True)
    distance = torch.where(known.any(dim=1, keepdim=True), distance, torch.nan)

    found = torch.isfinite(distance)
    scale = torch.where(rise.gather(1, best) < 0, -1.0, 1.0) / lengths.gather(1, best)
    if weights is None:
        chosen = torch.zeros_like(lengths).scatter(1, best, 1.0)
    else:
        chosen = weights.gather(1, best[:, :, None].expand(-1, -1, weights.shape[2]))[:, 0]
    return NearestAnswer(
        distance=distance[:, 0],
        index=torch.where(found, index.gather(1, best), -1)[:, 0],
        compared=torch.where(known, index, -1),
        distances=torch.where(known, distances, torch.nan),
        steps=torch.where(found, chosen * scale, 0),
    )


def margins_of(family: Family, logits: Tensor, reference: Tensor) -> Tensor:
    """How far beyond the boundary to each other answer logits are.

    Args:
        family: of a classifier.
        logits: (B, K) of changed images; may have a graph.
        reference: (B, K) of the images as they were.

    Returns:
        (B, M) in float64, for the answers of ``flips`` of the reference: positive where that
        answer has become more probable than the one of the reference.

    Raises:
        ValueError: the family has no answers that could be flipped.
    """
    if hasattr(family, "recode"):  # some of the classes, or classes taken together
        return margins_of(family.family, family.recode(logits), family.recode(reference))  # type: ignore[attr-defined]
    _check_answers(family)
    likelihood = cast(Likelihood, family)
    reference = reference.detach().as_subclass(Tensor)
    rise, _ = likelihood.flips(reference)
    cotangents = likelihood.contrasts(reference).double()
    change = logits.as_subclass(Tensor).double() - reference.double()
    # A class that the network rules out stays so.
    change = torch.where(reference.isinf(), 0, change)
    risen = torch.einsum("mbk,bk->bm", cotangents, change)
    return torch.where(rise < 0, -1, 1) * (risen - rise)


def _check_answers(family: Family) -> None:
    if not hasattr(family, "flips"):
        raise ValueError(
            f"expected a classifier with one answer per image, got {family!r}, which has "
            "no single answer that could change; choose one prediction with output_transform"
        )
