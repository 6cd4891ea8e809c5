"""All tasks by name: with a known answer, and clinical ones.

A new task is one more entry in ``TASKS``, a configuration in ``configs/experiments`` and a row of
the table in ``docs/experiments.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from monai_ifim.experiments.tasks.blobs import signal_task
from monai_ifim.experiments.tasks.clinical import CLINICAL
from monai_ifim.experiments.tasks.labelled import Split, Task
from monai_ifim.experiments.tasks.lumpy import lumpy_task
from monai_ifim.experiments.tasks.signal import SignalTask


class TaskSource(Protocol):
    """Where the images of a task come from."""

    @property
    def known_answer(self) -> str | None:
        """``exact`` or ``reference`` where an observer's template is known, None where not."""

    def load(self, name: str, train: int, test: int, data: Path | None, size: int | None) -> Task:
        """The task of this name with at most so many images.

        Raises:
            MissingDataError: images that are not there.
        """


@dataclass(frozen=True)
class ControlledSource:
    """Images of a signal task, drawn on the spot.

    Attributes:
        build: gives the signal task of a name.
        variant: that name.
        background: in words.
        known_answer: ``exact`` where the ideal observer's template is known, ``reference`` where
            only the best linear one is.
    """

    build: Callable[[str], SignalTask]
    variant: str
    background: str = "Gaussian"
    known_answer: str = "exact"

    def load(self, name: str, train: int, test: int, data: Path | None, size: int | None) -> Task:
        """Draw the images.

        Args:
            name: of the task.
            train: training images.
            test: test images.
            data: of no use here.
            size: of no use here.

        Returns:
            The task, the same at every call.
        """
        signal = self.build(self.variant)
        strength = ", ".join(f"{value:.3g}" for value in signal.detectability.tolist())
        return Task(
            name=name,
            classes=("no signal", *(f"signal {i}" for i in range(1, signal.classes))),
            source=f"known signals in a {self.background} background, made on the spot, "
            f"d' = {strength}",
            train=_drawn(signal, train, seed=1),
            test=_drawn(signal, test, seed=2),
            signal=signal,
            known_answer=self.known_answer,
        )


TASKS: dict[str, TaskSource] = {
    "signal_2d": ControlledSource(signal_task, "2d_small"),
    "signal_2d_four": ControlledSource(signal_task, "2d_four"),
    "signal_3d": ControlledSource(signal_task, "3d"),
    "lumpy_2d": ControlledSource(lumpy_task, "2d_small", "lumpy", "reference"),
    **CLINICAL,
}


def load_task(
    name: str, *, train: int, test: int, data: Path | None = None, size: int | None = None
) -> Task:
    """A task with at most so many images.

    Clinical images are scaled to [0, 1] each. Where there are more than asked for, those taken
    are spread evenly.

    Args:
        name: in ``TASKS``.
        train: training images.
        test: test images.
        data: folder of the clinical data sets; ``docs/experiments.md`` says what it holds.
        size: resize clinical images to this many pixels along every axis.

    Returns:
        The task.

    Raises:
        MissingDataError: clinical images that are not there.
        ValueError: unknown name, or fewer than one image.
    """
    if name not in TASKS:
        raise ValueError(f"expected a task in {list(TASKS)}, got {name!r}; choose one of them")
    if train < 1 or test < 1:
        raise ValueError(
            f"expected at least one image each, got train {train} and test {test}; raise them"
        )
    return TASKS[name].load(name, train, test, data, size)


def _drawn(signal: SignalTask, count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % signal.classes
    # In blocks: the noise of a large set in complex numbers would need several times its memory.
    blocks = [signal.sample(block, generator) for block in labels.split(500)]
    return Split(torch.cat(blocks), labels)
