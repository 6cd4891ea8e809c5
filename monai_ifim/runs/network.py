"""A plain PyTorch network over files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Engine
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from torch import nn

from monai_ifim.core import OptionKeywords, Space, with_option_keywords
from monai_ifim.data.batches import disk_error
from monai_ifim.data.loaders import FaultTolerantDataLoader
from monai_ifim.data.run_folder.part import Part
from monai_ifim.handlers import IFIMHandler
from monai_ifim.inferers import IFIMInferer
from monai_ifim.messages import reason
from monai_ifim.outputs import VOLUMES
from monai_ifim.questions import NuisanceColumns, Question, VerifiedFlip
from monai_ifim.runs.images import Inputs, images_of_run
from monai_ifim.runs.options import RunOptions, check_machine, device_of_process
from monai_ifim.runs.preprocessing import image_preprocessing, in_words
from monai_ifim.runs.progress import Progress, show_progress
from monai_ifim.runs.summary import RunSummary, component_notes, summary_of
from monai_ifim.runs.weights import load_weights, make_network
from monai_ifim.transforms.save import SaveComponentsd
from monai_ifim.transforms.traceable import traceable_preprocessing

if TYPE_CHECKING:
    from typing_extensions import Unpack


@with_option_keywords
def run_network(  # noqa: PLR0913 - what a bundle's configuration would say
    network: nn.Module,
    files: Inputs,
    output: str | os.PathLike[str],
    *,
    preprocessing: Callable[[Any], Any] | None = None,
    volumes: str | Sequence[str] = ("high", "orth"),
    device: str | torch.device | None = None,
    batch_size: int = 1,
    workers: int = 0,
    resume: bool = False,
    existing: str = "refuse",
    shard: str | Part | None = None,
    space: Space = None,
    questions: Sequence[Question] = (),
    progress: bool = True,
    **keywords: Unpack[OptionKeywords],
) -> RunSummary:
    """Write the components of every image in files and folders, for a plain PyTorch network.

    In ``output``: ``<name>_ifim_high.nii.gz`` and ``<name>_ifim_orth.nii.gz`` on the grid of each
    image's file, and ``ifim.csv`` with a row for each image. An image that fails, also in the
    network, gets a row with the reason; the other images are unaffected. The network is left as it
    was. Components show local sensitivity of the network, nothing else.

    Args:
        network: images (B, C, *S) to logits, (B, K) or (B, K, *S), with its weights.
        files: images, or folders that are searched for them (``find_images``).
        output: folder of the results.
        preprocessing: MONAI transforms of ``{"image": path}``, which leave the image (C, *S) under
            ``image``; ``image_preprocessing()``, which loads and does nothing more, by default.
        volumes: which of ``"high"``, ``"orth"``, ``"sensitivity"`` to write.
        device: where the network runs; where it is now by default. It is brought back at the end.
        batch_size: images in one batch; 1 for images of different sizes.
        workers: processes that load images; 0 for none beside this one.
        resume: go on with the run that ``output`` holds: what is done is not loaded again.
        existing: what happens to results of another run in ``output``: ``"refuse"`` or ``"move"``
            into a subfolder.
        shard: which part of the images to do, ``"3/100"``; see ``IFIMHandler``.
        space: a pooled eigenspace, or a file of one, in which the components are taken; ``rank``
            counts its directions then (by default the stable ones).
        questions: what else is asked of each image, for example
            ``[mi.NuisanceColumns(["rotation", "gain"])]``: further columns of the table.
        progress: show on standard error how far it is.
        keywords: the fields of ``EigenspaceOptions``, for example ``rank=5`` or
            ``likelihood="bernoulli"``.

    Returns:
        What it came to; ``print`` it.

    Raises:
        TypeError: a keyword that is no option.
        FileNotFoundError: there is no such input.
        ValueError: no image was found, an impossible option, a preprocessing that cannot be
            undone, or an output folder with results of another run.
    """
    check_machine(None if device is None else str(device), batch_size, workers)
    transform = traceable_preprocessing(
        image_preprocessing() if preprocessing is None else preprocessing
    )
    place = Path(output)
    images = images_of_run(files, place, bool(shard))
    save = SaveComponentsd(
        [f"ifim_{volume}" for volume in (*VOLUMES, "flipped")],
        place,
        transform=transform,
        data_root_dir=images.root if images.names_repeat else "",
        allow_missing_keys=True,
    )
    handler = IFIMHandler(
        volumes=volumes,
        postprocessing=save,
        output_dir=place,
        resume=resume,
        existing=existing,
        shard=shard,
        space=space,
        questions=questions,
        **keywords,
    )
    loader = FaultTolerantDataLoader(
        Dataset(images.entries(), transform), workers, batch_size=batch_size
    )
    with _on_device(network, device) as where:
        evaluator = SupervisedEvaluator(
            where, loader, network, inferer=IFIMInferer(on_error="row"), val_handlers=[handler]
        )
        _go_on(evaluator, handler)
        shown = Progress(len(images))
        if progress:
            show_progress(evaluator, shown, handler.table)
        error = ""
        try:
            evaluator.run()
        except (OSError, RuntimeError) as problem:  # the table cannot be written, for example
            error = reason(problem)
        if progress:
            shown.clear()
    notes = (
        f"network: {type(network).__name__}, {_parameters(network):,} parameters, on {where}",
        f"preprocessing: {in_words(transform)}",
        f"likelihood: {type(handler.options.family).__name__.lower()}",
        *component_notes(handler),
    )
    return summary_of(handler.table, images, notes, shown.seconds, error)


def run_named_network(
    factory: str,
    weights: str | os.PathLike[str] | None,
    arguments: Mapping[str, Any],
    files: Inputs,
    output: str | os.PathLike[str],
    preprocessing: Callable[[Any], Any],
    options: RunOptions,
) -> RunSummary:
    """``run_network`` for a network that is named on a command line.

    Args:
        factory: see ``make_network``.
        weights: see ``load_weights``; None keeps those that the factory gave.
        arguments: of the factory.
        files: images, or folders that are searched for them.
        output: folder of the results.
        preprocessing: as for ``run_network``.
        options: choices; by default a GPU where there is one.

    Returns:
        What it came to. Errors are those of ``make_network``, ``load_weights`` and
        ``run_network``.
    """
    network = make_network(factory, arguments)
    loaded = (
        "those that the factory gave, random unless it loads some"
        if weights is None
        else load_weights(network, weights)
    )
    summary = run_network(
        network,
        files,
        output,
        preprocessing=preprocessing,
        volumes=options.volumes or ("high", "orth"),
        device=device_of_process(options) or ("cuda:0" if torch.cuda.is_available() else "cpu"),
        batch_size=options.batch_size or 1,
        workers=options.workers or 0,
        resume=options.resume or False,
        existing=options.existing or "refuse",
        shard=options.shard,
        space=options.space,
        questions=_questions(options),
        likelihood=options.likelihood or "categorical",
        rank=options.rank,
        energy=options.energy,
    )
    return replace(summary, notes=(f"weights: {loaded}", *summary.notes))


def _questions(options: RunOptions) -> list[Question]:
    questions: list[Question] = []
    if options.nuisances:
        questions.append(NuisanceColumns(options.nuisances))
    if options.verify:
        questions.append(VerifiedFlip(options.verify))
    return questions


def _go_on(engine: Engine, handler: IFIMHandler) -> None:
    """Let an engine go on after an error of its network, with a row for its images."""
    process = engine._process_function

    def guarded(engine: Engine, batch: Any) -> Any:
        try:
            return process(engine, batch)
        except Exception as error:  # networks raise what they like
            if disk_error(error) is not None:
                raise
            handler.fail_batch(engine, error)
            return {}

    engine._process_function = guarded


@contextmanager
def _on_device(network: nn.Module, device: str | torch.device | None) -> Iterator[torch.device]:
    """Put a network on a device, and back at the end."""
    first = next(iter(network.parameters()), torch.zeros(0))
    own = first.device
    where = own if device is None else torch.device(device)
    if where != own:
        network.to(where)
    try:
        yield where
    finally:
        if where != own:
            network.to(own)


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
