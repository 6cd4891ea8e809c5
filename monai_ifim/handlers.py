"""An Ignite handler that adds the iFIM components to an evaluator's output."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.data import MetaTensor, decollate_batch
from monai.data.utils import collate_meta_tensor_fn
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys
from torch import Tensor, nn

from monai_ifim.core import (
    Eigenspace,
    EigenspaceOptions,
    Likelihood,
    OutputTransform,
    as_likelihood,
    at_rest,
    decompose,
    kept_forward,
    run_forward,
    unwrap,
)
from monai_ifim.core.checks import not_finite
from monai_ifim.data.tables import Row, check_table, write_table
from monai_ifim.distributed import Ranks
from monai_ifim.messages import reason
from monai_ifim.outputs import check_volumes, components, summaries

FAILED = "failed:"
_NUMBERS = itertools.count()


class IFIMHandler:
    """Adds ``ifim_*`` keys to ``engine.state.output`` and writes one table row per image.

    On a MONAI evaluator it works at FORWARD_COMPLETED, before decollation, so that
    postprocessing, metrics and savers see the keys. With ``IFIMInferer`` as the evaluator's
    inferer it uses that forward pass; otherwise, and whenever sharing would give wrong gradients
    (autocast, train mode), it runs one of its own. An engine that never fires FORWARD_COMPLETED
    (plain Ignite, a custom ``iteration_update``) is served at ITERATION_COMPLETED; the values
    are then in ``engine.state.ifim`` too, whatever the engine's output is.

    An image without a result (NaN logits, a file that ``FaultTolerantDataLoader`` could not load)
    gets a row with the reason and costs no other image its result.

    In a distributed run every rank needs the handler; rank 0 writes the table of all. When a rank
    fails, the others end too, at their next batch, and the table holds what all have done.

    Args:
        network: the classifier; the engine's own ``network`` by default.
        likelihood: see ``eigenspace``.
        rank: see ``eigenspace``.
        energy: see ``eigenspace``.
        method: see ``eigenspace``.
        tolerance: see ``eigenspace``.
        output_transform: see ``eigenspace``.
        vjp_chunk: see ``eigenspace``.
        offload: see ``eigenspace``.
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
    """

    def __init__(
        self,
        network: nn.Module | None = None,
        *,
        likelihood: str | Likelihood = "categorical",
        rank: int | None = None,
        energy: float | None = None,
        method: str = "auto",
        tolerance: float | None = None,
        output_transform: OutputTransform | None = None,
        vjp_chunk: int | str | None = "auto",
        offload: bool = False,
        volumes: Sequence[str] = ("high", "orth"),
        batch_transform: Callable[[Any], Tensor] | None = None,
        postprocessing: Callable[[dict[str, Any]], Any] | None = None,
        output_dir: str | os.PathLike[str] | None = None,
        filename: str = "ifim.csv",
        metrics: Mapping[str, Metric] | None = None,
        fail_at_end: bool = False,
    ) -> None:
        self.network = network
        self.likelihood = as_likelihood(likelihood)
        self.options = EigenspaceOptions(
            likelihood=likelihood,
            rank=rank,
            energy=energy,
            method=method,
            tolerance=tolerance,
            vjp_chunk=vjp_chunk,
            offload=offload,
        )
        self.output_transform = output_transform
        self.volumes = check_volumes(volumes)
        self.batch_transform = _images_of_batch if batch_transform is None else batch_transform
        self.postprocessing = postprocessing
        self.path = None if output_dir is None else Path(output_dir) / filename
        if self.path is not None:
            check_table(self.path)
        self.metrics = {} if metrics is None else dict(metrics)
        self.fail_at_end = fail_at_end
        self.logger = logging.getLogger(__name__)
        self._rows: list[Row] = []
        self._complaint: str | None = None
        self._served = False
        self._finished = False
        # The same on every rank, because all of them make the same handlers in the same order.
        self._number, self._epochs = next(_NUMBERS), 0
        self._ranks: Ranks | None = None  # of the epoch that is under way

    def attach(self, engine: Engine) -> None:
        """Register with an engine.

        Args:
            engine: a MONAI evaluator or trainer, or any Ignite engine.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._with_ranks, Ranks.look)
        # MONAI's engines attach their handlers before they have their network.
        if callable(getattr(engine, "prepare_batch", None)):
            engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._serve_monai)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._serve_others)
        engine.add_event_handler(Events.DATALOADER_STOP_ITERATION, self._stop_early)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._with_ranks, Ranks.meet, "last batch")
        # First: metrics, attached before, gather the ranks, and wait there for one that failed.
        ends = engine._event_handlers[Events.EPOCH_COMPLETED]
        ends.insert(0, ends.pop())
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)
        engine.add_event_handler(Events.COMPLETED, self._complain)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._save_rows)
        for name, metric in self.metrics.items():
            metric.attach(engine, name)

    def _start(self, engine: Engine) -> None:
        self._rows, self._complaint, self._served = [], None, False
        self._finished = False
        self._ranks = self._next_ranks()
        if self.path is not None:  # now, not when all the work is done
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ValueError(
                    f"expected an output folder that can be written, got {self.path.parent} "
                    f"({error}); choose another output_dir"
                ) from error

    def _next_ranks(self) -> Ranks:
        self._epochs += 1
        return Ranks(f"{self._number}.{self._epochs}")

    def _with_ranks(self, engine: Engine, act: Callable[..., None], *arguments: str) -> None:
        if self._ranks is not None:
            act(self._ranks, *arguments)

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
        with at_rest(network, images.device):
            if kept is None:
                repeat = _inference(engine, network)
                forward = run_forward(repeat, images, output_transform=self.output_transform)
            else:
                forward = kept_forward(
                    *kept,
                    output_transform=self.output_transform,
                    network=_inference(engine, network),
                )
            space = decompose(forward, self.options)
        output.update(self._report(space, images))
        self._served = True

    def _serve_others(self, engine: Any) -> None:
        """ITERATION_COMPLETED of an engine that did not fire FORWARD_COMPLETED."""
        if self._served:
            self._served = False
            return
        network = self._network(engine)
        images = self.batch_transform(engine.state.batch)
        parameter = next(network.parameters(), images)
        images = images.to(parameter.device)
        with at_rest(network, images.device):
            forward = run_forward(network, images, output_transform=self.output_transform)
            space = decompose(forward, self.options)
        report = self._report(space, images)
        engine.state.ifim = report
        output = engine.state.output
        if isinstance(output, dict):
            output.update(report)
        elif isinstance(output, list) and all(isinstance(item, dict) for item in output):
            for item, values in zip(output, decollate_batch(report), strict=True):
                item.update(values)

    def _network(self, engine: Any) -> nn.Module:
        network = getattr(engine, "network", None) if self.network is None else self.network
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"expected an engine with a network, got {type(engine).__name__} without one; "
                "pass IFIMHandler(network=...)"
            )
        return unwrap(network)

    def _report(self, space: Eigenspace, images: Tensor) -> dict[str, Tensor]:
        """The ``ifim_*`` values of a batch with the images' metadata; one row for each image."""
        plain = images.detach().as_subclass(Tensor)
        coefficients = space.coefficients(plain)
        values = components(space, plain, self.volumes, coefficients=coefficients)
        if isinstance(images, MetaTensor):
            values = {k: MetaTensor(v).copy_meta_from(images) for k, v in values.items()}
        rows = self._batch_rows(space, images, coefficients)
        if self.postprocessing is not None:
            items = decollate_batch({CommonKeys.IMAGE: images.detach(), **values})
            for row, item in zip(rows, items, strict=True):
                self._postprocess(row, item)
        for row in rows:
            if row["status"].startswith(FAILED):
                self.logger.error("%s %s", row["file"], row["status"])
        self._rows.extend(rows)
        return values

    def _postprocess(self, row: Row, item: dict[str, Any]) -> None:
        if row["status"].startswith(FAILED):
            return
        try:
            self.postprocessing(item)  # type: ignore[misc]
        except Exception as error:  # a full disk, a transform that cannot be inverted
            self.logger.debug("postprocessing of %s", row["file"], exc_info=True)
            row["status"] = f"{FAILED} in postprocessing, {reason(error)}"

    def _batch_rows(self, space: Eigenspace, images: Tensor, coefficients: Tensor) -> list[Row]:
        plain = images.detach().as_subclass(Tensor)
        rows: list[Row] = []
        for file, status, numbers in zip(
            self._files(images),
            _statuses(space, plain),
            summaries(space, plain, coefficients),
            strict=True,
        ):
            row: Row = {"file": file, "status": status}
            if not status.startswith(FAILED):
                del numbers["probabilities"]  # predictions.csv has them
                eigenvalues = numbers.pop("eigenvalues")
                row |= numbers
                row |= {f"eigenvalue_{i + 1}": value for i, value in enumerate(eigenvalues)}
            rows.append(row)
        return rows

    def _files(self, images: Tensor) -> list[str]:
        if isinstance(images, MetaTensor) and images.is_batch:
            names = images.meta.get("filename_or_obj")
            if isinstance(names, list | tuple) and len(names) == len(images):
                return [str(name) for name in names]
        ranks = self._ranks
        rank = f"rank {ranks.rank} " if ranks is not None and ranks.size > 1 else ""
        return [f"{rank}image {len(self._rows) + i}" for i in range(len(images))]

    def _stop_early(self, engine: Engine) -> None:
        """The loader left out whole batches, so that it ends before the epoch's length."""
        if getattr(engine.state.dataloader, "skipped", 0):
            engine.terminate_epoch()

    def _finish(self, engine: Engine) -> None:
        """Gather the rows of all ranks and write the table on rank 0."""
        failures = getattr(engine.state.dataloader, "failures", ())
        rows = self._rows + [{"file": f.file, "status": f"{FAILED} {f.reason}"} for f in failures]
        ranks = self._ranks or self._next_ranks()
        ranks.meet("table")  # other handlers come between the last batch and this
        rows = ranks.gather(rows)
        self._finished, self._ranks = True, None
        self._complaint = ranks.on_first(lambda: self._conclude(rows))
        if self._complaint is not None:
            self.logger.error(self._complaint)

    def _conclude(self, rows: list[Row]) -> str | None:
        """Write the table of all rows; what there is to complain about."""
        rows.sort(key=lambda row: row["file"])
        if self.path is not None:
            write_table(rows, self.path)
        failed = [row for row in rows if row["status"].startswith(FAILED)]
        if not failed:
            return None
        return (
            f"{len(failed)} of {len(rows)} images have no result; first {failed[0]['file']}: "
            f"{failed[0]['status']}; all are listed in {self.path or 'the log'}"
        )

    def _save_rows(self, engine: Engine, error: BaseException) -> None:
        """An error ends the run: what is done so far is not lost, and the batch is named."""
        if not self._finished:
            ranks = self._ranks or self._next_ranks()
            try:
                files = self._files(self.batch_transform(engine.state.batch))
            except (TypeError, AttributeError, KeyError):
                files = []  # the error came before there was a batch
            self._finished, self._ranks = True, None
            done = {row["file"] for row in self._rows}
            text = f"{FAILED} the run ended here, {reason(error)}"
            ended = [{"file": file, "status": text} for file in files if file not in done]
            parts = ranks.leave(self._rows + ended, reason(error))
            if parts is not None:  # one rank writes for all
                rows = [row for part in parts.values() for row in part]
                if ranks.size > 1 and not ended:
                    rows.append({"file": f"rank {ranks.rank}", "status": text})
                text = f"{FAILED} the run ended here, before this rank could hand in its rows"
                absent = set(range(ranks.size)) - set(parts)
                rows += [{"file": f"rank {rank}", "status": text} for rank in absent]
                try:
                    if self.path is not None:
                        write_table(sorted(rows, key=lambda row: row["file"]), self.path)
                finally:
                    ranks.saved()
        # Ignite takes an error that somebody handles for settled.
        raise error

    def _complain(self, engine: Engine) -> None:
        if self.fail_at_end and self._complaint is not None:
            raise RuntimeError(self._complaint)


