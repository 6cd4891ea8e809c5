"""The table of a run's predictions: the probability of every class by its name."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.handlers import from_engine
from monai.utils.enums import CommonKeys
from torch import Tensor

from monai_ifim.data.run_folder.folder import add_table
from monai_ifim.data.run_table.prediction_table import JOURNALLED, Prediction, write_predictions
from monai_ifim.data.run_table.writer import active_writer
from monai_ifim.distributed import Ranks

logger = logging.getLogger(__name__)


def metadata_of_batch(batch: Any) -> list[dict[str, Any]]:
    """Metadata of the images of a decollated batch.

    Args:
        batch: one dictionary an image, each with a MetaTensor as ``image``.

    Returns:
        One dictionary an image.
    """
    return [item[CommonKeys.IMAGE].meta for item in batch]


class PredictionSaver:
    """Writes one row an image: its file, the probability of each class, the class predicted.

    In the place of MONAI's ``ClassificationSaver``, whose table has no header and where a comma in
    a file name moves the columns. The rows are sorted by file. The table is that of
    ``monai_ifim.data.tables``: UTF-8 with the very bytes of the file names, no text is a formula in
    a spreadsheet. In a distributed run rank 0 writes the rows of all ranks. Beside an
    ``IFIMHandler`` of the same folder the predictions are journalled with its rows, so that after
    ``resume`` the table holds those of all images; of a run in shards the last one writes it.

    Args:
        output_dir: where ``filename`` is written.
        filename: name of the table.
        class_names: in the order of the probabilities, for the header and the class predicted;
            numbers where their count does not fit.
        batch_transform: the images' metadata, of ``engine.state.batch``.
        output_transform: K probabilities of classes that exclude each other for each image, of
            ``engine.state.output``; by default those under ``pred``.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        filename: str = "predictions.csv",
        class_names: Sequence[str] = (),
        batch_transform: Callable[[Any], Sequence[Any]] = metadata_of_batch,
        output_transform: Callable[[Any], Sequence[Any]] | None = None,
    ) -> None:
        self.path = Path(output_dir) / filename
        self.class_names = list(class_names)
        self.batch_transform = batch_transform
        self.output_transform = output_transform or from_engine(CommonKeys.PRED)
        self._rows: list[Prediction] = []
        self._ranks: Ranks | None = None

    def attach(self, engine: Engine) -> None:
        """Register with an engine.

        Args:
            engine: a MONAI evaluator, or any Ignite engine.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _begin(self, engine: Engine) -> None:
        self._rows, self._ranks = [], Ranks.next_run("predictions")

    def _collect(self, engine: Engine) -> None:
        names = self.batch_transform(engine.state.batch)
        outputs = self.output_transform(engine.state.output)
        rows: list[Prediction] = []
        for meta, output in zip(names, outputs, strict=True):
            number = len(self._rows) + len(rows)
            file = meta.get("filename_or_obj", f"image {number}")
            rows.append((str(file), _numbers(output)))
        self._rows += rows
        writer = active_writer(self.path.parent)
        if writer is not None:
            writer.note_table(self.path.name, self.class_names)
            writer.add_to_staged(JOURNALLED, rows)

    def _finish(self, engine: Engine) -> None:
        writer = active_writer(self.path.parent)
        if writer is not None and writer.part is not None:
            return  # the last part of the run writes the table of all
        ranks = self._ranks or Ranks.next_run("predictions")
        ranks.meet("predictions")
        rows = ranks.gather(self._rows)
        ranks.on_first(lambda: self._write(rows + self._earlier(rows)))

    def _earlier(self, rows: Sequence[Prediction]) -> list[Prediction]:
        """What an earlier session of a resumed run has predicted."""
        writer, new = active_writer(self.path.parent), {file for file, _ in rows}
        lines = [] if writer is None else list(writer.earlier.lines)
        found = [line[JOURNALLED] for line in lines if JOURNALLED in line]
        if len(found) < len(lines):
            logger.warning(
                "%s lacks %d images: they were done without this saver; start anew to have all",
                self.path,
                len(lines) - len(found),
            )
        return [(file, values) for file, values in found if file not in new]

    def _write(self, rows: list[Prediction]) -> None:
        write_predictions(rows, self.class_names, self.path)
        add_table(self.path.parent, self.path.name)


def _numbers(output: Any) -> list[float]:
    """Probabilities as they are printed: 0.9 of float32 is not 0.8999999761581421."""
    values = torch.as_tensor(output).detach().as_subclass(Tensor).flatten().cpu()
    if values.dtype == torch.float64:
        return [float(value) for value in values.tolist()]
    return [float(str(value)) for value in values.float().numpy()]
