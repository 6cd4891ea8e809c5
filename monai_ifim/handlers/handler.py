"""An Ignite handler that adds the iFIM components to an evaluator's output."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import Tensor, nn

from monai_ifim.core import (
    EigenspaceOptions,
    OptionKeywords,
    Space,
    chosen_options,
    taken_in,
    unwrap,
    with_option_keywords,
)
from monai_ifim.data.atomic import recorded_files
from monai_ifim.data.batches import images_of_batch, known_files, names_of_batch
from monai_ifim.data.loading.remaining import Remaining, image_list
from monai_ifim.data.provenance import ModelName
from monai_ifim.data.run_folder.part import Part, shard_of
from monai_ifim.data.run_table.writer import TableWriter
from monai_ifim.data.signals import StopSignals, status_of
from monai_ifim.handlers.begin import begin_table
from monai_ifim.handlers.computation import Computation
from monai_ifim.handlers.inference import Inference, graph_of_next, network_of
from monai_ifim.handlers.observer import Observers
from monai_ifim.handlers.order import Pair, add_handlers, put_in_order, remove_handlers
from monai_ifim.handlers.output import add_to_output
from monai_ifim.handlers.pooling import IFIMPooling, observers_of
from monai_ifim.handlers.postprocessing import Postprocessing
from monai_ifim.handlers.run_identity import run_identity
from monai_ifim.inferers import KeptGraph
from monai_ifim.messages import check_on_error, failed, reason
from monai_ifim.outputs import check_volumes
from monai_ifim.questions import Question

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

    An image without a result (NaN logits, a file that ``FaultTolerantDataLoader`` could not load,
    memory that did not suffice) gets a row with the reason; the other images are unaffected.

    ``output_dir`` belongs to one run. ``run.json`` there says which one, with which network and
    settings, and whether it is complete; each image is journalled when its volumes are there. A run
    that was killed goes on with ``resume=True``: images that are done, with source and volumes as
    they were, are not even loaded. Of several epochs each has a table, ``ifim_epoch_0003.csv``, and
    ``ifim.csv`` is the last one's. The same run in the same process (a notebook) replaces them;
    results of any other run are refused. Ctrl-C and SIGTERM wait 3 s for the batch in work.

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
            ``Compose([Invertd(...), SaveImaged(...)])``, where the host's own cannot be extended.
        output_dir: where ``filename`` is written; no table when None.
        filename: name of the table; one that ends in ``.parquet`` needs pyarrow.
        class_names: in order, for the columns ``probability_<class>``; numbers where their count
            does not fit.
        metrics: attached together with the handler, by name, for example
            ``{"ifim_trace": SpectrumMetric("trace")}``: for hosts whose own list of metrics
            cannot be extended. ``ifim_left_out`` says how many images have no result, if any.
        fail_at_end: raise RuntimeError when the run is over if an image has no result, so that a
            command ends with a status other than 0; a signal ends it without a traceback.
        on_error: when something raises for one image: ``"row"``, its components are NaN, its row
            has the reason, and the run goes on; or ``"raise"``. An error that is not the image's,
            such as options that do not fit the network, is raised either way.
        resume: go on with the run that ``output_dir`` holds, if there is one.
        existing: what happens to results of another run in ``output_dir``: ``"refuse"``, or
            ``"move"`` into a subfolder ``earlier-<date>``.
        shard: of processes that share the list and ``output_dir``, which is this: ``"3/100"`` from
            0 does every 100th batch, ``"auto"`` and ``"auto/100"`` ask a SLURM array, a Kubernetes
            Indexed Job or torchrun. The last one to end writes the tables of all.
        bundle: digest of the bundle, for ``run.json``; another one is another run.
        space: a pooled eigenspace, or a file of one, in which the components are taken: in its
            ``rank`` leading directions, or the stable ones. All other numbers stay the image's.
        questions: what else is asked of each image, such as ``NuisanceColumns``: further columns.
        inputs: F of these inputs of the network together, each with its scale (``JointInputs``),
            ``{"image": 1.0, "age": 12.0}``: also ``ifim_high_age``, ``input_share_age``, …
        pooled: a file in ``output_dir`` for the eigenspace pooled over each epoch's images, such as
            ``"ifim_pooled.safetensors"``, or ``IFIMPooling`` with choices; None for none.
        keywords: the fields of ``EigenspaceOptions``, for example ``rank=5`` or
            ``likelihood="bernoulli"``.

    Raises:
        TypeError: a keyword that is no option.
        ValueError: an unknown volume, an impossible option, or an output folder that cannot be
            written or holds results of another run.
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
        class_names: Sequence[str] = (),
        metrics: Mapping[str, Metric] | None = None,
        fail_at_end: bool = False,
        on_error: str = "row",
        resume: bool = False,
        existing: str = "refuse",
        shard: str | Part | None = None,
        bundle: str | None = None,
        space: Space = None,
        questions: Sequence[Question] = (),
        inputs: Mapping[Any, Any] | None = None,
        pooled: IFIMPooling | str | os.PathLike[str] | None = None,
        **keywords: Unpack[OptionKeywords],
    ) -> None:
        self.network, self.postprocessing = network, postprocessing
        self.space, self.options = taken_in(space, chosen_options(options, keywords))
        self.volumes = check_volumes(volumes)
        self.batch_transform = images_of_batch if batch_transform is None else batch_transform
        path = None if output_dir is None else Path(output_dir) / filename
        self.part = shard_of(shard)
        self.table = TableWriter(path, resume=resume, existing=existing, part=self.part)
        self.metrics, self.class_names = dict(metrics or {}), list(class_names)
        self.fail_at_end, self.on_error = fail_at_end, check_on_error(on_error)
        self._computation = Computation(on_error, self.space, questions, inputs, pools=bool(pooled))
        self.resume, self.bundle = resume, bundle
        self._served, self._before = False, 0  # iterations before this epoch
        self._model_name = ModelName(self.space)
        self._each = Postprocessing(postprocessing, self._model_name)
        who = observers_of(pooled, self.table, self._network, self._model_name, space)
        self.observers = Observers(who)
        self._graph: KeptGraph | None = None  # of the iteration in work
        self._remaining: Remaining | None = None
        self._recording, self._files = ExitStack(), list[Path]()  # finished since the batch began
        self._signals = StopSignals()

    def attach(self, engine: Engine) -> None:
        """Register with an engine.

        Args:
            engine: a MONAI evaluator or trainer, or any Ignite engine.
        """
        add_handlers(engine, self._handlers(engine))
        for name, metric in self.metrics.items():
            metric.attach(engine, name)

    def detach(self, engine: Engine) -> None:
        """Take back what ``attach`` did, between two runs of the engine.

        Args:
            engine: that the handler is attached to.

        Raises:
            ValueError: it is not.
        """
        if not engine.has_event_handler(self._begin, Events.EPOCH_STARTED):
            raise ValueError(
                "expected an engine that this handler is attached to, got another; detach it once"
            )
        remove_handlers(engine, [*self._handlers(engine), *self._last_handlers()])
        for metric in self.metrics.values():
            metric.detach(engine)

    def _handlers(self, engine: Engine) -> list[Pair]:
        # MONAI's engines attach their handlers before they have their network.
        monai = callable(getattr(engine, "prepare_batch", None))
        return [
            (Events.STARTED, self._attach_last),
            (Events.EPOCH_STARTED, self._begin),
            (Events.ITERATION_STARTED, self._look),
            *[(IterationEvents.FORWARD_COMPLETED, self._serve_monai)] * monai,
            (Events.ITERATION_COMPLETED, self._serve_others),
            (Events.DATALOADER_STOP_ITERATION, self._stop_early),
            (Events.TERMINATE_SINGLE_EPOCH, self._wait_after_early_end),
            (Events.EPOCH_COMPLETED, self._finish),
            (Events.TERMINATE, self._terminate),
            (Events.INTERRUPT, self._signals.release),
            (Events.COMPLETED, self._complain),
            (Events.EXCEPTION_RAISED, self._rescue),
            (Events.EXCEPTION_RAISED, self._raise),
        ]

    def _last_handlers(self) -> list[Pair]:
        return [(Events.ITERATION_COMPLETED, f) for f in (self._commit, self._wait_after_last)]

    def _attach_last(self, engine: Engine) -> None:
        """STARTED: everything else is attached, and may fail at the last batch, too."""
        add_handlers(engine, self._last_handlers())
        put_in_order(engine, self._rescue, self._raise)

    def _begin(self, engine: Engine) -> None:
        self._served, self._before = False, engine.state.iteration
        self._computation.begin()
        self._each.begin()
        if self.table.folder is not None:
            self._signals.catch()
        self._remaining = begin_table(
            self.table, engine, lambda: self._identity(engine), self, self.resume, self.part
        )
        self.observers.begin(engine)

    def _identity(self, engine: Engine) -> dict[str, Any]:
        network = self._network(engine)
        choices = {"volumes": sorted(self.volumes), "postprocessing": self.postprocessing}
        options = {**vars(self.options), **choices, **self._computation.settings}
        return run_identity(network, self._model_name.digest(network), options, engine, self.bundle)

    def _look(self, engine: Engine) -> None:
        self._signals.check()
        self._graph = graph_of_next(engine, self.network)
        loader = engine.state.dataloader
        self.table.look(getattr(loader, "failures", ()))
        if self.table.folder is None:
            return
        self._recording.close()
        self._files = self._recording.enter_context(recorded_files())
        if self._remaining is None or self._remaining.on_start is None:
            self.table.start(names_of_batch(engine.state.batch, loader, self._number(engine)))

    def _serve_monai(self, engine: Any) -> None:
        """FORWARD_COMPLETED: batch and output are collated, the graph is at hand."""
        network = self._network(engine)
        output = engine.state.output
        images = output.get(CommonKeys.IMAGE)
        if images is None:
            images = self.batch_transform(engine.state.batch)
        graph, self._graph = self._graph, None
        kept = None if graph is None else graph.take(images)
        inference = Inference(engine, network, images)
        output.update(self._serve(engine, network, images, inference, kept))
        self._served = True

    def _serve_others(self, engine: Any) -> None:
        """ITERATION_COMPLETED of an engine that did not fire FORWARD_COMPLETED."""
        served, self._served, self._graph = self._served, False, None
        if served:
            return
        network = self._network(engine)
        images = self.batch_transform(engine.state.batch)
        values = self._serve(engine, network, images.to(next(network.parameters(), images).device))
        engine.state.ifim = values
        add_to_output(engine.state.output, values)

    def _serve(
        self,
        engine: Engine,
        network: nn.Module,
        images: Tensor,
        predict: Inference | None = None,
        kept: tuple[Tensor, Any] | None = None,
    ) -> dict[str, Tensor]:
        """The ``ifim_*`` values of a batch; its rows go to the table."""
        outputs = self._computation.of_batch(
            network,
            images,
            predict,
            kept,
            engine.state.batch,
            options=self.options,
            volumes=self.volumes,
            keep_spaces=self.observers.keep_spaces,
        )
        files = self._files_of(engine, images)
        failures = getattr(getattr(engine, "inferer", None), "failures", None)
        outputs = outputs if failures is None else outputs.without(failures(images))
        rows = outputs.rows(self._row_names(files), self.class_names)
        # Without results of this process to lose, where one before it was ended by an image.
        wait = self.table.folder is None or bool(self.table.earlier.alone)
        written = self._each.of_batch(rows, images, outputs.values, files, network, wait=wait)
        self.table.stage(rows, written)
        self.observers.batch(rows, outputs)
        return outputs.values

    def fail_batch(self, engine: Engine, error: Exception) -> None:
        """Give the images of the batch in work rows with an error of the host's, which goes on.

        Args:
            engine: that the handler is attached to.
            error: what went wrong.
        """
        names = self._row_names(self._files_of(engine, self.batch_transform(engine.state.batch)))
        self.table.stage([{"file": name, "status": failed(reason(error))} for name in names])
        self._served = True

    def _network(self, engine: Any) -> nn.Module:
        return network_of(engine) if self.network is None else unwrap(self.network)

    def _number(self, engine: Engine) -> int:
        return engine.state.iteration - self._before - 1

    def _files_of(self, engine: Engine, images: Tensor) -> list[str | None]:
        return known_files(images, engine.state.dataloader, self._number(engine))

    def _row_names(self, files: Sequence[str | None]) -> list[str]:
        numbers = self.table.numbered(len(files))
        return [number if f is None else f for f, number in zip(files, numbers, strict=True)]

    def _commit(self, engine: Engine) -> None:
        """ITERATION_COMPLETED, last: what the host writes of this batch is written."""
        self._recording.close()
        self.table.commit(self._files)
        self._files = []
        self._signals.check()

    def _stop_early(self, engine: Engine) -> None:
        """The loader left out whole batches, so that it ends before the epoch's length."""
        left_out = self._remaining is not None and self._remaining.left_out
        if getattr(engine.state.dataloader, "skipped", 0) or left_out or self.table.earlier.alone:
            engine.terminate_epoch()

    # Metrics gather the ranks when an epoch is completed, and would wait there for one that has
    # failed. They were attached before: it takes an earlier event to be before them.

    def _wait_after_last(self, engine: Engine) -> None:
        if engine.state.iteration - self._before == engine.state.epoch_length:
            self._wait_after_early_end(engine)

    def _wait_after_early_end(self, engine: Engine, iter_counter: int = 0) -> None:
        self.table.last_batch()
        self.observers.last_batch(engine)

    def _finish(self, engine: Engine) -> None:
        self.table.finish(getattr(engine.state.dataloader, "failures", ()))
        self._release()
        self.observers.epoch(engine, self.table.rows)
        if self.table.left_out or "ifim_left_out" in engine.state.metrics:
            engine.state.metrics["ifim_left_out"] = self.table.left_out
        self._signals.release()

    def _terminate(self, engine: Engine) -> None:
        if self.table.under_way:  # in the middle of an epoch
            self._end_early(engine, (), InterruptedError("the engine was terminated"))

    def _complain(self, engine: Engine) -> None:
        if self.fail_at_end and self.table.complaint is not None:
            raise RuntimeError(self.table.complaint)

    def _release(self) -> None:
        self._each.close()
        self._recording.close()
        if self._remaining is not None:
            self._remaining.release(self)
        self._remaining = self._graph = None

    def _end_early(self, engine: Engine, files: Sequence[str], error: BaseException) -> None:
        with self._signals.ending():
            loader = engine.state.dataloader
            names = self.table.listed or getattr(image_list(loader), "names", None) or ()
            self._each.close(discard=True)
            self.observers.cut_short()
            self.table.rescue(files, error, getattr(loader, "failures", ()), names)
            self._release()

    def _rescue(self, engine: Engine, error: BaseException) -> None:
        why = self._signals.reason_for(error)
        try:
            images = self.batch_transform(engine.state.batch)
            files = self._row_names(self._files_of(engine, images))
        except Exception:
            files = []  # the error came before there was a batch
        self._end_early(engine, files, why)
        if self.fail_at_end and (status := status_of(why)) is not None:
            raise SystemExit(status) from None  # a command, which says what happened in its log
        if why is not error:
            raise why

    def _raise(self, engine: Engine, error: BaseException) -> None:
        raise error  # Ignite takes one that somebody handles for settled
