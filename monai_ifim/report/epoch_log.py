"""What TensorBoard or MLflow show of each epoch: spectrum, traces, the most sensitive images."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor, decollate_batch
from torch import Tensor

from monai_ifim.distributed import Ranks
from monai_ifim.handlers import IFIMHandler
from monai_ifim.handlers.observer import Observer
from monai_ifim.messages import is_failure, printable, reason
from monai_ifim.outputs import VOLUMES, BatchOutputs
from monai_ifim.report.notebook import check_matplotlib
from monai_ifim.report.writers import EpochWriter, writer_of

logger = logging.getLogger(__name__)

_SPECTRUM = 10  # eigenvalues that have a curve


class IFIMEpochLog(Observer):
    """Logs each epoch of an engine that has ``IFIMHandler``.

    To TensorBoard: ``ifim_spectrum/01`` and on, the mean share of the trace in each of the first
    ten eigenvalues; ``ifim_traces``, a histogram of the traces; ``ifim_cases``, a picture of the
    most sensitive images, as ``show`` draws them. To MLflow: the same, as metrics and as pictures
    among the run's artifacts. The mean trace is a metric (``SpectrumMetric``), which MONAI's own
    handlers log.

    The pictures show what this classifier is locally sensitive to, not anatomy, a cause or a
    diagnosis. They need ``pip install 'monai_ifim[report]'`` and all volumes of the handler. Of the
    images, only those to be drawn are kept. What a writer refuses is a warning in the log: the
    others and the engine go on. In a distributed run rank 0 logs the numbers of all images, and
    pictures of its own; after a resume, numbers of all and pictures of those that were not done
    before. The titles say so.

    Args:
        handler: attached to the same engine.
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
            self._add(writer)
        self._warned: set[str] = set()
        self._clear()

    def adopt(self, handlers: Sequence[Any]) -> bool:
        """Log to what an engine's handlers log to, one of a kind, with pictures.

        Args:
            handlers: of the engine.

        Returns:
            Whether there is anything to log to.
        """
        found = {type(w): w for w in map(writer_of, reversed(handlers)) if w is not None}
        for writer in found.values():
            self._add(writer)
        if self.writers and self.most and not self.handler.volumes:
            self._turn_pictures_on()
        return bool(self.writers)

    def _turn_pictures_on(self) -> None:
        """The handler forms all volumes, unless nothing could draw them."""
        try:
            check_matplotlib()
        except ModuleNotFoundError as error:
            self._warn(f"no pictures of the most sensitive images: {error}")
            self.most = 0
        else:
            self.handler.volumes = VOLUMES

    def _add(self, writer: EpochWriter) -> None:
        """A SummaryWriter and a handler that holds it are one."""
        if writer not in self.writers:
            self.writers.append(writer)

    def attach(self, engine: Engine) -> None:
        """Register with an engine, before its handler or after it; a second time changes nothing.

        In a distributed run only rank 0 logs; the others need no writers.

        Args:
            engine: that the ``IFIMHandler`` is, or will be, attached to.

        Raises:
            ValueError: there is nothing to log to.
        """
        if Ranks("epoch log").rank > 0:
            return  # rank 0 has the rows of all; volumes kept here would never be drawn
        if not self.writers:
            raise ValueError(
                "expected something to log to, got no writers; give a SummaryWriter, or MONAI's "
                "TensorBoardStatsHandler or MLFlowHandler"
            )
        if self not in self.handler.observers:
            self.handler.observers.append(self)
        if not engine.has_event_handler(self._begin, Events.EPOCH_STARTED):
            engine.add_event_handler(Events.EPOCH_STARTED, self._begin)

    def detach(self, engine: Engine) -> None:
        """Take back what ``attach`` did, between two runs of the engine; else nothing happens.

        Args:
            engine: that the log is attached to.
        """
        if engine.has_event_handler(self._begin, Events.EPOCH_STARTED):
            engine.remove_event_handler(self._begin, Events.EPOCH_STARTED)
        if self in self.handler.observers:
            self.handler.observers.remove(self)
        self._clear()

    def _begin(self, engine: Engine) -> None:
        attached = any(
            getattr(function, "__self__", None) is self.handler
            for function, *_ in engine._event_handlers[Events.EPOCH_STARTED]
        )
        if not attached:
            raise ValueError(
                "expected an engine with the IFIMHandler that is logged, got one without it; "
                "attach the handler to this engine, too, or detach the log from it"
            )
        self._clear()

    def _clear(self) -> None:
        self._seen = 0
        self._cases: list[tuple[float, int, dict[str, Any]]] = []  # a heap, the least first

    def batch(self, rows: Sequence[Mapping[str, Any]], outputs: BatchOutputs) -> None:
        """Keep the images to be drawn.

        Args:
            rows: one an image.
            outputs: of the batch.
        """
        if not self.most:
            return
        values = outputs.values
        missing = [name for name in VOLUMES if f"ifim_{name}" not in values]
        if missing:
            self._warn(
                f"no pictures of the most sensitive images: expected the volumes "
                f"{', '.join(VOLUMES)}, got no {', '.join(missing)}; pass volumes={VOLUMES} to "
                "IFIMHandler, or most=0 to IFIMEpochLog"
            )
        for i, row in enumerate(rows):
            self._seen += 1
            if missing or is_failure(row["status"]):
                continue
            try:
                self._keep(float(row["trace"]), row, values, i)
            except Exception as error:  # memory, or a device
                self._warn(f"no picture of {row['file']}: {reason(error)}")

    def _keep(
        self, trace: float, row: Mapping[str, Any], values: Mapping[str, Tensor], index: int
    ) -> None:
        full = len(self._cases) >= self.most
        if full and trace <= self._cases[0][0]:
            return
        found = {name: _one(values[f"ifim_{name}"], index) for name in VOLUMES}
        put = heapq.heappushpop if full else heapq.heappush
        put(self._cases, (trace, -self._seen, {"row": row, **found}))

    def epoch(self, engine: Engine, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log an epoch.

        Args:
            engine: that ran it.
            rows: of all its images; of a rank other than the first none, and nothing is logged.
        """
        epoch = self.global_epoch_transform(engine.state.epoch)
        good = [row for row in rows if not is_failure(row["status"])]
        if not good:
            self._clear()
            return
        traces = [float(row["trace"]) for row in good]
        shares = _mean_shares(good)
        kept = sorted(self._cases, key=lambda entry: (-entry[0], -entry[1]))
        seen, cases = self._seen, [c for *_, c in kept if not is_failure(c["row"]["status"])]
        self._clear()
        for writer in self.writers:
            self._guarded(writer, lambda to: to.spectrum(shares, epoch))
            self._guarded(writer, lambda to: to.traces(traces, epoch))
        if cases:
            of = f"{len(good)} images" if seen >= len(rows) else f"{seen} images at hand"
            of += "" if seen >= len(rows) else f", of {len(rows)} in the epoch"
            title = f"Epoch {epoch}, the most sensitive {len(cases)} of {of}."
            for writer in self.writers:  # each may close its figure
                self._guarded(writer, lambda to: to.cases(self._figure(cases, title), epoch))

    def _guarded(self, writer: EpochWriter, write: Callable[[EpochWriter], None]) -> None:
        """One writer's error is neither the others' nor the engine's."""
        try:
            write(writer)
        except Exception as error:
            name = type(writer).__name__
            self._warn(f"{name} does not log the epoch in full: {reason(error)}")

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            logger.warning("%s", printable(text))
        self._warned.add(text)

    def _figure(self, entries: Sequence[Mapping[str, Any]], title: str) -> Any:
        check_matplotlib()
        from monai_ifim.report.cases import cases_figure

        return cases_figure([_case(entry, self.channel_names) for entry in entries], title=title)


def _mean_shares(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Mean share of the trace in the 1st, 2nd, … eigenvalue, of images with a trace."""
    total, count = np.zeros(_SPECTRUM), 0
    for row in rows:
        if (trace := float(row["trace"])) > 0:
            count += 1
            total += [float(row.get(f"eigenvalue_{k + 1}") or 0) / trace for k in range(_SPECTRUM)]
    return [share for share in (total / max(count, 1)).tolist() if share > 0]


def _one(values: Tensor, index: int) -> Tensor:
    """An image of a batch with its own metadata, on the CPU."""
    if isinstance(values, MetaTensor) and values.is_batch:
        (one,) = decollate_batch(values[index : index + 1])
        return one.detach().cpu()
    return values[index].detach().cpu().clone()


def _case(entry: Mapping[str, Any], channel_names: Sequence[str]) -> Any:
    from monai_ifim.report.cases import Case
    from monai_ifim.report.cases.folder import PICTURES, numbers_of, texts_of

    row, high = texts_of(entry["row"]), entry["high"]
    tracked = isinstance(high, MetaTensor)
    return Case(
        name=row["file"],
        high=_volume(high),
        orth=_volume(entry["orth"]),
        affine=torch.as_tensor(high.affine).double().numpy() if tracked else None,
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
