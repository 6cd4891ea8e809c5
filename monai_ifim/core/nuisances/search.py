"""The amount of a nuisance at which a prediction changes, by forward passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from monai_ifim.core.eigenspace import Eigenspace
from monai_ifim.core.families import Family
from monai_ifim.core.nuisances.nuisance import Nuisance

# Shares of the reach that are looked at first, and the passes that narrow down afterwards: on two
# sides 8 + 2 + 2 passes, on one 4 + 2 + 2.
_SCAN, _NARROW = (0.125, 0.25, 0.5, 1.0), 2


class Search:
    """Forward passes at amounts of one nuisance, for all images side by side; at most 12.

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
        """The first amounts at which the level is reached and the answer changes, (B,) each.

        Both sides are compared all along, and each pass looks at the one that is nearer so far.

        Args:
            level: KL divergence in nats.

        Returns:
            Two tensors of amounts with their signs, infinite where nothing happens.
        """
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
        low, high = _brackets(divergence >= level, amounts)
        below, above = (_read(divergence, amounts, each) for each in (low, high))
        ways = torch.tensor(signs, dtype=torch.float64)
        rows = torch.arange(len(self._before))
        for _ in range(_NARROW if bool(torch.isfinite(high).any()) else 0):
            point, side = _crossing(low, below, high, above, level).min(dim=1)
            at = rows, side
            seen, _ = self._look(torch.where(point.isinf(), 0, ways[side] * point))
            reached = seen >= level
            high[at], low[at] = _halves(low[at], point, high[at], reached)
            above[at], below[at] = _halves(below[at], seen, above[at], reached)
        measured = _nearest(_crossing(low, below, high, above, level), ways)
        return measured, self._first_change(changed, amounts, ways)

    def _first_change(self, changed: Tensor, amounts: Tensor, ways: Tensor) -> Tensor:
        if not hasattr(self._family, "predicted"):
            return torch.full((len(changed),), torch.nan, dtype=torch.float64)
        low, high = _brackets(changed, amounts)
        rows = torch.arange(len(changed))
        for _ in range(_NARROW if bool(torch.isfinite(high).any()) else 0):
            point, side = ((low + high) / 2).min(dim=1)
            at = rows, side
            _, now = self._look(torch.where(point.isinf(), 0, ways[side] * point))
            high[at], low[at] = _halves(low[at], point, high[at], now)
        return _nearest(high, ways)

    def _at(self, share: float) -> Tensor:
        amount = share * self._nuisance.reach
        return torch.full((len(self._before),), amount, dtype=torch.float64)

    def _look(self, amounts: Tensor) -> tuple[Tensor, Tensor]:
        """Divergence, and whether the answer is another one, (B,) each, on the CPU."""
        after = self._predict(amounts).double()
        family: Family = self._family
        divergence = family.divergence(self._before, after).cpu()
        if bool(divergence.isnan().any()):
            image = int(divergence.isnan().nonzero()[0])
            raise ValueError(
                f"expected a prediction of image {image} at {amounts[image].item():.3g} "
                f"{self._nuisance.unit} of {self._nuisance.name}, got NaN; look for overflow, or "
                "for a division by zero, in the network's forward"
            )
        if not hasattr(family, "predicted"):
            return divergence, torch.zeros(len(after), dtype=torch.bool)
        now, then = (family.predicted(z).reshape(len(z), -1) for z in (after, self._before))
        return divergence, (now != then).any(dim=1).cpu()


def _brackets(hit: Tensor, amounts: Tensor) -> tuple[Tensor, Tensor]:
    """The first interval of each side in which something happens.

    Which side is nearer is not known from these where both have the same one.

    Args:
        hit: (B, sides, n) booleans, false at the first amount.
        amounts: (n,), rising.

    Returns:
        Its ends, (B, sides) each; 0 and infinite where nothing happens.
    """
    first, there = hit.long().argmax(dim=2), hit.any(dim=2)
    high = torch.where(there, amounts[first], torch.inf)
    return torch.where(there, amounts[(first - 1).clamp_min(0)], 0), high


def _read(values: Tensor, amounts: Tensor, where: Tensor) -> Tensor:
    """Of values (B, sides, n) those at some of the amounts, (B, sides)."""
    index = (where[..., None] - amounts).abs().argmin(dim=2, keepdim=True)
    return values.gather(2, index)[..., 0]


def _halves(low: Tensor, point: Tensor, high: Tensor, reached: Tensor) -> tuple[Tensor, Tensor]:
    """The upper and the lower end of what is left of an interval after a look inside."""
    return torch.where(reached, point, high), torch.where(reached, low, point)


def _crossing(low: Tensor, below: Tensor, high: Tensor, above: Tensor, level: float) -> Tensor:
    """Where a power law through both ends of an interval reaches the level; from 0 on the square.

    Args:
        low: ends of the intervals, (B, sides).
        below: values there.
        high: other ends; infinite where there is no interval.
        above: values there.
        level: to be reached.

    Returns:
        Points (B, sides); infinite where there is no interval.
    """
    known = (below > 0) & (low > 0) & (above > below)
    power = torch.where(known, (above / below).log() / (high / low).log(), 2.0)
    point = high * (level / above) ** (1 / power)
    point = torch.maximum(torch.minimum(point, high), low)
    return torch.where(torch.isfinite(point), point, (low + high) / 2)


def _nearest(amounts: Tensor, ways: Tensor) -> Tensor:
    """The smallest of the amounts (B, sides), with the sign of its side, (B,)."""
    amount, side = amounts.min(dim=1)
    return torch.where(amount.isinf(), torch.inf, ways[side] * amount)
