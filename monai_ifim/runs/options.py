"""What can be chosen about a run over files, whatever the network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from monai_ifim.core import EigenspaceOptions, leading, load_pooled
from monai_ifim.data.run_folder.part import Part, shard_of
from monai_ifim.outputs import check_volumes
from monai_ifim.questions import NuisanceColumns, VerifiedFlip


@dataclass(frozen=True)
class RunOptions:
    """Choices about a run; None leaves the bundle's own.

    Attributes:
        rank: keep at most this many eigenpairs.
        energy: keep the fewest eigenpairs that reach this share of the trace.
        volumes: which of ``"high"``, ``"orth"``, ``"sensitivity"`` to write.
        likelihood: ``"categorical"`` (softmax) or ``"bernoulli"`` (sigmoids).
        device: where the network runs, ``"cpu"`` or ``"cuda:0"``.
        batch_size: images in one batch.
        workers: processes that load images; 0 for none beside the main one.
        resume: go on with the run that the output folder holds.
        existing: what happens to results of another run there: ``"refuse"`` or ``"move"``.
        shard: which part of the images to do, ``"3/100"``; see ``IFIMHandler``.
        space: a file of a pooled eigenspace in which the components are taken; ``rank`` counts its
            directions then.
        nuisances: names of ``NuisanceColumns``, for their columns in the table.
        verify: ``"ddn"`` or ``"pgd"``, the search of ``VerifiedFlip``.

    Raises:
        ValueError: an unknown name, a number out of range, or no pooled eigenspace.
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: foolbox is not installed, for ``verify``.
    """

    rank: int | None = None
    energy: float | None = None
    volumes: Sequence[str] | None = None
    likelihood: str | None = None
    device: str | None = None
    batch_size: int | None = None
    workers: int | None = None
    resume: bool | None = None
    existing: str | None = None
    shard: str | Part | None = None
    space: str | os.PathLike[str] | None = None
    nuisances: Sequence[str] | None = None
    verify: str | None = None

    def __post_init__(self) -> None:
        EigenspaceOptions(
            rank=self.rank, energy=self.energy, likelihood=self.likelihood or "categorical"
        )
        if self.volumes is not None:
            check_volumes(self.volumes)
        shard_of(self.shard)
        leading(load_pooled(self.space), self.rank)
        if self.nuisances is not None:
            NuisanceColumns(self.nuisances)
        if self.verify is not None:
            VerifiedFlip(self.verify)
        check_machine(self.device, self.batch_size, self.workers)


def device_of_process(
    options: RunOptions, environment: Mapping[str, str] = os.environ
) -> str | None:
    """The device that was chosen; for a shard on a machine with several GPUs one of its own.

    Args:
        options: of the run.
        environment: where torchrun says which of this machine's processes this is.

    Returns:
        Its name; None for the default.

    >>> device_of_process(RunOptions(device="cpu", shard="0/2"), {"LOCAL_RANK": "1"})
    'cpu'
    """
    local, count = environment.get("LOCAL_RANK"), torch.cuda.device_count()
    if options.device is not None or not options.shard or local is None or count < 2:
        return options.device
    return f"cuda:{int(local) % count}"


def check_machine(device: str | None, batch_size: int | None, workers: int | None) -> None:
    """Refuse impossible choices about where a run runs; None is none.

    Args:
        device: its name.
        batch_size: images in one batch.
        workers: processes that load images.

    Raises:
        ValueError: one of them is impossible.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"expected a batch of at least 1 image, got {batch_size}; give 1 or more")
    if workers is not None and workers < 0:
        raise ValueError(f"expected 0 or more workers, got {workers}; give 0 for none")
    if device is not None:
        check_device(device)


def check_device(name: str) -> None:
    """Refuse a device that is not there.

    Args:
        name: of the device.

    Raises:
        ValueError: torch does not know it, or this machine does not have it.

    >>> check_device("gpu")
    Traceback (most recent call last):
        ...
    ValueError: expected a device such as cpu or cuda:0, got 'gpu'; monai-ifim doctor lists those \
of this machine
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        known = str(error).startswith("Expected one of") or "Invalid device string" in str(error)
        raise ValueError(
            f"expected a device {'such as cpu or cuda:0' if known else 'of this machine'}, got "
            f"{name!r}; monai-ifim doctor lists those of this machine"
        ) from error
