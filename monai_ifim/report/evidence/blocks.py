"""What the page reads from the results: several trainings of a network, or a single one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from monai_ifim.report.results.measured import (
    Bar,
    Result,
    Standing,
    bar_of,
    block,
    network_name,
    standing,
    standing_once,
)
from monai_ifim.report.results.numbers import listed
from monai_ifim.report.results.style import STYLES

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
COUNTED = "Above the bar, which was stated before; these count in the findings"
_STANDINGS = {
    "below": "Below the bar; these count in no finding",
    "no bar": "No bar was stated for the task; these count in no finding",
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
    def strength(self) -> float:
        """What the signals were multiplied by at the start of each training; 1: nothing."""
        return float(self.numbers["recipe"].get("strength", 1))

    @property
    def max_pool(self) -> bool:
        """Whether the max-pooling after the first convolution is there, if any is usual."""
        return bool(self.numbers.get("max_pool", True))

    @property
    def trainings(self) -> Sequence[dict[str, Any]]:
        """One entry for each training."""
        found: list[dict[str, Any]] = self.numbers["trainings"]
        return found

    def mean(self, name: str) -> float:
        """Mean over trainings of accuracy or AUC."""
        return sum(each[name] for each in self.trainings) / len(self.trainings)

    @property
    def bar(self) -> Bar | None:
        """What its mean must reach to count in a finding; None where none was stated."""
        return bar_of(self.result)

    @property
    def standing(self) -> Standing:
        """Of its means over trainings, against the bar."""
        return standing(self.result, {name: self.mean(name) for name in ("auc", "accuracy")})

    @property
    def competent(self) -> bool:
        """Whether it reaches the bar and is more accurate than the largest class."""
        return self.standing == "above"


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
    def standing(self) -> Standing:
        """Against the bar."""
        return standing_once(self.result, self.numbers)

    @property
    def competent(self) -> bool:
        """Whether it reaches the bar and is more accurate than the largest class."""
        return self.standing == "above"


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
        Of each network the longest training, whatever came of it, where there are two or more of
        it and they are above the bar.
    """
    longest: dict[tuple[str, str], Block] = {}
    for each in blocks:
        key = (each.task, each.network)
        if key not in longest or _length(each) > _length(longest[key]):
            longest[key] = each
    return [each for each in longest.values() if each.competent and len(each.trainings) > 1]


def _length(each: Block) -> tuple[int, int]:
    return each.seen, len(each.trainings)


def groups(blocks: Sequence[Block]) -> dict[str, list[Block]]:
    """All blocks, by whether they count in findings and why not.

    Args:
        blocks: all of them.

    Returns:
        First those that count, even where there are none; then the others that there are.
    """
    counting = counted(blocks)
    found: dict[str, list[Block]] = {COUNTED: []}
    for each in blocks:
        words = COUNTED if each in counting else _reason(each)
        found.setdefault(words, []).append(each)
    return found


def untried(blocks: Sequence[Block], names: Iterable[str]) -> dict[str, list[str]]:
    """Architectures, the largest of each kind, that were not trained several times, by task.

    Args:
        blocks: all of them.
        names: of the networks of all experiments.

    Returns:
        Names in text for each task of the blocks that lacks some.
    """
    tasks = dict.fromkeys(each.task for each in blocks)
    tried = {(each.task, each.network) for each in blocks if len(each.trainings) > 1}
    largest = _largest(names)
    chosen = [name for name in STYLES if name in largest]
    found = {
        task: [network_name(name) for name in chosen if (task, name) not in tried] for task in tasks
    }
    return {task: absent for task, absent in found.items() if absent}


def _largest(names: Iterable[str]) -> set[str]:
    """Of networks that differ in the number of layers, at the end of the name, the largest."""
    parted = {name: name.rstrip("0123456789") for name in names}
    rising = sorted(parted, key=lambda name: int(name[len(parted[name]) :] or 0))
    return set({parted[name]: name for name in rising}.values())


def other_recipes(blocks: Sequence[Block]) -> str:
    """Networks without their max-pooling, or with signals that are stronger at first.

    Args:
        blocks: all of them.

    Returns:
        What is different, network by network and task by task; empty where there are none.
    """
    found: dict[str, dict[str, None]] = {}
    for each in blocks:
        words = [
            "no max-pooling after the first convolution" if not each.max_pool else "",
            f"signals {each.strength:g} times as strong at first" if each.strength > 1 else "",
        ]
        if any(words):
            different = f"{each.name} ({', '.join(filter(None, words))})"
            found.setdefault(each.task, {})[different] = None
    return "; ".join(f"`{task}`: {listed(list(words))}" for task, words in found.items())


def _reason(each: Block) -> str:
    """Why a block counts in no finding."""
    if each.standing != "above":
        return _STANDINGS[each.standing]
    if len(each.trainings) < 2:
        return "Trained once; these count in no finding"
    return "Above the bar, but not the longest training of the network; these count in no finding"
