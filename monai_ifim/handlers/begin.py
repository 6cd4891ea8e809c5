"""How a handler's run begins: which images there are, and which of them are left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ignite.engine import Engine

from monai_ifim.data.loading.remaining import (
    Remaining,
    check_divisible,
    image_list,
    with_remaining,
)
from monai_ifim.data.run_folder.part import Part
from monai_ifim.data.run_table.writer import TableWriter


def begin_table(
    table: TableWriter,
    engine: Engine,
    identity: Callable[[], dict[str, Any]],
    user: object,
    resume: bool,
    part: Part | None,
) -> Remaining | None:
    """Begin the table of an engine's run, and let the engine load what is left.

    Args:
        table: to begin.
        engine: whose data loader may be replaced.
        identity: what makes the results.
        user: the handler.
        resume: go on with a run.
        part: of the batches, that this process does; None for all.

    Returns:
        What decides which batches are left; None where nothing does, or another handler.

    Raises:
        ValueError: the batches cannot be divided into parts. Errors of ``TableWriter.begin``.
    """
    loader = engine.state.dataloader
    if table.folder is None:
        table.begin(identity)
        return None
    if table.epochs is not None:
        table.epochs.begin(engine.state.epoch)
    loader, remaining = with_remaining(loader, resume or part is not None)
    listed = None if table.folder.is_open else image_list(loader)
    if part is None:
        table.begin(identity, listed)
    else:
        remaining = check_divisible(loader, remaining)
        table.begin(identity, listed, remaining.names_of_part(part), remaining.plan)
    if remaining is None or not remaining.claim(user):
        return None
    remaining.on_start = table.start if loader.num_workers == 0 else None
    remaining.done, remaining.refused = table.earlier.done, table.earlier.refused
    remaining.alone, remaining.part = table.earlier.alone, part
    if table.earlier.alone:  # more batches than the loader counts; _stop_early ends them
        engine.state.epoch_length += len(table.listed or ())
    engine.state.dataloader = loader
    return remaining
