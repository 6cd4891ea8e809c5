"""One process of several that do a run together, for whatever engine hands out the work."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from monai_ifim.bundle import scripts_of
from monai_ifim.data.run_folder.part import Block
from monai_ifim.data.run_folder.part_folder import WorkerFolder
from monai_ifim.messages import is_failure
from monai_ifim.runs.bundle import notes_of, setting_up
from monai_ifim.runs.composition import compose_run, process_restored
from monai_ifim.runs.images import FoundImages
from monai_ifim.runs.options import RunOptions


@dataclass(frozen=True)
class Work:
    """What a worker needs to know, in a form that goes to another machine.

    Attributes:
        bundle: its folder.
        images: all of the run.
        output: folder of the results, on a disk that all workers share.
        options: choices.
        ids: of the configuration, with what they are set to.
        place: the working folder, from which paths of images are told.
        command: the command line of who hands out the work.
    """

    bundle: Path
    images: FoundImages
    output: Path
    options: RunOptions
    ids: Mapping[str, Any] = field(default_factory=dict)
    place: str = field(default_factory=os.getcwd)
    command: tuple[str, ...] = field(default_factory=lambda: tuple(sys.argv))


@dataclass(frozen=True)
class BlockResult:
    """What a worker came to with its batches.

    Attributes:
        done: images with a result.
        failed: images without.
        notes: on what is done, a line each.
        earlier: of the images with a result, those that were there before.
    """

    done: int
    failed: int
    notes: tuple[str, ...]
    earlier: int = 0


class Worker:
    """Does blocks of a run's batches, and journals every image.

    Made once in each process: it loads the bundle. A process that takes the place of one that
    died reads what is done, and leaves it out.

    Args:
        work: what there is to do, and how.

    Raises:
        FileNotFoundError: this machine does not have the folders.
        ValueError: the bundle cannot be composed.
    """

    def __init__(self, work: Work) -> None:
        if not os.path.isdir(work.place):
            raise FileNotFoundError(
                f"expected the folder {work.place} on {socket.gethostname()}, got none; workers "
                "need the disks of the machine that hands out the work"
            )
        os.chdir(work.place)
        name = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(2)}"
        self._block = Block(name, 0, 0)
        self._stay = ExitStack()  # the bundle's scripts can be imported later, too
        self._stay.enter_context(scripts_of(work.bundle))
        self._stay.enter_context(process_restored())
        sys.argv[:] = work.command  # run.json names it
        self._resumes = bool(work.options.resume)
        # The folder was looked at by who hands out the work.
        options = replace(work.options, resume=True, shard=self._block)
        with setting_up(work.bundle):
            self._composition = composition = compose_run(
                work.bundle, work.images, work.output, options, work.ids
            )
            composition.workflow.initialize()
            parser = composition.workflow.parser
            self._evaluator = parser.get_parsed_content("evaluator")
            self._handler = parser.get_parsed_content(composition.handler)
        # Images without a result are rows. After a run that raised, Ignite 0.5 takes the next call
        # of run for the rest of it, does nothing and says nothing.
        self._handler.fail_at_end = False

    def do(self, start: int, stop: int) -> BlockResult:
        """Do some batches.

        Args:
            start: number of the first one.
            stop: behind the last one.

        Returns:
            What it came to.

        Raises:
            Exception: one that is no image's own, of any kind; the worker is of no use after it.
        """
        self._handler.part = replace(self._block, start=start, stop=stop)
        self._evaluator.run()
        rows = self._handler.table.rows
        failed = sum(is_failure(row["status"]) for row in rows)
        notes = notes_of(self._composition, self._evaluator)
        # Without resume they are of this run, of a worker that died.
        earlier = self._handler.table.images_before if self._resumes else 0
        return BlockResult(len(rows) - failed, failed, notes, earlier)

    def close(self) -> None:
        """It has had its last block."""
        folder = self._handler.table.folder
        if isinstance(folder, WorkerFolder):
            folder.leave()
        self._stay.close()
