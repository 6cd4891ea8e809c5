"""Pools the eigenspaces of one epoch after another, over ranks, shards and sessions."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from ignite.engine import Engine
from torch import Tensor, nn

from monai_ifim.core import PooledEigenspace, Space, network_name
from monai_ifim.core.eigenspace import Eigenspace
from monai_ifim.data.provenance import ModelName
from monai_ifim.data.run_folder.done import Source
from monai_ifim.data.run_folder.part import Block
from monai_ifim.data.run_pooled.files import (
    check_pooled,
    remove_whole,
    with_count,
)
from monai_ifim.data.run_pooled.grid import GRID, affine_texts
from monai_ifim.data.run_pooled.parts import (
    RUN,
    Names,
    PartText,
    joined_parts,
    part_of_session,
    remove_parts,
    write_part,
)
from monai_ifim.data.run_table.writer import TableWriter
from monai_ifim.distributed import Ranks
from monai_ifim.handlers.observer import Observer
from monai_ifim.handlers.pooling.choices import IFIMPooling, file_of_space
from monai_ifim.handlers.pooling.drift import METRIC, Drift
from monai_ifim.handlers.pooling.earlier import EarlierParts
from monai_ifim.handlers.pooling.target import Target
from monai_ifim.messages import is_failure, printable, reason
from monai_ifim.outputs import BatchOutputs

logger = logging.getLogger(__name__)

_LONGEST = 200  # characters of a perturbation in the file
PERIOD = 300.0  # seconds between two writings of what is pooled, for a process that is killed
# Who has begun last on an engine: metrics have one place there.
_AT_WORK: WeakKeyDictionary[Engine, PooledEpochs] = WeakKeyDictionary()


class _Told(NamedTuple):
    """What a rank has come to."""

    own: PooledEigenspace | None
    names: Names  # of the images that are pooled
    images: int  # those without a result included
    files: set[str]  # theirs
    problem: str  # why it has pooled nothing; empty where it has


def observers_of(
    pooled: IFIMPooling | str | os.PathLike[str] | None,
    table: TableWriter,
    network: Callable[[Engine], nn.Module],
    model_name: ModelName,
    space: Space = None,
) -> list[Observer]:
    """Who pools the images of a handler.

    Args:
        pooled: choices, or the name of the file; None and "" for nobody.
        table: of the handler.
        network: that of an engine.
        model_name: knows its digest.
        space: in which the handler's components are taken, whose file must stay.

    Returns:
        One observer, or none.

    Raises:
        TypeError: something else. Errors of ``IFIMPooling``.
        ValueError: the file's folder cannot be written, the file is one that is read or one of
            others, or batches that are handed out to workers.
    """
    if pooled is None or pooled == "":
        return []
    if isinstance(pooled, str | os.PathLike):
        pooled = IFIMPooling(pooled)
    if not isinstance(pooled, IFIMPooling):
        raise TypeError(
            f"expected pooled as the name of a file or as IFIMPooling, got {type(pooled).__name__};"
            " ifim_pooled.safetensors is a good one"
        )
    if isinstance(table.part, Block):
        raise ValueError(
            f"expected a whole run or a shard to pool, got {table.part.name}; leave out pooled, or "
            "run the list in shards"
        )
    folder = None if table.path is None else table.path.parent
    path, read = pooled.path(folder), [pooled.reference_file, file_of_space(space)]
    target = None if path is None else Target(path, table, filter(None, read))
    return [PooledEpochs(pooled, table, network, model_name, target)]


class PooledEpochs(Observer):
    """Pools what an engine's handler computes.

    Args:
        choices: of what is pooled.
        table: of the handler.
        network: that of an engine.
        model_name: knows its digest.
        target: where it is written; None for nowhere.
    """

    keeps_spaces = True

    def __init__(
        self,
        choices: IFIMPooling,
        table: TableWriter,
        network: Callable[[Engine], nn.Module],
        model_name: ModelName,
        target: Target | None,
    ) -> None:
        self._choices, self._table, self._target = choices, table, target
        self._network, self._model_name = network, model_name
        self._drift = Drift(choices)
        self._clear()

    def _clear(self) -> None:
        self._pool = self._choices.pool()
        self._about: dict[str, str] = {}
        self._shape: torch.Size | None = None
        self._names: Names = set()
        self._sources: dict[str, Source | None] = {}  # of their files
        self._earlier = EarlierParts()
        self._places: Counter[str] = Counter()  # images of each file so far
        self._part: Path | None = None
        self.problem, self._done, self.note = "", True, ""
        self._written = time.monotonic()

    def begin(self, engine: Engine) -> None:
        """An epoch begins.

        Args:
            engine: that runs it.

        Raises:
            ValueError: other sessions or shards of the run have pooled in another way, or there is
                a file of others.
        """
        other = _AT_WORK.get(engine)
        if other is not None and other is not self and not other._done:
            logger.warning(
                "several handlers pool on one engine: its metrics %s... and state.ifim_pooled are "
                "those of the last one",
                METRIC,
            )
        _AT_WORK[engine] = self
        self._clear()
        self._done = False
        for name in [name for name in engine.state.metrics if name.startswith(METRIC)]:
            del engine.state.metrics[name]  # of another epoch
        engine.state.ifim_pooled = None
        network = self._network(engine)
        name = network_name(network, self._model_name.digest(network))
        self._about = {"network": name, "epoch": str(engine.state.epoch)}
        if self._table.folder is not None:
            self._about[RUN] = self._table.folder.run
        if self._target is not None:
            self._target.begin(engine.state.epoch)
        try:
            self._look_back()
        except (OSError, ValueError, KeyError) as error:
            self._give_up(
                f"what earlier sessions have pooled cannot be read ({reason(error)}); remove that "
                "file to pool the other images"
            )
        self._earlier.check(self._choices.summing)  # before the work is done

    def _look_back(self) -> None:
        folder, target = self._table.folder, self._target
        if folder is None or target is None:
            return
        rank = Ranks("pooled").rank
        if rank == 0 and folder.part is None:
            remove_parts(folder.path, folder.run)
            if target.epochs.is_first and not self._table.earlier.lines:
                remove_whole(target.path, folder.path)
        if not target.epochs.is_first or self._table.listed is None:
            return  # nothing that could be gone on with
        self._part = part_of_session(folder.path, folder.run, folder.session, rank)
        self._earlier = EarlierParts.of(self._table, self._choices.summing)

    def batch(self, rows: Sequence[Mapping[str, Any]], outputs: BatchOutputs) -> None:
        """Add the images of a batch that have a result.

        Args:
            rows: one an image.
            outputs: with eigenspaces.
        """
        if self.problem:
            return
        try:
            self._add([str(row["file"]) for row in rows], outputs)
            if self._part is not None and time.monotonic() - self._written > PERIOD:
                self._leave_part()
        except Exception as error:  # memory, or a device: not worth the run
            self._give_up(reason(error))

    def _add(self, files: Sequence[str], outputs: BatchOutputs) -> None:
        keys = []
        for file in files:
            keys.append((file, self._places[file]))
            self._places[file] += 1
        sources = {line["row"]["file"]: line.get("source") for line in self._table.staged}
        known = self._earlier.names
        affines = affine_texts(outputs.values["ifim_trace"], len(files))
        for start, space in outputs.spaces:
            here = range(start, start + len(space.logits))
            chosen = [not is_failure(outputs.statuses[i]) and keys[i] not in known for i in here]
            own = [i for i, is_chosen in zip(here, chosen, strict=True) if is_chosen]
            if not own:
                continue
            self._check(space, files[own[0]])
            self._pool.add(space, torch.tensor(chosen), None, None)
            self._names |= {keys[i] for i in own}
            self._sources |= {files[i]: sources.get(files[i]) for i in own}
            for i in own:
                self._about.setdefault(GRID, affines[i])
                if self._about[GRID] != affines[i]:
                    self._about[GRID] = ""

    def _check(self, space: Eigenspace, file: str) -> None:
        shape = space.gradients.shape[2:]
        if self._shape is None:
            self._shape = shape
            if space.perturbation is not None:
                self._about["perturbation"] = repr(space.perturbation)[:_LONGEST]
        if shape != self._shape:
            raise ValueError(
                f"expected images of one shape, got {tuple(self._shape)} and {tuple(shape)} "
                f"({file}); resize or crop them all in the same way, or leave out pooled"
            )

    def _give_up(self, why: str) -> None:
        """Nothing is pooled in this epoch; the run goes on."""
        self.problem = f"no pooled eigenspace of this epoch: {printable(why)}"
        self._let_go()
        logger.error("%s (the run goes on)", self.problem)

    def _let_go(self) -> None:
        """The sketches' memory, which is the device's, is for other work until the next epoch."""
        self._pool = self._choices.pool()

    def _own(self) -> PooledEigenspace | None:
        """What this process has pooled, on the CPU; None for nothing."""
        if self.problem or not self._pool.count:
            return None
        space = self._pool.result()
        halves = [replace(h, **{n: _plain(v) for n, v in vars(h).items()}) for h in space.halves]
        jacobian = space.mean_jacobian
        return replace(
            space,
            halves=(halves[0], halves[1]),
            mean_jacobian=None if jacobian is None else _plain(jacobian),
            about=dict(self._about),
        )

    def _leave_part(self, own: PooledEigenspace | None = None) -> None:
        own = self._own() if own is None else own
        if own is not None and self._part is not None:
            file = str(self._choices.filename)
            text = PartText(self._names, file, self._sources, self._choices.summing)
            write_part(self._part, own, text)
        self._written = time.monotonic()

    def cut_short(self) -> None:
        """The epoch ends early: what is pooled is left for a session that goes on."""
        if self._done:
            return
        self._done = True
        try:
            self._leave_part()
        except Exception as error:  # another one ends the run
            logger.error("what is pooled so far is not written: %s", printable(reason(error)))
        self._let_go()

    def last_batch(self, engine: Engine) -> None:
        """All ranks have computed their last batch: pool over them, write, report.

        Args:
            engine: that runs the epoch; its metrics are set before the epoch is completed.
        """
        if self._done:
            return
        self._done = True
        own = self._own_part()
        self._let_go()
        table, ranks = self._table, Ranks("pooled")
        failures = getattr(engine.state.dataloader, "failures", ())
        images = table.images + len(failures)
        files = {line["row"]["file"] for line in table.lines} | {each.file for each in failures}
        told = ranks.gather([_Told(own, self._names, images, files, self.problem)])
        result: list[PooledEigenspace] = []
        self.problem, metrics = ranks.on_first(lambda: self._conclude(told, result))
        engine.state.metrics.update(metrics)
        engine.state.ifim_pooled = result[0] if result else None

    def _own_part(self) -> PooledEigenspace | None:
        """What this process has pooled; in a file as well, where a session can go on with it."""
        try:
            own = self._own()
            self._leave_part(own)
        except Exception as error:
            self._give_up(reason(error))
            return None
        return own

    def _conclude(
        self, told: Sequence[_Told], result: list[PooledEigenspace]
    ) -> tuple[str, dict[str, float]]:
        """On rank 0: why there is no pooled eigenspace, empty where there is one; and metrics."""
        problems = [each.problem for each in told if each.problem]
        if problems:
            return problems[0], {}
        try:
            space, images = self._joined(told)
            is_whole = self._table.part is None
            if not is_whole and (space is None or space.count < 2):
                return "", {}  # the other shards have more
            space = with_count(check_pooled(space), images)
            if is_whole and self._target is not None:
                written = self._target.write(space, copy=self._choices.every_epoch)
                self.note = f"pooled: {written}"
            result.append(space)
            return "", self._drift.metrics(space)
        except Exception as error:
            self._give_up(reason(error))
            return self.problem, {}

    def _joined(self, told: Sequence[_Told]) -> tuple[PooledEigenspace | None, int]:
        """The eigenspace of all ranks and sessions, and how many images there are."""
        space: PooledEigenspace | None = None
        for one in (each.own for each in told):
            if one is not None:
                space = one if space is None else space.merged(one)
        images = sum(each.images for each in told)
        if self._table.part is not None:  # who ends last merges the sessions of all shards
            return space, images
        again = set().union(*(each.files for each in told))  # with others of their batch
        images += sum(line["row"]["file"] not in again for line in self._table.earlier.lines)
        names = set().union(*(each.names for each in told))
        space, known, twice = joined_parts(self._earlier.paths, space, names)
        for path in twice:
            logger.warning("%s is left out: it shares images with what is pooled", path)
        listed = self._table.listed
        gone = (
            {file for file, _ in known} - set(listed) if listed and self._earlier.names else set()
        )
        if gone:
            logger.warning("%d pooled images are no longer in the list", len(gone))
        return space, max(images, len(listed or ()))

    def epoch(self, engine: Engine, rows: Sequence[Mapping[str, Any]]) -> None:
        """An epoch has ended.

        Args:
            engine: that ran it.
            rows: of its images.
        """
        self.last_batch(engine)  # of an epoch whose length was not known
        if self.problem:
            self._table.complaint = self._table.complaint or self.problem


def _plain(values: Tensor) -> Tensor:
    """On the CPU, in a precision that files have."""
    values = values.detach().cpu()
    return values if values.dtype == torch.float64 else values.float()
