"""The postprocessing of a batch's images, beside the next batches where that helps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from monai.utils.enums import CommonKeys
from torch import Tensor, nn

from monai_ifim.data.batches import postprocessing_jobs
from monai_ifim.data.provenance import ModelName
from monai_ifim.data.run_table.writer_thread import WriterThread, Written, at_once

# Smaller images are written in less time than two threads of Python take from each other.
LARGE = 2**17


class Postprocessing:
    """What a handler does with each image's dictionary.

    Args:
        function: of one image's dictionary, None for nothing. One that has an attribute
            ``in_background`` that is true is called in a thread of its own where images are large.
        model_name: names the network.
    """

    def __init__(
        self, function: Callable[[dict[str, Any]], Any] | None, model_name: ModelName
    ) -> None:
        self.function = function
        self._model_name = model_name
        self._seen: Counter[Any] = Counter()  # images of each file in this epoch
        self._thread = WriterThread()

    def begin(self) -> None:
        """An epoch begins."""
        self._seen.clear()

    def of_batch(
        self,
        rows: Sequence[dict[str, Any]],
        images: Tensor,
        values: dict[str, Tensor],
        files: Sequence[str | None],
        network: nn.Module,
        *,
        wait: bool,
    ) -> list[Written]:
        """Postprocess the images of a batch one by one.

        Args:
            rows: one an image; their statuses may change until the images are written.
            images: (B, C, *S).
            values: ``ifim_*`` of the batch.
            files: of the images, None where there is none.
            network: that made them.
            wait: until they are written.

        Returns:
            What becomes of each image; empty where nothing is done with them.

        Raises:
            OSError: the disk is full or has become read-only.
        """
        if self.function is None:
            return []
        batch = {CommonKeys.IMAGE: images.detach(), **values}
        beside = not wait and self._is_worth_it(images)
        if beside:  # the host may change its own meanwhile
            batch = {name: value.clone() for name, value in batch.items()}
        model = self._model_name(network)
        jobs = postprocessing_jobs(self.function, rows, batch, files, self._seen, model)
        do: Callable[[Callable[[], list[Path]]], Written]
        do = self._thread.submit if beside else at_once
        return [do(job) for job in jobs]

    def close(self, *, discard: bool = False) -> None:
        """End the thread.

        Args:
            discard: leave out what it has not begun.
        """
        self._thread.close(discard=discard)

    def _is_worth_it(self, images: Tensor) -> bool:
        return bool(getattr(self.function, "in_background", False)) and images[0].numel() >= LARGE
