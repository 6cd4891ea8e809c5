"""The distance to another answer, verified by a search instead of computed to first order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from monai_ifim.changes import MissingEntry
from monai_ifim.core import (
    Eigenspace,
    EigenspaceOptions,
    Likelihood,
    OptionKeywords,
    OutputTransform,
    at_rest,
    chosen_options,
    eigenspace,
    unwrap,
    with_option_keywords,
)
from monai_ifim.core.eigenspace import like
from monai_ifim.core.flips import nearest_answer
from monai_ifim.questions.question import Answer, Asked
from monai_ifim.questions.search import METHODS, Search, foolbox

if TYPE_CHECKING:
    from typing_extensions import Unpack

Bounds = str | tuple[float, float] | None
_ALL_CHANGES = (
    "expected all changes of the images for a verified distance, whose search knows no other ones, "
    "got {!r}; leave out the perturbation, or the search"
)


@dataclass(frozen=True, eq=False)
class FoundFlip:
    """The smallest changes that a search has found; a smaller one may exist.

    Attributes:
        distance: L2 norm of the change, (B,) in float64, in input units; infinite where none was
            found within sixteen first-order distances (of DDN forty).
        index: the answer that it leads to, (B,) in int64, as in ``FlipDistance``; -1 where none.
        images: the images just beyond the boundary, (B, C, *S); NaN where none was found.
        first_order: what ``flip_distance`` says, (B,) in float64.
    """

    distance: Tensor
    index: Tensor
    images: Tensor
    first_order: Tensor


@dataclass(frozen=True)
class VerifiedFlip:
    """Question: the smallest change to another answer that a search finds, and where it leads.

    Columns: ``verified_distance`` (L2 norm, in input units), ``verified_class`` and
    ``verified_by``, the search; without numbers where it found nothing. Value: ``ifim_flipped``,
    the image just beyond the boundary, NaN where there is none. For a classifier; foolbox
    (``pip install 'monai_ifim[adversarial]'``) makes the steps.

    Attributes:
        method: ``"ddn"``: the direction follows the gradient, the norm falls or rises with each
            step. ``"pgd"``: projected gradient steps in ever smaller balls, about seven times the
            passes, for a second opinion.
        steps: gradients of each attempt; most images need one attempt of DDN, eight to twelve of
            PGD.
        bounds: values that a changed voxel may take: ``None`` for any, ``"image"`` for those
            between each image's least and largest one, or the two numbers.

    Raises:
        ValueError: another method, no step, or bounds in the wrong order.
        ModuleNotFoundError: foolbox is not installed.
    """

    method: str = "ddn"
    steps: int = 20
    bounds: Bounds = None

    name = "verified distance"
    volumes = ("flipped",)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(
                f"expected method from {METHODS}, got {self.method!r}; 'ddn' needs the fewest "
                "passes"
            )
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"expected steps >= 1, got {self.steps!r}; 20 is a good start")
        _check_bounds(self.bounds)
        foolbox()

    def answer(self, asked: Asked) -> Answer:
        """Search for some images.

        Args:
            asked: the images.

        Returns:
            Columns and the changed images.

        Raises:
            MissingEntry: the network is no classifier, or the run has a ``perturbation``; neither
                is an image's fault.
            ValueError: an image outside the bounds.
        """
        if not hasattr(asked.space.likelihood, "flips"):
            raise MissingEntry(
                "expected a classifier with one answer per image for a verified distance, got "
                f"{asked.space.likelihood!r}; leave out VerifiedFlip (ifim_verify)"
            )
        if asked.options.perturbation is not None:
            raise MissingEntry(_ALL_CHANGES.format(asked.options.perturbation))
        transform = asked.options.output_transform
        found = self.search(asked.space, asked.images, asked.predict, transform)
        text = getattr(asked.space.likelihood, "text", str)
        rows = []
        for distance, index in zip(found.distance.tolist(), found.index.tolist(), strict=True):
            there = math.isfinite(distance)
            rows.append(
                {
                    "verified_distance": distance if there else None,
                    "verified_class": text(index) if there else None,
                    "verified_by": f"{self.method}, {self.steps} steps",
                }
            )
        return Answer(rows, {"flipped": found.images})

    def search(
        self,
        space: Eigenspace,
        images: Tensor,
        predict: Callable[[Tensor], Any],
        output_transform: OutputTransform | None = None,
    ) -> FoundFlip:
        """The search itself, to be called inside ``at_rest``.

        Args:
            space: eigenspace of the images.
            images: (B, C, *S) without metadata.
            predict: images to the network's output.
            output_transform: chooses the logits in it.

        Returns:
            What was found.

        Raises:
            ValueError: images outside the bounds. No classifier: as ``flip_distance``.
        """
        images = images.detach()
        first = space.flip_distance()
        step = torch.linalg.vector_norm(first.direction.flatten(1), dim=1, dtype=torch.float64)
        scale = first.distance.to(images.device) * step.to(images.device)
        reacts = torch.isfinite(scale)
        size = torch.linalg.vector_norm(images.flatten(1), dim=1, dtype=torch.float64)
        scale = torch.where(reacts, torch.maximum(scale, 1e-6 * size), 1.0).to(images.dtype)
        search = Search(
            predict=predict,
            images=images,
            family=space.likelihood,
            logits=space.logits.to(images.device),
            scale=scale,
            weights=_weights(space, scale),
            bounds=_bounds_of(self.bounds, images),
            output_transform=output_transform,
        )
        best, found = search.nearest(self.method, self.steps)
        found &= reacts
        with torch.no_grad():
            leads_to = search.margins(best).argmax(dim=1, keepdim=True)
        _, answers = cast(Likelihood, space.likelihood).flips(search.logits)
        index = answers.to(images.device).gather(1, leads_to)[:, 0]
        lost = ~found.reshape(-1, *[1] * (images.ndim - 1))
        return FoundFlip(
            distance=torch.where(found, search.lengths(best), torch.inf),
            index=torch.where(found, index, -1),
            images=best.masked_fill(lost, torch.nan),
            first_order=first.distance,
        )


@with_option_keywords
def verified_flip(
    network: nn.Module,
    images: Tensor,
    *,
    search: str = "ddn",
    steps: int = 20,
    bounds: Bounds = None,
    options: EigenspaceOptions | None = None,
    **keywords: Unpack[OptionKeywords],
) -> FoundFlip:
    """The smallest change of each image to another answer that a search finds, and the image.

    The network is left as it was, the random state too.

    Args:
        network: classifier, as in ``eigenspace``.
        images: (B, C, *S).
        search: ``"ddn"`` or ``"pgd"``, the ``method`` of ``VerifiedFlip``.
        steps: gradients of each attempt.
        bounds: values that a changed voxel may take: ``None`` for any, ``"image"`` for those
            between each image's least and largest one, or the two numbers.
        options: choices about the eigenspace as a value, instead of ``keywords``.
        keywords: the fields of ``EigenspaceOptions``, for example ``likelihood="bernoulli"``.

    Returns:
        Distance, answer and changed image of each.

    Raises:
        TypeError: network, images or output of the wrong type.
        ValueError: as ``eigenspace`` and ``VerifiedFlip``; the network is no classifier.
        ModuleNotFoundError: foolbox is not installed.
    """
    question = VerifiedFlip(search, steps, bounds)
    chosen = chosen_options(options, keywords)
    if chosen.perturbation is not None:
        raise ValueError(_ALL_CHANGES.format(chosen.perturbation))
    space = eigenspace(network, images, options=chosen)
    plain, network = images.detach().as_subclass(Tensor), unwrap(network)
    with at_rest(network, images.device, autocast=chosen.autocast):
        found = question.search(space, plain, network, chosen.output_transform)
    return replace(found, images=like(found.images, images))


def _weights(space: Eigenspace, scale: Tensor) -> Tensor:
    """What makes each margin a distance, to first order, in units of the nearest one's, (B, M)."""
    nearest = nearest_answer(space)
    rise, _ = cast(Likelihood, space.likelihood).flips(space.logits)
    per_rise = nearest.distances / rise.abs().to(nearest.distances)
    usable = torch.isfinite(per_rise) & (per_rise > 0)
    # Answers of which nothing is known count like the others on average.
    mean = torch.where(usable, per_rise, 0).sum(dim=1) / usable.sum(dim=1).clamp_min(1)
    mean = torch.where(mean > 0, mean, 1)
    unit = nearest.distance
    unit = torch.where(torch.isfinite(unit) & (unit > 0), unit, mean)
    weights = torch.where(usable, per_rise, mean[:, None]) / unit[:, None]
    return weights.to(scale.device)


def _check_bounds(bounds: Bounds) -> None:
    if bounds is None or bounds == "image":
        return
    pair = [] if isinstance(bounds, str) else list(bounds)
    if len(pair) != 2 or not pair[0] < pair[1]:
        raise ValueError(
            f"expected bounds None, 'image' or two rising numbers, got {bounds!r}; they are those "
            "of the preprocessed image"
        )


def _bounds_of(bounds: Bounds, images: Tensor) -> tuple[Tensor, Tensor] | None:
    if bounds is None:
        return None
    values = images.flatten(1)
    low, high = values.amin(dim=1), values.amax(dim=1)
    if isinstance(bounds, str):
        return low, high
    if bool((low < bounds[0]).any() or (high > bounds[1]).any()):
        raise ValueError(
            f"expected images within the bounds {tuple(bounds)}, got values from "
            f"{float(low.min()):.3g} to {float(high.max()):.3g}; give those after preprocessing"
        )
    return torch.full_like(low, bounds[0]), torch.full_like(high, bounds[1])
