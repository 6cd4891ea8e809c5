"""What is told of each batch and of each epoch's end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ignite.engine import Engine

from monai_ifim.outputs import BatchOutputs


class Observer:
    """Somebody who looks on while ``IFIMHandler`` works, whatever the engine makes of the values.

    An exception would end the run: what can go wrong is the observer's own to catch.

    Attributes:
        keeps_spaces: whether outputs are to have their eigenspaces.
        note: what the last epoch came to, in one line for a run's summary; empty for nothing.
        problem: why it has nothing of what was asked of it; empty where it has.
    """

    keeps_spaces: bool = False
    note: str = ""
    problem: str = ""

    def begin(self, engine: Engine) -> None:
        """An epoch begins, and it is known which images are left.

        Args:
            engine: that runs it.
        """

    def batch(self, rows: Sequence[Mapping[str, Any]], outputs: BatchOutputs) -> None:
        """A batch is computed.

        Args:
            rows: one an image; their statuses may still change.
            outputs: values, numbers and statuses of the batch.
        """

    def last_batch(self, engine: Engine) -> None:
        """All ranks are through their batches, and metrics are not yet asked for.

        Not told where the epoch's length was not known.

        Args:
            engine: that runs the epoch.
        """

    def epoch(self, engine: Engine, rows: Sequence[Mapping[str, Any]]) -> None:
        """An epoch has ended.

        Args:
            engine: that ran it.
            rows: of all images, those of other ranks and of earlier sessions included; on the
                other ranks of a distributed run none.
        """

    def cut_short(self) -> None:
        """The epoch ends early, by an error, a signal or the engine's termination."""


class Observers(list[Observer]):
    """All who look on, each told in turn."""

    @property
    def keep_spaces(self) -> bool:
        """Whether outputs are to have their eigenspaces."""
        return any(each.keeps_spaces for each in self)

    def begin(self, engine: Engine) -> None:
        """An epoch begins."""
        for each in self:
            each.begin(engine)

    def batch(self, rows: Sequence[Mapping[str, Any]], outputs: BatchOutputs) -> None:
        """A batch is computed."""
        for each in self:
            each.batch(rows, outputs)

    def last_batch(self, engine: Engine) -> None:
        """All ranks are through their batches."""
        for each in self:
            each.last_batch(engine)

    def epoch(self, engine: Engine, rows: Sequence[Mapping[str, Any]]) -> None:
        """An epoch has ended."""
        for each in self:
            each.epoch(engine, rows)

    def cut_short(self) -> None:
        """The epoch ends early."""
        for each in self:
            each.cut_short()
