"""How far the spaces of different trainings agree, beside networks that learned nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from monai_ifim.experiments.statistics.trainings import Range, Summary, across, over_pairs
from monai_ifim.experiments.trainings.metrics import Seen, bases, shared
from monai_ifim.experiments.trainings.training import POOLED, Training

SHARE: Range = (0.0, 1.0)
KINDS = ("single", "smoothed", *POOLED)


@dataclass(frozen=True, eq=False)
class Seeing:
    """The spaces of a training as one metric sees them.

    Attributes:
        training: the training.
        seen: the metric.
    """

    training: Training
    seen: Seen

    @cached_property
    def single(self) -> Tensor:
        """Bases (n, P, K - 1) of each image's eigenspace."""
        return bases(self.training.single, self.seen)

    @cached_property
    def smoothed(self) -> Tensor:
        """Bases (m, P, K - 1) of the smoothed eigenspaces."""
        return bases(self.training.smoothed, self.seen)

    @cached_property
    def pooled(self) -> dict[str, Tensor]:
        """Bases (1 + draws, P, K - 1) of the pooled spaces by kind."""
        return {
            kind: bases(directions, self.seen) for kind, directions in self.training.pooled.items()
        }

    def agreement(self, other: Seeing, kind: str, rank: int) -> Tensor:
        """Mean squared cosine with another training at the same images.

        Args:
            other: seen through the same metric.
            kind: in ``KINDS``.
            rank: of so many leading directions.

        Returns:
            (1 + draws,): of the images themselves, and of each draw of them.
        """
        if kind in POOLED:
            return shared(self.pooled[kind], other.pooled[kind], rank)
        mine, theirs = (self.single, other.single)
        if kind == "smoothed":
            mine, theirs = self.smoothed, other.smoothed
        values = shared(mine, theirs, rank)
        return values[self.training.amounts.drawn(len(values))].mean(dim=1)


def within(
    trainings: Sequence[Training],
    untrained: Sequence[Training],
    metrics: Mapping[str, Seen],
) -> dict[str, Any]:
    """Agreement between the trainings of one network.

    Args:
        trainings: with different seeds.
        untrained: the same network with random weights.
        metrics: in what to compare.

    Returns:
        For each metric and each number of directions (``leading``: one; ``all``: K - 1, only where
        that is more), by kind the mean over pairs of trainings; ``random_weights`` is that of pairs
        of untrained networks (pooled, unit trace), ``to_random_weights`` that of a training with an
        untrained network; ``unit_trace_less`` by kind how much higher that of unit traces is, from
        the same draws. None where there are no pairs.
    """
    result: dict[str, Any] = {}
    for name, seen in metrics.items():
        mine = [Seeing(training, seen) for training in trainings]
        random = [Seeing(training, seen) for training in untrained]
        result[name] = {
            ranks: {
                **_kinds(mine, rank),
                "random_weights": _pairs(_table(random, "unit_trace", rank), SHARE),
                "to_random_weights": _across(mine, random, "unit_trace", rank),
            }
            for ranks, rank in ranks_of(trainings).items()
        }
    return result


def _kinds(sides: Sequence[Seeing], rank: int) -> dict[str, Any]:
    """Each kind by itself, and by how much unit traces are above the others."""
    tables = {kind: _table(sides, kind, rank) for kind in kinds_of([s.training for s in sides])}
    unit = tables["unit_trace"]
    return {
        **{kind: _pairs(table, SHARE) for kind, table in tables.items()},
        "unit_trace_less": {
            kind: _pairs(unit - table) for kind, table in tables.items() if kind != "unit_trace"
        },
    }


def between(
    groups: Sequence[Sequence[Training]], metrics: Mapping[str, Seen]
) -> dict[str, Any] | None:
    """Agreement between trainings of different networks, pair of networks by pair of networks.

    Args:
        groups: trainings of one network each.
        metrics: in what to compare.

    Returns:
        For each metric, number of directions and kind as in ``within``, one figure for each pair of
        networks in the order (0, 1), (0, 2), …, (1, 2), …; None for less than two networks.
    """
    if len(groups) < 2:
        return None
    result: dict[str, Any] = {}
    for name, seen in metrics.items():
        sides = [[Seeing(training, seen) for training in group] for group in groups]
        result[name] = {
            ranks: {
                kind: [
                    _across(first, second, kind, rank)
                    for i, first in enumerate(sides)
                    for second in sides[i + 1 :]
                ]
                for kind in kinds_of(groups[0])
            }
            for ranks, rank in ranks_of(groups[0]).items()
        }
    return result


def kinds_of(trainings: Sequence[Training]) -> tuple[str, ...]:
    """The kinds of spaces that there are."""
    smoothed = bool(trainings[0].amounts.smoothed)
    return tuple(kind for kind in KINDS if smoothed or kind != "smoothed")


def ranks_of(trainings: Sequence[Training]) -> dict[str, int]:
    """How many directions are compared, by name."""
    rank = trainings[0].rank
    return {"leading": 1} if rank == 1 else {"leading": 1, "all": rank}


def _table(sides: Sequence[Seeing], kind: str, rank: int) -> Tensor:
    """Agreement of each with each other, (T, T, 1 + draws)."""
    if not sides:
        return torch.zeros(0, 0, 1)
    count, figures = len(sides), 1 + sides[0].training.amounts.draws
    table = torch.ones(count, count, figures, dtype=torch.float64)
    for i, j in combinations(range(count), 2):
        table[i, j] = table[j, i] = sides[i].agreement(sides[j], kind, rank)
    return table


def _pairs(table: Tensor, limits: Range | None = None) -> Summary | None:
    return over_pairs(table, limits) if len(table) > 1 else None


def _across(
    first: Sequence[Seeing], second: Sequence[Seeing], kind: str, rank: int
) -> Summary | None:
    if not first or not second:
        return None
    rows = [[mine.agreement(theirs, kind, rank) for theirs in second] for mine in first]
    return across(torch.stack([torch.stack(row) for row in rows]), SHARE)
