"""A part of a run: the batches that one of several processes does."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Protocol

_SHARD = re.compile(r"(\d+)/(\d+)")
_FROM_ENVIRONMENT = re.compile(r"auto(?:/(\d+))?")


class Part(Protocol):
    """The batches that one of several processes does, which share a list and an output folder.

    Attributes:
        name: for messages and for the part's lock: no two processes at work have the same.
        of: into how many parts the list is cut; None where it is handed out piece by piece.
    """

    @property
    def name(self) -> str:
        """For messages and for the part's lock."""

    @property
    def of(self) -> int | None:
        """Into how many parts the list is cut."""

    def batches(self, total: int) -> Container[int]:
        """Which batches of the whole list.

        Args:
            total: number of batches.

        Returns:
            Their numbers, from 0.
        """


@dataclass(frozen=True)
class Shard:
    """Every ``of``-th batch of the list, so that every shard has early and late images.

    Attributes:
        index: which, from 0, as SLURM arrays from 0, Kubernetes and torchrun count.
        of: how many shards there are.

    Raises:
        ValueError: there is no such shard.

    >>> list(Shard(1, 3).batches(8))
    [1, 4, 7]
    """

    index: int
    of: int

    def __post_init__(self) -> None:
        if self.of < 1:
            raise ValueError(f"expected 1 or more shards, got {self.of}; give 1/2 for example")
        if not self.index < self.of:
            raise ValueError(
                f"expected a shard from 0/{self.of} to {self.of - 1}/{self.of}, got "
                f"{self.index}/{self.of}; shards count from 0"
            )

    @property
    def name(self) -> str:
        """``shard 3/100``."""
        return f"shard {self.index}/{self.of}"

    def batches(self, total: int) -> range:
        """Which batches of the whole list.

        Args:
            total: number of batches.

        Returns:
            Their numbers, from 0.
        """
        return range(self.index, total, self.of)


@dataclass(frozen=True)
class Block:
    """Batches that a worker was handed.

    Attributes:
        worker: name of the worker.
        start: first batch.
        stop: behind the last one.
    """

    worker: str
    start: int
    stop: int
    of: None = None

    @property
    def name(self) -> str:
        """That of the worker, which does one block at a time."""
        return f"worker {self.worker}"

    def batches(self, total: int) -> range:
        """Which batches of the whole list.

        Args:
            total: number of batches.

        Returns:
            Their numbers, from 0.
        """
        return range(self.start, min(self.stop, total))


def shard_of(text: str | Part | None, environment: Mapping[str, str] = os.environ) -> Part | None:
    """The shard that a configuration or a command line names.

    Args:
        text: ``"3/100"``; ``"auto"`` for that of a task of a SLURM array or of a process of
            torchrun; ``"auto/100"`` for that of a task or of a pod of a Kubernetes Indexed Job,
            of 100. A part is given back; None and ``""`` are none.
        environment: where the task says which it is.

    Returns:
        The shard; None for the whole.

    Raises:
        ValueError: another text, a shard that there is not, or an environment that does not say.

    >>> shard_of("3/100")
    Shard(index=3, of=100)
    >>> shard_of("auto/100", {"JOB_COMPLETION_INDEX": "7"})
    Shard(index=7, of=100)
    """
    if text is None or not isinstance(text, str):
        return text
    if not text:
        return None
    if match := _SHARD.fullmatch(text):
        return Shard(int(match[1]), int(match[2]))
    match = _FROM_ENVIRONMENT.fullmatch(text)
    if match is None:
        raise ValueError(
            f"expected a shard as 3/100, counted from 0, or auto or auto/100, got {text!r}; give "
            "its number and how many there are"
        )
    return _of_task(None if match[1] is None else int(match[1]), environment)


def _of_task(count: int | None, environment: Mapping[str, str]) -> Shard:
    tasks = (_slurm(environment, count), _kubernetes(environment), _torchrun(environment))
    found = [task for task in tasks if task is not None]
    if len(found) != 1:
        there = " and ".join(task.variable for task in found) or "none of them"
        raise ValueError(
            "expected one of SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX and RANK of torchrun to "
            f"say which shard this is, got {there}; name it: --shard 3/100"
        )
    task = found[0]
    of = task.of if count is None else count
    if of is None:
        raise ValueError(
            f"expected the number of shards, got {task.variable}={task.index} alone; give it: "
            "--shard auto/100"
        )
    if task.of not in (None, of):
        raise ValueError(
            f"expected {of} shards, got {task.of} processes by {task.variable}; give one number"
        )
    return Shard(task.index, of)


@dataclass(frozen=True)
class _Task:
    """What the environment says.

    Attributes:
        variable: that says it.
        index: of this process.
        of: how many there are, where that is said.
    """

    variable: str
    index: int
    of: int | None = None


def _slurm(environment: Mapping[str, str], count: int | None) -> _Task | None:
    """A task of an array; without a count the array's own numbers, which need not begin at 0."""
    name = "SLURM_ARRAY_TASK_ID"
    if name not in environment:
        return None
    task = _number(environment, name)
    if count is not None or "SLURM_ARRAY_TASK_COUNT" not in environment:
        return _Task(name, task)
    start = "SLURM_ARRAY_TASK_"
    given = {f"{start}MIN": "0", f"{start}STEP": "1", **environment}
    tasks, first, step = (_number(given, f"{start}{key}") for key in ("COUNT", "MIN", "STEP"))
    last = _number({f"{start}MAX": str(first + (tasks - 1) * step), **given}, f"{start}MAX")
    if (last - first) // step + 1 != tasks:
        raise ValueError(
            f"expected a whole SLURM array, got {tasks} tasks from {first} to {last}; give the "
            "number of shards: --shard auto/100"
        )
    return _Task(name, (task - first) // step, tasks)


def _kubernetes(environment: Mapping[str, str]) -> _Task | None:
    name = "JOB_COMPLETION_INDEX"
    return _Task(name, _number(environment, name)) if name in environment else None


def _torchrun(environment: Mapping[str, str]) -> _Task | None:
    if "TORCHELASTIC_RUN_ID" not in environment:
        return None
    return _Task("RANK", _number(environment, "RANK"), _number(environment, "WORLD_SIZE"))


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        raise ValueError(
            f"expected a number as {name}, got {text!r}; name the shard: --shard 3/100"
        )
    return int(text)
