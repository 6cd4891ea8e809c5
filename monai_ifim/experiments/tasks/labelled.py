"""Labelled images to train on and to test on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from monai_ifim.experiments.steps import digest
from monai_ifim.experiments.tasks.signal import SignalTask


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, C, *S) in float32 and their classes (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def digest(self) -> str:
        """Short name of the images and labels, for keys of results."""
        return digest(self.images, self.labels)


@dataclass(frozen=True)
class Bar:
    """What a network must reach to count in a claim, stated before it was trained.

    Attributes:
        least: mean over trainings.
        source: where that comes from.
        score: what ``least`` is of, ``auc`` or ``accuracy``.
    """

    least: float
    source: str
    score: Literal["auc", "accuracy"] = "auc"

    def described(self) -> dict[str, Any]:
        """As results have it.

        Returns:
            The least score under its name, and the source.

        >>> Bar(0.9, "a paper").described()
        {'auc': 0.9, 'source': 'a paper'}
        """
        return {self.score: self.least, "source": self.source}


@dataclass(frozen=True, eq=False)
class Task:
    """Images to train on and to test on.

    Attributes:
        name: in ``TASKS``.
        classes: their names.
        source: where the images come from, and their licence.
        train: to train on.
        test: to test on; disjoint from the others.
        signal: of a controlled task, its templates and ideal decisions.
        known_answer: ``exact`` where the ideal observer's template is known, ``reference`` where
            only the best linear one is, None for clinical tasks.
        bar: what a network must reach; None where none was stated.
    """

    name: str
    classes: tuple[str, ...]
    source: str
    train: Split
    test: Split
    signal: SignalTask | None = None
    known_answer: str | None = None
    bar: Bar | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (C, *S) of one image."""
        return tuple(self.train.images.shape[1:])

    @property
    def templates(self) -> Tensor:
        """Templates of the (ideal or best linear) observer, (1, K - 1, 1, *S) in float64.

        Raises:
            ValueError: a clinical task.
        """
        return self.known_signal.templates[None, :, None]

    @property
    def known_signal(self) -> SignalTask:
        """The signals and the background of a controlled task.

        Raises:
            ValueError: a clinical task.
        """
        if self.signal is None:
            raise ValueError(
                f"expected a controlled task, got {self.name}, whose answer is unknown"
            )
        return self.signal

    def digest(self) -> str:
        """Short name of the images and labels, for keys of results."""
        splits = (self.train, self.test)
        return digest(*(tensor for split in splits for tensor in (split.images, split.labels)))


def balanced(split: Split, count: int) -> Split:
    """The first images, evenly from every class as far as they go.

    Args:
        split: to choose from.
        count: how many at the most.

    Returns:
        Those images, in their order.
    """
    chosen = balanced_indices(split.labels, count)
    return Split(split.images[chosen], split.labels[chosen])


def balanced_indices(labels: Tensor, count: int) -> Tensor:
    """Positions of the first images, evenly from every class as far as they go.

    Args:
        labels: (N,), the class of each image.
        count: how many at the most.

    Returns:
        At most ``count`` positions, rising.

    >>> balanced_indices(torch.tensor([0, 0, 0, 1]), 2)
    tensor([0, 3])
    """
    order = torch.arange(len(labels))
    turns = torch.zeros_like(order)
    for label in labels.unique():
        members = labels == label
        turns[members] = torch.arange(int(members.sum()))
    return torch.argsort(turns * len(labels) + order)[:count].sort().values
