"""How much of an acquisition parameter a prediction tolerates: rotation, gain, blur, noise.

With a transformation T_θ of the image and its tangent t = ∂T_θ(x)/∂θ at 0, KL ≈ ½ θ² tᵀF t. For
several, KL ≈ ½ θᵀ(TᵀFT)θ with one small matrix, from products with gradients that are there.

The law holds for small amounts. So it screens and finds the worst combination; the number to show
is measured by forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from monai_ifim.core.decomposition import eigenspace
from monai_ifim.core.eigenspace import Eigenspace
from monai_ifim.core.families import Family
from monai_ifim.core.gradients.at_rest import at_rest, unwrap
from monai_ifim.core.gradients.logits import predicted_logits
from monai_ifim.core.options import (
    EigenspaceOptions,
    OptionKeywords,
    chosen_options,
    with_option_keywords,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Shares of the reach that are looked at first, and the passes that narrow down afterwards: on two
# sides 8 + 2 + 2 passes, on one 4 + 2 + 2.
_SCAN, _NARROW = (0.125, 0.25, 0.5, 1.0), 2


class Nuisance(Protocol):
    """A transformation of images by an amount, 0 for none.

    Attributes:
        name: for tables.
        unit: of the amount.
        reach: largest plausible amount; looked at is from -reach to reach.
        one_sided: only amounts >= 0 have a meaning.
        step: amount for the difference that approximates the tangent.
    """

    name: str
    unit: str
    reach: float
    one_sided: bool
    step: float

    def __call__(self, images: Tensor, amounts: Tensor) -> Tensor:
        """Images (B, C, *S), each transformed by its own amount (B,)."""


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
            way; the first change lies at most an eighth of the reach below. NaN for families
            without answers.
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
    if not nuisances or not 0 < level < float("inf"):
        raise ValueError(
            f"expected at least one nuisance and a level > 0 in nats, got {len(nuisances)} and "
            f"level={level}; for example [Rotation(15.0)] and 0.1"
        )
    needed = ("name", "unit", "reach", "one_sided", "step")
    for nuisance in nuisances:
        if isinstance(nuisance, type) or not all(hasattr(nuisance, n) for n in needed):
            raise ValueError(
                f"expected nuisances with {', '.join(needed)}, got {nuisance!r}; take those of "
                "monai_ifim.nuisances, or write a class with these attributes"
            )
    if options.perturbation is not None:
        raise ValueError(
            "expected no perturbation beside nuisances, which are changes of their own, got "
            f"{options.perturbation!r}; leave it out"
        )
    space = eigenspace(network, images, options=options)
    plain = images.detach().as_subclass(Tensor)
    with torch.no_grad():
        matrix = _matrix(space, plain, nuisances)
    reach = torch.tensor([n.reach for n in nuisances], dtype=torch.float64, device=matrix.device)
    values, vectors = torch.linalg.eigh(reach[:, None] * matrix * reach)
    diagonal = matrix.diagonal(dim1=1, dim2=2).clamp_min(0)
    measured = flips = None
    if measure:
        measured, flips = _all_measured(network, plain, nuisances, level, space, options)
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


def _matrix(space: Eigenspace, images: Tensor, nuisances: Sequence[Nuisance]) -> Tensor:
    """TᵀFT, (B, P, P) in float64."""
    columns, own = [], {}
    for i, nuisance in enumerate(nuisances):
        step = torch.full((len(images),), nuisance.step, dtype=torch.float64)
        above = _changed(nuisance, images, step)
        below = images if nuisance.one_sided else _changed(nuisance, images, -step)
        width = nuisance.step if nuisance.one_sided else 2 * nuisance.step
        tangent = (above.double() - below.double()) / width
        if not bool(tangent.any()):
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


def _all_measured(
    network: nn.Module,
    images: Tensor,
    nuisances: Sequence[Nuisance],
    level: float,
    space: Eigenspace,
    options: EigenspaceOptions,
) -> tuple[Tensor, Tensor]:
    found = []
    with at_rest(network, images.device, autocast=options.autocast), torch.no_grad():
        for nuisance in nuisances:

            def predict(amounts: Tensor, nuisance: Nuisance = nuisance) -> Any:
                changed = _changed(nuisance, images, amounts)
                return predicted_logits(network, changed, options.output_transform)

            found.append(_Search(predict, space, nuisance).run(level))
    amounts = torch.stack([torch.stack(pair) for pair in found], dim=2)
    return amounts[0], amounts[1]


class _Search:
    """Forward passes at amounts of one nuisance, for all images side by side.

    Args:
        predict: logits of the images changed by amounts (B,).
        space: of the images.
        nuisance: that changes them.
    """

    def __init__(
        self, predict: Callable[[Tensor], Any], space: Eigenspace, nuisance: Nuisance
    ) -> None:
        self._predict, self._family, self._nuisance = predict, space.likelihood, nuisance
        self._before = space.logits.double()

    def run(self, level: float) -> tuple[Tensor, Tensor]:
        """The first amounts at which the level is reached and the answer changes, (B,) each."""
        signs = (1.0,) if self._nuisance.one_sided else (1.0, -1.0)
        scans = [[self._look(self._at(sign * share)) for share in _SCAN] for sign in signs]
        amounts = torch.tensor([0.0, *_SCAN], dtype=torch.float64) * self._nuisance.reach
        start = torch.zeros(len(self._before), dtype=torch.float64)
        divergence = torch.stack(
            [torch.stack([start, *(d for d, _ in scan)], dim=1) for scan in scans], dim=1
        )
        changed = torch.stack(
            [torch.stack([start > 0, *(c for _, c in scan)], dim=1) for scan in scans], dim=1
        )
        low, high, sign = _bracket(divergence >= level, amounts, signs)
        below, above = (_read(divergence, amounts, each, sign, signs) for each in (low, high))
        for _ in range(_NARROW if bool(torch.isfinite(high).any()) else 0):
            point = _crossing(low, below, high, above, level)
            seen, _ = self._look(torch.where(high.isinf(), 0, sign * point))
            reached = seen >= level
            high, above = torch.where(reached, point, high), torch.where(reached, seen, above)
            low, below = torch.where(reached, low, point), torch.where(reached, below, seen)
        measured = _signed(_crossing(low, below, high, above, level), high, sign)
        return measured, self._first_change(changed, amounts, signs)

    def _first_change(self, changed: Tensor, amounts: Tensor, signs: tuple[float, ...]) -> Tensor:
        if not hasattr(self._family, "predicted"):
            return torch.full((len(changed),), torch.nan, dtype=torch.float64)
        low, high, sign = _bracket(changed, amounts, signs)
        for _ in range(_NARROW if bool(torch.isfinite(high).any()) else 0):
            point = torch.where(high.isinf(), 0, (low + high) / 2)
            _, now = self._look(sign * point)
            high, low = torch.where(now, point, high), torch.where(now, low, point)
        return _signed(high, high, sign)

    def _at(self, share: float) -> Tensor:
        amount = share * self._nuisance.reach
        return torch.full((len(self._before),), amount, dtype=torch.float64)

    def _look(self, amounts: Tensor) -> tuple[Tensor, Tensor]:
        """Divergence, and whether the answer is another one, (B,) each, on the CPU."""
        after = self._predict(amounts).double()
        family: Family = self._family
        divergence = family.divergence(self._before, after).cpu()
        if not hasattr(family, "predicted"):
            return divergence, torch.zeros(len(after), dtype=torch.bool)
        now, then = (family.predicted(z).reshape(len(z), -1) for z in (after, self._before))
        return divergence, (now != then).any(dim=1).cpu()


def _bracket(
    hit: Tensor, amounts: Tensor, signs: tuple[float, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """The first interval in which something happens, on the side where that is nearer.

    Args:
        hit: (B, sides, n) booleans, false at the first amount.
        amounts: (n,), rising.
        signs: of the sides.

    Returns:
        Its ends (B,), infinite where nothing happens, and the sign of the side.
    """
    first = hit.long().argmax(dim=2)
    ends = torch.where(hit.any(dim=2), amounts[first], torch.inf)
    high, side = ends.min(dim=1)
    index = first.gather(1, side[:, None])[:, 0]
    low = torch.where(high.isinf(), 0, amounts[(index - 1).clamp_min(0)])
    return low, high, torch.tensor(signs, dtype=torch.float64)[side]


def _read(
    values: Tensor, amounts: Tensor, where: Tensor, sign: Tensor, signs: tuple[float, ...]
) -> Tensor:
    """Of values (B, sides, n) those at some amounts (B,) on one side each."""
    side = (sign[:, None] - torch.tensor(signs, dtype=torch.float64)).abs().argmin(dim=1)
    index = (where[:, None] - amounts).abs().nan_to_num(torch.inf).argmin(dim=1)
    rows = torch.arange(len(values))
    return values[rows, side, index]


def _crossing(low: Tensor, below: Tensor, high: Tensor, above: Tensor, level: float) -> Tensor:
    """Where a power law through both ends of an interval reaches the level; from 0 on the square.

    Args:
        low: ends of the intervals, (B,).
        below: values there.
        high: other ends; infinite where there is no interval.
        above: values there.
        level: to be reached.

    Returns:
        Points (B,); infinite where there is no interval.
    """
    known = (below > 0) & (low > 0) & (above > below)
    power = torch.where(known, (above / below).log() / (high / low).log(), 2.0)
    point = high * (level / above) ** (1 / power)
    point = torch.maximum(torch.minimum(point, high), low)
    return torch.where(torch.isfinite(point), point, (low + high) / 2)


def _signed(amount: Tensor, high: Tensor, sign: Tensor) -> Tensor:
    return torch.where(high.isinf(), torch.inf, sign * amount)
