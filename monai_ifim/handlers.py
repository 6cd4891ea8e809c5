"""An Ignite handler that adds the iFIM components to an evaluator's output."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.data import decollate_batch
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import Tensor, nn

from monai_ifim.core import (
    EigenspaceOptions,
    OptionKeywords,
    chosen_options,
    unwrap,
    with_option_keywords,
)
from monai_ifim.data.batches import (
    all_listed_names,
    file_names,
    images_of_batch,
    listed_names,
    postprocess_each,
)
from monai_ifim.data.provenance import ModelName
from monai_ifim.data.table_writer import TableWriter
from monai_ifim.inferers import IFIMInferer
from monai_ifim.outputs import check_volumes, outputs_of_network

if TYPE_CHECKING:
    from typing_extensions import Unpack


class IFIMHandler:
    """Adds ``ifim_*`` keys to ``engine.state.output`` and writes one table row per image.

    On a MONAI evaluator it works at FORWARD_COMPLETED, before decollation, so that
    postprocessing, metrics and savers see the keys. With ``IFIMInferer`` as the evaluator's
    inferer it uses that forward pass; otherwise, and whenever sharing would give wrong gradients
    (autocast, train mode), it runs one of its own. An engine that never fires FORWARD_COMPLETED
    (plain Ignite, a custom ``iteration_update``) is served at ITERATION_COMPLETED; the values
    are then in ``engine.state.ifim`` too, because its output can be anything.

    An image without a result (NaN logits, a file that ``FaultTolerantDataLoader`` could not load)
    gets a row with the reason; the other images are unaffected.

    In a distributed run every rank needs the handler; rank 0 writes the table of all. When a rank
    fails, the others end too, at their next batch, and the table holds what all have done. (In the
    first epoch over a data set whose length is not known, metrics wait for a rank that fails.)

    Args:
        network: the classifier; the engine's own ``network`` by default.
        options: choices about the eigenspace as a value, instead of ``keywords``.
        volumes: which of ``"high"``, ``"orth"``, ``"sensitivity"`` to form.
        batch_transform: images (B, C, *S) of ``engine.state.batch``, for engines other than
            MONAI's; by default ``batch["image"]`` or ``batch[0]``.
        postprocessing: applied to each image's dictionary of ``image`` and ``ifim_*``, for example
            ``Compose([Invertd(...), SaveImaged(...)])``: for hosts whose own postprocessing
            cannot be extended.
        output_dir: where ``filename`` is written; no table when None.
        filename: name of the table; one that ends in ``.parquet`` needs pyarrow.
        metrics: attached together with the handler, by name, for example
            ``{"ifim_trace": SpectrumMetric("trace")}``: for hosts whose own list of metrics
            cannot be extended.
        fail_at_end: raise RuntimeError when the run is over if an image has no result, so that a
            command ends with a status other than 0.
        keywords: the fields of ``EigenspaceOptions``, for example ``rank=5`` or
            ``likelihood="bernoulli"``.

    Raises:
        TypeError: a keyword that is no option.
        ValueError: an unknown volume, or an impossible option.
    """

    @with_option_keywords
    def __init__(  # noqa: PLR0913 - a configuration needs every choice as a keyword
        self,
        network: nn.Module | None = None,
        *,
        options: EigenspaceOptions | None = None,
        volumes: str | Sequence[str] = ("high", "orth"),
        batch_transform: Callable[[Any], Tensor] | None = None,
        postprocessing: Callable[[dict[str, Any]], Any] | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        filename: str = "ifim.csv",
        metrics: Mapping[str, Metric] | None = None,
        fail_at_end: bool = False,
        **keywords: Unpack[OptionKeywords],
    ) -> None:
        self.network = network
        self.options = chosen_options(options, keywords)
        self.volumes = check_volumes(volumes)
        self.batch_transform = images_of_batch if batch_transform is None else batch_transform
        self.postprocessing = postprocessing
        self.table = TableWriter(None if output_dir is None else Path(output_dir) / filename)
        self.metrics = {} if metrics is None else dict(metrics)
        self.fail_at_end = fail_at_end
        self._served = False
        self._before = 0  # iterations before this epoch
        self._seen: Counter[Any] = Counter()  # images of each file in this epoch
        self._model_name = ModelName()

    def attach(self, engine: Engine) -> None:
        """Register with an engine.

        Args:
            engine: a MONAI evaluator or trainer, or any Ignite engine.
        """
        engine.add_event_handler(Events.STARTED, self._attach_last)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_STARTED, self._look)
        # MONAI's engines attach their handlers before they have their network.
        if callable(getattr(engine, "prepare_batch", None)):
            engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._serve_monai)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._serve_others)
        engine.add_event_handler(Events.DATALOADER_STOP_ITERATION, self._stop_early)
        engine.add_event_handler(Events.TERMINATE_SINGLE_EPOCH, self._wait_after_early_end)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)
        engine.add_event_handler(Events.COMPLETED, self._complain)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._rescue)
        for name, metric in self.metrics.items():
            metric.attach(engine, name)

    def _attach_last(self, engine: Engine) -> None:
        """STARTED: everything else is attached, and may fail at the last batch, too."""
        if not engine.has_event_handler(self._wait_after_last, Events.ITERATION_COMPLETED):
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._wait_after_last)

    def _begin(self, engine: Engine) -> None:
        self._served, self._before = False, engine.state.iteration
        self._seen.clear()
        self.table.begin()

    def _look(self, engine: Engine) -> None:
        self.table.look()

    def _serve_monai(self, engine: Any) -> None:
        """FORWARD_COMPLETED: batch and output are collated, the graph is at hand."""
        network = self._network(engine)
        output = engine.state.output
        images = output.get(CommonKeys.IMAGE)
        if images is None:
            images = self.batch_transform(engine.state.batch)
        take = getattr(getattr(engine, "inferer", None), "take", None)
        kept = None if take is None else take(images)
        if network is not unwrap(engine.network):  # the graph is of another network
            kept = None
        output.update(self._serve(engine, network, images, _inference(engine, network), kept))
        self._served = True

    def _serve_others(self, engine: Any) -> None:
        """ITERATION_COMPLETED of an engine that did not fire FORWARD_COMPLETED."""
        if self._served:
            self._served = False
            return
        network = self._network(engine)
        images = self.batch_transform(engine.state.batch)
        values = self._serve(engine, network, images.to(next(network.parameters(), images).device))
        engine.state.ifim = values
        output = engine.state.output
        if isinstance(output, dict):
            output.update(values)
        elif isinstance(output, list) and all(isinstance(item, dict) for item in output):
            for item, own in zip(output, decollate_batch(values), strict=True):
                item.update(own)

    def _serve(
        self,
        engine: Engine,
        network: nn.Module,
        images: Tensor,
        predict: Callable[[Tensor], Any] | None = None,
        kept: tuple[Tensor, Any] | None = None,
    ) -> dict[str, Tensor]:
        """The ``ifim_*`` values of a batch; its rows go to the table."""
        outputs = outputs_of_network(
            network, images, self.options, self.volumes, predict=predict, kept=kept
        )
        files = self._known_files(engine, images)
        rows = outputs.rows(self._row_names(files))
        if self.postprocessing is not None:
            batch = {CommonKeys.IMAGE: images.detach(), **outputs.values}
            model = self._model_name(network)
            postprocess_each(self.postprocessing, rows, batch, files, self._seen, model)
        self.table.add(rows)
        return outputs.values

    def _network(self, engine: Any) -> nn.Module:
        network = getattr(engine, "network", None) if self.network is None else self.network
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"expected an engine with a network, got {type(engine).__name__} without one; "
                "pass IFIMHandler(network=...)"
            )
        return unwrap(network)

    def _known_files(self, engine: Engine, images: Tensor) -> list[str | None]:
        """Of the images themselves, else, as for those of a cache, of the data list."""
        names = file_names(images)
        if names is not None:
            return list(names)
        loader, batch = engine.state.dataloader, engine.state.iteration - self._before - 1
        return listed_names(loader, batch, len(images))

    def _row_names(self, files: Sequence[str | None]) -> list[str]:
        numbers = self.table.numbered(len(files))
        return [number if f is None else f for f, number in zip(files, numbers, strict=True)]

    def _stop_early(self, engine: Engine) -> None:
        """The loader left out whole batches, so that it ends before the epoch's length."""
        if getattr(engine.state.dataloader, "skipped", 0):
            engine.terminate_epoch()

    # Metrics gather the ranks when an epoch is completed, and would wait there for one that has
    # failed. They were attached before: it takes an earlier event to be before them.

    def _wait_after_last(self, engine: Engine) -> None:
        if engine.state.iteration - self._before == engine.state.epoch_length:
            self.table.last_batch()

    def _wait_after_early_end(self, engine: Engine, iter_counter: int) -> None:
        self.table.last_batch()

    def _finish(self, engine: Engine) -> None:
        self.table.finish(getattr(engine.state.dataloader, "failures", ()))

    def _complain(self, engine: Engine) -> None:
        if self.fail_at_end and self.table.complaint is not None:
            raise RuntimeError(self.table.complaint)

    def _rescue(self, engine: Engine, error: BaseException) -> None:
        try:
            images = self.batch_transform(engine.state.batch)
            files = self._row_names(self._known_files(engine, images))
        except (TypeError, AttributeError, KeyError):
            files = []  # the error came before there was a batch
        loader = engine.state.dataloader
        self.table.rescue(files, error, getattr(loader, "failures", ()), all_listed_names(loader))
        # Ignite takes an error that somebody handles for settled.
        raise error


def _inference(engine: Any, network: nn.Module) -> Callable[[Tensor], Any]:
    """The engine's inference of its present batch, on other images."""

    @cache
    def further() -> tuple[Sequence[Any], Mapping[str, Any]]:
        batch = engine.prepare_batch(
            engine.state.batch, engine.state.device, engine.non_blocking, **engine.to_kwargs
        )
        return batch[2:] if len(batch) == 4 else ((), {})

    inferer = engine.inferer
    if isinstance(inferer, IFIMInferer):  # which would keep a graph of its own
        inferer = inferer.inferer
    return lambda x: inferer(x, network, *further()[0], **further()[1])
