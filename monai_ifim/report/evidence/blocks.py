"""What the page reads from the results: several trainings of a network, or a single one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from monai_ifim.report.results.measured import (
    Result,
    above_bar,
    bar_of,
    block,
    network_name,
)

METRICS = {
    "pixels": "pixels",
    "low_pass": "low-pass, σ = 2 pixels",
    "within_class": "within-class covariance",
}
KINDS = {
    "single": "single image",
    "smoothed": "smoothed",
    "equal": "pooled, equal weights",
    "unit_trace": "pooled, unit traces",
    "mean_jacobian": "mean Jacobian",
}


@dataclass(frozen=True, eq=False)
class Block:
    """Trainings of one network with as many images.

    Attributes:
        result: the experiment.
        network: its name there.
        numbers: of the block.
    """

    result: Result
    network: str
    numbers: dict[str, Any]

    @property
    def task(self) -> str:
        """The task's short name."""
        return str(self.result["task"]["name"])

    @property
    def name(self) -> str:
        """The network's name in text."""
        return network_name(self.network)

    @property
    def label(self) -> str:
        """Task and network, for an axis."""
        return f"{self.task}, {self.name}"

    @property
    def seen(self) -> int:
        """Images seen in each training."""
        return int(self.numbers["recipe"]["images"])

    @property
    def trainings(self) -> Sequence[dict[str, Any]]:
        """One entry for each training."""
        found: list[dict[str, Any]] = self.numbers["trainings"]
        return found

    def mean(self, name: str) -> float:
        """Mean over trainings of accuracy or AUC."""
        return sum(each[name] for each in self.trainings) / len(self.trainings)

    @property
    def bar(self) -> float | None:
        """The mean AUC that it must reach to count in a finding; None where none was stated."""
        return bar_of(self.result)

    @property
    def competent(self) -> bool:
        """Whether it reaches the bar; where there is none, every network does."""
        return above_bar(self.result, self.mean("auc"))


@dataclass(frozen=True, eq=False)
class Single:
    """One training of a network.

    Attributes:
        result: the experiment.
        network: its name there.
        numbers: its blocks.
    """

    result: Result
    network: str
    numbers: dict[str, Any]

    @property
    def task(self) -> str:
        """The task's short name, or the experiment's where it has none."""
        return str(block(self.result, "task", "name") or self.result["experiment"])

    @property
    def name(self) -> str:
        """The network's name in text."""
        return network_name(self.network)

    @property
    def trainings(self) -> Sequence[dict[str, Any]]:
        """The one training."""
        return [self.numbers]

    @property
    def competent(self) -> bool:
        """Whether it reaches the bar; where there is none, every network does."""
        return above_bar(self.result, block(self.numbers, "training", "auc", "value"))


def blocks_of(results: Sequence[Result]) -> list[Block]:
    """Networks that were trained several times, a block for each recipe."""
    return list(_blocks(results))


def _blocks(results: Sequence[Result]) -> Iterator[Block]:
    for result in results:
        for name, network in result["networks"].items():
            for numbers in network.get("trainings") or []:
                yield Block(result, name, numbers)


def singles_of(results: Sequence[Result]) -> list[Single]:
    """Networks that were trained and measured once."""
    return [
        Single(result, name, network)
        for result in results
        for name, network in result["networks"].items()
        if not network.get("trainings")
    ]


def counted(blocks: Sequence[Block]) -> list[Block]:
    """The blocks that count in findings: one for each network of a task.

    Args:
        blocks: all of them.

    Returns:
        Those above the bar with two trainings or more; of several recipes the longest.
    """
    longest: dict[tuple[str, str], Block] = {}
    for each in blocks:
        if each.competent and len(each.trainings) > 1:
            key = (each.task, each.network)
            if key not in longest or each.seen > longest[key].seen:
                longest[key] = each
    return list(longest.values())
