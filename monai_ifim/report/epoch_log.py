"""What TensorBoard or MLflow show of each epoch: spectrum, traces, the most sensitive images."""

from __future__ import annotations

import heapq
import logging
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor, decollate_batch
from torch import Tensor

from monai_ifim.handlers import IFIMHandler
from monai_ifim.messages import is_failure, reason
from monai_ifim.outputs import VOLUMES
from monai_ifim.report.writers import EpochWriter, writer_of

logger = logging.getLogger(__name__)

_SPECTRUM = 10  # eigenvalues that have a curve


class IFIMEpochLog:
    """Logs each epoch of an engine that has ``IFIMHandler``.

    To TensorBoard: ``ifim_spectrum/01`` and on, the mean share of the trace in each of the first
    ten eigenvalues; ``ifim_traces``, a histogram of the traces; ``ifim_cases``, a picture of the
    most sensitive images, as ``show`` draws them. To MLflow: the same, as metrics and as pictures
    among the run's artifacts. The mean trace is a metric (``SpectrumMetric``), which MONAI's own
    handlers log.

    The pictures show what this classifier is locally sensitive to, not anatomy, a cause or a
    diagnosis. They need ``pip install 'monai_ifim[report]'`` and all volumes of the handler. Of the
    images, only those to be drawn are kept. Whatever goes wrong is a warning in the log: the engine
    goes on. In a distributed run a rank logs its own images.

    Args:
        handler: attached to the engine before this one.
        writers: a ``SummaryWriter``, MONAI's ``TensorBoardStatsHandler`` or ``MLFlowHandler``,
            Ignite's ``TensorboardLogger``, or a list of these.
        most: images to draw in each epoch; 0 for none.
        channel_names: in the order of the channels.
        global_epoch_transform: the engine's epoch to the one to log, as MONAI's handlers have it.

    Raises:
        ValueError: a writer of another kind, or a negative ``most``.

    >>> from torch.utils.tensorboard import SummaryWriter  # doctest: +SKIP
    >>> handler = IFIMHandler(volumes=("high", "orth", "sensitivity"))
    >>> handlers = [handler, IFIMEpochLog(handler, SummaryWriter("runs"))]  # doctest: +SKIP
    """

    def __init__(
        self,
        handler: IFIMHandler,
        writers: Any = (),
        *,
        most: int = 4,
        channel_names: Sequence[str] = (),
        global_epoch_transform: Callable[[int], int] = lambda epoch: epoch,
    ) -> None:
        if most < 0:
            raise ValueError(f"expected most of 0 or more images to draw, got {most}")
        self.handler, self.most = handler, most
        self.channel_names = tuple(channel_names)
        self.global_epoch_transform = global_epoch_transform
        self.writers: list[EpochWriter] = []
        for host in writers if isinstance(writers, list | tuple) else [writers]:
            writer = writer_of(host)
            if writer is None:
                raise ValueError(
                    f"expected a SummaryWriter or MONAI's TensorBoardStatsHandler or "
                    f"MLFlowHandler, got {type(host).__name__}; give one of these as writers"
                )
            self.writers.append(writer)
        self._clear()

    def adopt(self, handlers: Sequence[Any]) -> bool:
        """Log to what an engine's handlers log to, one of a kind, with pictures.

        Args:
            handlers: of the engine.

        Returns:
            Whether there is anything to log to.
        """
        found = {type(w): w for w in map(writer_of, reversed(handlers)) if w is not None}
        self.writers += [*found.values()]
        if self.writers and self.most and not self.handler.volumes:
            self.handler.volumes = VOLUMES
        return bool(self.writers)

    def attach(self, engine: Engine) -> None:
        """Register with an engine.

        Args:
            engine: that the ``IFIMHandler`` is attached to.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._guarded, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._guarded, self._log)

    def _clear(self) -> None:
        self._traces = array("d")
        self._shares = np.zeros(_SPECTRUM)
        self._counted = 0  # images whose trace is not 0
        self._cases: list[tuple[float, int, dict[str, Any]]] = []  # a heap, the least first
        self._warned = False

    def _guarded(self, engine: Engine, function: Callable[[Engine], None]) -> None:
        try:
            function(engine)
        except Exception as error:
            if not self._warned:
                logger.warning("the epoch is not logged in full: %s", reason(error))
            self._warned = True

    def _collect(self, engine: Engine) -> None:
        rows = [line["row"] for line in self.handler.table.staged]
        images: list[Any] | None = None
        for i, row in enumerate(rows):
            if is_failure(row["status"]):
                continue
            trace = float(row["trace"])
            self._traces.append(trace)
            if trace > 0:
                self._counted += 1
                values = [row.get(f"eigenvalue_{k + 1}") for k in range(_SPECTRUM)]
                self._shares += [(value or 0) / trace for value in values]
            full = len(self._cases) >= self.most
            if self.most and not (full and trace <= self._cases[0][0]):
                images = _images_of(engine) if images is None else images
                self._keep(trace, row, images[i] if len(images) == len(rows) else {})

    def _keep(self, trace: float, row: Mapping[str, Any], image: Mapping[str, Any]) -> None:
        if not all(f"ifim_{name}" in image for name in VOLUMES):
            return
        found = {name: image[f"ifim_{name}"].detach().cpu() for name in VOLUMES}
        entry = (trace, -len(self._traces), {"row": row, **found})
        put = heapq.heappush if len(self._cases) < self.most else heapq.heappushpop
        put(self._cases, entry)

    def _log(self, engine: Engine) -> None:
        epoch = self.global_epoch_transform(engine.state.epoch)
        if not self._traces:
            return
        shares = [s for s in (self._shares / max(self._counted, 1)).tolist() if s > 0]
        for writer in self.writers:
            writer.spectrum(shares, epoch)
            writer.traces(self._traces, epoch)
        cases, self._cases = sorted(self._cases, key=lambda entry: (-entry[0], -entry[1])), []
        if cases and self.writers:
            self._draw([entry for *_, entry in cases], epoch)

    def _draw(self, entries: Sequence[Mapping[str, Any]], epoch: int) -> None:
        from monai_ifim.report.cases import cases_figure

        drawn = [_case(entry, self.channel_names) for entry in entries]
        title = f"Epoch {epoch}, the most sensitive {len(drawn)} of {len(self._traces)} images."
        for writer in self.writers:  # each may close its figure
            writer.cases(cases_figure(drawn, title=title), epoch)


def _images_of(engine: Any) -> list[Any]:
    """A dictionary of each image, whether the host has taken its batch apart or not."""
    output = engine.state.output
    if isinstance(output, list) and output and "ifim_trace" in output[0]:
        return output
    values = output if isinstance(output, Mapping) else getattr(engine.state, "ifim", {})
    own = {name: value for name, value in values.items() if name.startswith("ifim_")}
    return list(decollate_batch(own)) if own else []


def _case(entry: Mapping[str, Any], channel_names: Sequence[str]) -> Any:
    from monai_ifim.report.cases import Case
    from monai_ifim.report.cases.folder import PICTURES, numbers_of, texts_of

    row, high = texts_of(entry["row"]), entry["high"]
    tracked = isinstance(high, MetaTensor)
    return Case(
        name=row["file"],
        high=_volume(high),
        orth=_volume(entry["orth"]),
        affine=torch.as_tensor(high.affine).double().numpy() if tracked else np.eye(4),
        sensitivity=_volume(entry["sensitivity"]),
        numbers=numbers_of(row),
        picture=row["file"].lower().endswith(PICTURES),
        channel_names=channel_names,
    )


def _volume(values: Tensor) -> np.ndarray:
    """(C, X, Y, Z)."""
    plain = values.as_subclass(Tensor)
    plain = plain if plain.dtype == torch.float64 else plain.float()
    return plain.reshape(*plain.shape, *[1] * (4 - plain.ndim)).numpy()
