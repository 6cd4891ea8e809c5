"""A bundle over files: its own inference, with the components, on the images that are named."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai_ifim.bundle import scripts_of
from monai_ifim.messages import own_sentence, reason
from monai_ifim.runs.composition import Composition, compose_run, process_restored
from monai_ifim.runs.images import FoundImages, Inputs, images_of_run
from monai_ifim.runs.options import RunOptions
from monai_ifim.runs.preprocessing import in_words
from monai_ifim.runs.progress import Progress, show_progress
from monai_ifim.runs.summary import RunSummary, component_notes, summary_of

logger = logging.getLogger(__name__)


def run_bundle(
    folder: str | os.PathLike[str],
    inputs: Inputs,
    output: str | os.PathLike[str],
    options: RunOptions | None = None,
    ids: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> RunSummary:
    """Run a bundle's inference with the components on files, each image on its own.

    What is written is what ``python -m monai.bundle run`` writes with the bundle's configuration
    and the overlay that fits it; a bundle that has the handler itself needs none. The bundle's own
    data list is replaced by the images that are found.

    Args:
        folder: of the bundle.
        inputs: images, or folders that are searched for them.
        output: folder of the results.
        options: choices; None leaves the bundle's own.
        ids: of the configuration or the overlay, with what they are set to.
        progress: show on standard error how far it is.

    Returns:
        What it came to. An error of the network, which ends the run, is told there.

    Raises:
        FileNotFoundError: no bundle there, or no such input.
        ValueError: no image was found, the bundle cannot be composed with the overlay, or an id
            is not there.
    """
    bundle, output = Path(folder), Path(output)
    options = options or RunOptions()
    images = images_of_run(inputs, output, bool(options.shard))
    with scripts_of(Path(os.path.abspath(bundle))), process_restored():
        with setting_up(bundle):
            composition = compose_run(bundle, images, output, options, ids or {})
            composition.workflow.initialize()
            evaluator = composition.workflow.parser.get_parsed_content("evaluator")
        shown = Progress(len(images)) if progress else None
        return run_composition(composition, evaluator, images, shown)


@contextmanager
def setting_up(bundle: Path) -> Iterator[None]:
    """One sentence for what goes wrong while a bundle is set up.

    Args:
        bundle: its folder.

    Raises:
        ValueError: its code raised something. Errors that are a sentence of this package stay.
    """
    try:
        yield
    except Exception as error:  # the code of the bundle's author raises what it likes
        sentence = own_sentence(error)  # meant to be read as it is
        if sentence == str(error):
            raise
        if sentence:
            raise ValueError(sentence) from error
        raise ValueError(
            f"expected a bundle that can be set up, got {reason(error)}; check "
            f"{bundle / 'configs'}, or run it again with --debug"
        ) from error


def run_composition(
    composition: Composition,
    evaluator: Any,
    images: FoundImages,
    progress: Progress | None = None,
) -> RunSummary:
    """Run what was composed.

    Args:
        composition: with images and output set.
        evaluator: that it has made.
        images: of the run.
        progress: shows how far it is, or None.

    Returns:
        What it came to.
    """
    handler = composition.workflow.parser.get_parsed_content(composition.handler)
    table = handler.table
    if progress is not None:
        show_progress(evaluator, progress, table)
    start, error = time.monotonic(), _error_of(composition)
    if progress is not None:
        progress.clear()
    seconds = time.monotonic() - start
    summary = summary_of(table, images, notes_of(composition, evaluator), seconds, error)
    problems = [summary.incomplete, *(each.problem for each in handler.observers)]
    return replace(summary, incomplete="; ".join(filter(None, problems)))


def _error_of(composition: Composition) -> str:
    """Run; why it ended early, empty where it did not."""
    handler = composition.workflow.parser.get_parsed_content(composition.handler)
    try:
        composition.workflow.run()
        composition.workflow.finalize()
    except Exception as error:  # networks and handlers raise what they like
        # Images without a result are a RuntimeError at the very end, and no early one.
        if handler.table.complaint is None:
            logger.debug("the run ended early", exc_info=True)
            return reason(error)
    return ""


def notes_of(composition: Composition, evaluator: Any) -> tuple[str, ...]:
    """What is done, a line each.

    Args:
        composition: that was set up.
        evaluator: that it has made.

    Returns:
        Bundle and overlay, preprocessing, likelihood.
    """
    parser = composition.workflow.parser
    handler = parser.get_parsed_content(composition.handler)
    overlay = "" if composition.overlay is None else f"with {composition.overlay.name}: "
    likelihood = handler.options.likelihood
    transform = getattr(getattr(evaluator.data_loader, "dataset", None), "transform", None)
    return (
        f"bundle: {composition.config} ({overlay}{composition.why})",
        f"preprocessing: {in_words(transform)}",
        f"likelihood: {likelihood}{' at each voxel' if composition.segments else ''}",
        *component_notes(handler),
    )
