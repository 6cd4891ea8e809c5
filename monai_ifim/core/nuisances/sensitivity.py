"""How much of an acquisition parameter a prediction tolerates: rotation, gain, blur, noise.

With a transformation T_θ of the image and its tangent t = ∂T_θ(x)/∂θ at 0, KL ≈ ½ θ² tᵀF t. For
several, KL ≈ ½ θᵀ(TᵀFT)θ with one small matrix, from products with gradients that are there.

The law holds for small amounts. So it screens and finds the worst combination; the number to show
is measured by forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from monai_ifim.core.decomposition import eigenspace
from monai_ifim.core.eigenspace import Eigenspace
from monai_ifim.core.gradients.at_rest import at_rest, unwrap
from monai_ifim.core.gradients.logits import predicted_logits
from monai_ifim.core.nuisances.nuisance import Nuisance
from monai_ifim.core.nuisances.search import Search
from monai_ifim.core.options import (
    EigenspaceOptions,
    OptionKeywords,
    chosen_options,
    with_option_keywords,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True, eq=False)
class NuisanceSensitivity:
    """What each of P nuisances does to each prediction.

    Attributes:
        nuisances: in order.
        level: KL divergence that counts as a change, in nats.
        matrix: TᵀFT, (B, P, P) in float64, in 1 / unit².
        local: amount at which the quadratic law reaches the level, (B, P); infinite where the
            prediction does not react.
        worst: the combination of amounts that changes the prediction most, each in units of its
            reach, (B, P) of length 1; the leading eigenvector.
        worst_divergence: KL of that combination by the quadratic law, in nats, (B,).
        measured: amount, with its sign, at which the divergence reaches the level first, (B, P), by
            forward passes; infinite where it does not within the reach. None where not measured.
        flips: amount, with its sign, at which the answer was seen to have changed, (B, P), the same
            way; the first change lies at most an eighth of the reach below, a quarter where the
            answer changes on both sides. NaN for families without answers.
    """

    nuisances: tuple[Nuisance, ...]
    level: float
    matrix: Tensor
    local: Tensor
    worst: Tensor
    worst_divergence: Tensor
    measured: Tensor | None = None
    flips: Tensor | None = None

    def sentences(self, image: int) -> list[str]:
        """One sentence for each nuisance about one image.

        Args:
            image: its number in the batch.

        Returns:
            What was measured; without measurements what the quadratic law says.
        """
        lines = []
        for i, nuisance in enumerate(self.nuisances):
            law = self.measured is None
            amount = float((self.local if self.measured is None else self.measured)[image, i])
            side = "" if nuisance.one_sided else "±"
            how = ", by the quadratic law" if law else ""
            if abs(amount) > nuisance.reach:
                lines.append(
                    f"{nuisance.name}: less than {self.level:g} nat within "
                    f"{side}{nuisance.reach:g} {nuisance.unit}{how}"
                )
                continue
            line = f"{nuisance.name}: {self.level:g} nat at {amount:.2g} {nuisance.unit}{how}"
            flip = torch.inf if self.flips is None else float(self.flips[image, i])
            if abs(flip) <= nuisance.reach:
                line += f", another answer at {flip:.2g} {nuisance.unit}"
            lines.append(line)
        return lines


@with_option_keywords
def nuisance_sensitivity(
    network: nn.Module,
    images: Tensor,
    nuisances: Sequence[Nuisance],
    *,
    level: float = 0.1,
    measure: bool = True,
    options: EigenspaceOptions | None = None,
    **keywords: Unpack[OptionKeywords],
) -> NuisanceSensitivity:
    """How far each acquisition parameter may go before a prediction changes.

    Backward passes: those of ``eigenspace``, and none more. Forward passes where measured: at most
    12 for each nuisance. The network is left as it was.

    Args:
        network: classifier, segmentation or regression network, as in ``eigenspace``.
        images: (B, C, *S), preprocessed as the network expects them.
        nuisances: for example from ``monai_ifim.nuisances``.
        level: KL divergence that counts as a change, in nats.
        measure: look at the predictions themselves; without it the quadratic law alone.
        options: a value that holds all choices about the eigenspace; instead of ``keywords``.
        keywords: the fields of ``EigenspaceOptions``.

    Returns:
        Amounts for each image and nuisance.

    Raises:
        ValueError: no nuisance, one that changes nothing or another shape, an impossible level, or
            as ``eigenspace``.
    """
    options = chosen_options(options, keywords)
    network = unwrap(network)
    check_nuisances(nuisances, level)
    if options.perturbation is not None:
        raise ValueError(
            "expected no perturbation beside nuisances, which are changes of their own, got "
            f"{options.perturbation!r}; leave it out"
        )
    space = eigenspace(network, images, options=options)
    plain = images.detach().as_subclass(Tensor)
    predict = partial(predicted_logits, network, output_transform=options.output_transform)
    with at_rest(network, images.device, autocast=options.autocast):
        return sensitivity_of(
            space, plain, nuisances, predict if measure else None, level, must_change=True
        )


def check_nuisances(nuisances: Sequence[Nuisance], level: float) -> None:
    """Refuse what is no nuisance, and an impossible level.

    Args:
        nuisances: to be checked.
        level: KL divergence in nats.

    Raises:
        ValueError: none, one without what it needs, or a level that is not above 0.
    """
    number = isinstance(level, int | float) and not isinstance(level, bool)
    if not nuisances or not number or not 0 < level < float("inf"):
        raise ValueError(
            f"expected at least one nuisance and a level > 0 in nats, got {len(nuisances)} and "
            f"level={level!r}; for example [Rotation(15.0)] and 0.1"
        )
    needed = ("name", "unit", "reach", "one_sided", "step")
    for nuisance in nuisances:
        if isinstance(nuisance, type) or not all(hasattr(nuisance, n) for n in needed):
            raise ValueError(
                f"expected nuisances with {', '.join(needed)}, got {nuisance!r}; take those of "
                "monai_ifim.nuisances, or write a class with these attributes"
            )


@torch.no_grad()
def sensitivity_of(
    space: Eigenspace,
    images: Tensor,
    nuisances: Sequence[Nuisance],
    predict: Callable[[Tensor], Any] | None,
    level: float = 0.1,
    *,
    must_change: bool = False,
) -> NuisanceSensitivity:
    """What nuisances do to predictions whose eigenspace is known, without a backward pass.

    Args:
        space: of the images, of all changes (no ``perturbation``).
        images: (B, C, *S) without metadata, as the network was given them.
        nuisances: at least one.
        predict: images (B, C, *S) to logits, with a network in eval mode; None for the quadratic
            law alone.
        level: KL divergence that counts as a change, in nats.
        must_change: refuse a nuisance that leaves all images as they are. Otherwise their
            predictions are said not to react to it.

    Returns:
        Amounts for each image and nuisance.

    Raises:
        ValueError: a nuisance that makes another shape, or an image on which the network returns
            NaN when it is changed.
    """
    matrix = _matrix(space, images, nuisances, must_change)
    reach = torch.tensor([n.reach for n in nuisances], dtype=torch.float64, device=matrix.device)
    values, vectors = torch.linalg.eigh(reach[:, None] * matrix * reach)
    diagonal = matrix.diagonal(dim1=1, dim2=2).clamp_min(0)
    measured = flips = None
    if predict is not None:
        found = []
        for nuisance in nuisances:

            def changed(amounts: Tensor, nuisance: Nuisance = nuisance) -> Any:
                return predict(_changed(nuisance, images, amounts))

            found.append(Search(changed, space, nuisance).run(level))
        measured, flips = torch.stack([torch.stack(pair) for pair in found], dim=2)
    return NuisanceSensitivity(
        nuisances=tuple(nuisances),
        level=level,
        matrix=matrix,
        local=(2 * level / diagonal).sqrt(),
        worst=vectors[:, :, -1],
        worst_divergence=values[:, -1].clamp_min(0) / 2,
        measured=measured,
        flips=flips,
    )


def _matrix(
    space: Eigenspace, images: Tensor, nuisances: Sequence[Nuisance], must_change: bool
) -> Tensor:
    """TᵀFT, (B, P, P) in float64."""
    columns, own = [], {}
    images = images.double()  # a small step is lost beside large intensities in single precision
    for i, nuisance in enumerate(nuisances):
        step = torch.full((len(images),), nuisance.step, dtype=torch.float64)
        above = _changed(nuisance, images, step)
        below = images if nuisance.one_sided else _changed(nuisance, images, -step)
        width = nuisance.step if nuisance.one_sided else 2 * nuisance.step
        tangent = (above - below) / width
        if must_change and not bool(tangent.any()):
            raise ValueError(
                f"expected a nuisance that changes the images, got {nuisance.name}, which leaves "
                f"all as they are at {nuisance.step:g} {nuisance.unit}; leave it out, or give a "
                "larger step"
            )
        columns.append(space.responses(tangent))
        if hasattr(nuisance, "form"):
            own[i] = nuisance.form(space)
    responses = torch.stack(columns, dim=1)
    matrix = responses @ responses.transpose(1, 2)
    for i, form in own.items():  # a random change has no tangent of its own
        matrix[:, i], matrix[:, :, i] = 0, 0
        matrix[:, i, i] = form
    return matrix


def _changed(nuisance: Nuisance, images: Tensor, amounts: Tensor) -> Tensor:
    changed = nuisance(images, amounts)
    if not isinstance(changed, Tensor) or changed.shape != images.shape:
        got = tuple(changed.shape) if isinstance(changed, Tensor) else type(changed).__name__
        raise ValueError(
            f"expected images {tuple(images.shape)} from {nuisance.name}, got {got}; crop or pad "
            "to the same size"
        )
    return changed.as_subclass(Tensor).to(images)