def _inference(engine: Any, network: nn.Module) -> Callable[[Tensor], Any]:
    """The engine's inference of its present batch, on other images."""

    @cache
    def further() -> tuple[Sequence[Any], Mapping[str, Any]]:
        batch = engine.prepare_batch(
            engine.state.batch, engine.state.device, engine.non_blocking, **engine.to_kwargs
        )
        return batch[2:] if len(batch) == 4 else ((), {})

    return lambda x: engine.inferer(x, network, *further()[0], **further()[1])


def _statuses(space: Eigenspace, images: Tensor) -> list[str]:
    """One sentence for each image: ok, or why there is no result."""
    bad_image, bad_logits, bad = (not_finite(v) for v in (images, space.logits, space.trace))
    statuses = []
    for i in range(len(images)):
        if bad_image[i]:
            statuses.append(f"{FAILED} the preprocessed image holds NaN or infinity")
        elif bad_logits[i]:
            statuses.append(f"{FAILED} the logits hold NaN or infinity")
        elif bad[i]:
            statuses.append(f"{FAILED} the gradients of the logits hold NaN or infinity")
        elif space.trace[i] == 0:
            statuses.append("ok, but the prediction does not react to the image at all")
        else:
            statuses.append("ok")
    return statuses


def _images_of_batch(batch: Any) -> Tensor:
    """Images of a batch from a plain Ignite engine."""
    images = batch.get(CommonKeys.IMAGE) if isinstance(batch, dict) else batch
    if isinstance(batch, list) and batch and isinstance(batch[0], dict):
        items = [item[CommonKeys.IMAGE] for item in batch]
        # torch.stack would give every image the metadata of the first one.
        tracked = all(isinstance(item, MetaTensor) for item in items)
        images = collate_meta_tensor_fn(items) if tracked else torch.stack(items)
    elif isinstance(images, list | tuple) and images:
        images = images[0]
    if not isinstance(images, Tensor):
        raise TypeError(
            f"expected a batch with the images as batch['image'] or batch[0], got "
            f"{type(batch).__name__}; pass IFIMHandler(batch_transform=...)"
        )
    return images
