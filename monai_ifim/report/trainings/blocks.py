"""What the page reads from the results: a block for each network and length of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_ifim.report.results.measured import Result, block, known, network_name, read_results

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
        """The task in words, without what all titles begin with."""
        title = str(self.result["title"]).removeprefix("Several trainings, ")
        return title[:1].upper() + title[1:]

    @property
    def name(self) -> str:
        """The network's name in text."""
        return network_name(self.network)

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
        found = block(self.result, "task", "bar", "auc")
        return found if known(found) else None

    @property
    def competent(self) -> bool:
        """Whether it reaches the bar; where there is none, every network does."""
        return self.bar is None or self.mean("auc") >= self.bar


def read_blocks(folder: Path) -> list[Block]:
    """All blocks below a folder.

    Args:
        folder: with one sub-folder an experiment, each with ``results.json``.

    Returns:
        In the order of experiments, networks and lengths.

    Raises:
        FileNotFoundError: no results there, or none of several trainings.
    """
    found = list(_blocks(read_results(folder)))
    if not found:
        raise FileNotFoundError(
            f"expected results of several trainings in {folder}, got none; run an experiment "
            "trainings_… of configs/experiments with this --output"
        )
    return found


def _blocks(results: list[Result]) -> Iterator[Block]:
    for result in results:
        for name, network in result["networks"].items():
            for numbers in network.get("trainings") or []:
                yield Block(result, name, numbers)
