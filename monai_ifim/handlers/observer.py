"""What is told of each batch and of each epoch's end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ignite.engine import Engine

from monai_ifim.outputs import BatchOutputs


class Observer(Protocol):
    """Somebody who looks on while ``IFIMHandler`` works, whatever the engine makes of the values.

    An exception would end the run: what can go wrong is the observer's own to catch.
    """

    keeps_spaces: bool  # whether outputs are to have their eigenspaces

    def batch(self, rows: Sequence[Mapping[str, Any]], outputs: BatchOutputs) -> None:
        """A batch is computed.

        Args:
            rows: one an image; their statuses may still change.
            outputs: values, numbers and statuses of the batch.
        """

    def epoch(self, engine: Engine, rows: Sequence[Mapping[str, Any]]) -> None:
        """An epoch has ended.

        Args:
            engine: that ran it.
            rows: of all images, those of other ranks and of earlier sessions included; on the
                other ranks of a distributed run none.
        """
