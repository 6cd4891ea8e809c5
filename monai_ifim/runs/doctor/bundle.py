"""Whether a bundle fits: its ids, its likelihood, the overlay, and one image."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.bundle.properties import InferProperties
from monai.bundle.utils import ID_SEP_KEY

from monai_ifim.bundle import class_names, scripts_of
from monai_ifim.bundle.likelihood import shown_activations
from monai_ifim.bundle.metadata import image_input, read_metadata
from monai_ifim.messages import own_sentence, reason
from monai_ifim.runs.composition import (
    Composition,
    compose,
    process_restored,
    set_images,
    set_options,
)
from monai_ifim.runs.doctor.trial import Trial, try_image, try_random
from monai_ifim.runs.images import FoundImages, Inputs, find_inputs
from monai_ifim.runs.options import RunOptions
from monai_ifim.runs.preprocessing import in_words


@dataclass
class Examination:
    """What was found out about a bundle.

    Attributes:
        lines: of text.
        problems: why it does not fit; empty where it does.
    """

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        end = [f"problem: {problem}" for problem in self.problems] or ["it fits"]
        return "\n".join([*self.lines, *end])


def examine_bundle(
    folder: str | os.PathLike[str], inputs: Inputs | None = None, options: RunOptions | None = None
) -> Examination:
    """Find out whether a bundle can be run with the components, and what an image costs.

    Args:
        folder: of the bundle.
        inputs: images, of which the first is tried; None tries a random one of the metadata's
            shape, without reading and writing.
        options: of the run.

    Returns:
        What was found out.

    Raises:
        FileNotFoundError: there is no such input.
        ValueError: no image among the inputs.
    """
    images = None if inputs is None else find_inputs(inputs)
    with (
        tempfile.TemporaryDirectory() as place,
        scripts_of(Path(os.path.abspath(folder))),
        process_restored(),
    ):
        return _examined(folder, images, options or RunOptions(), Path(place))


def _examined(
    folder: str | os.PathLike[str], images: FoundImages | None, chosen: RunOptions, place: Path
) -> Examination:
    """What is found out about a bundle, whose results go to a folder that is thrown away."""
    found = Examination()
    try:
        composition = compose(folder)
        found.lines += _ids(composition)
        # Nothing of these is loaded before the trial.
        set_images(composition, images or FoundImages(("image",), ".", ""), place)
        set_options(composition, chosen)
        evaluator = composition.workflow.parser.get_parsed_content("evaluator")
        handler = composition.workflow.parser.get_parsed_content(composition.handler)
    except Exception as error:  # the code of the bundle's author raises what it likes
        found.problems.append(own_sentence(error) or reason(error))
        return found
    found.lines += _parts(composition, evaluator, handler)
    try:
        trial = (
            _random(composition, evaluator, handler)
            if images is None
            else try_image(folder, images, chosen)
        )
    except Exception as error:  # see above
        trial = Trial("one image", problem=reason(error))
    if trial is None:
        found.lines.append("tried: nothing; metadata.json gives no shape: pass --input IMAGE")
    else:
        found.lines.append(f"{trial} (on {evaluator.state.device})")
        found.problems += [trial.problem] if trial.problem else []
    return found


def _ids(composition: Composition) -> list[str]:
    """What is configured, and which of MONAI's ids."""
    parser = composition.workflow.parser
    ids = {
        name: str(each["id"]).split(ID_SEP_KEY)[0].split("#")[0]
        for name, each in InferProperties.items()
    }
    there = [id_ for id_ in dict.fromkeys(ids.values()) if id_ in parser]
    missing = [
        id_
        for name, id_ in ids.items()
        if InferProperties[name].get("required") and id_ not in parser
    ]
    overlay = "none needed" if composition.overlay is None else composition.overlay.name
    return [
        f"configuration: {composition.config}",
        f"ids: {', '.join(there)}"
        + (f"; missing of those that MONAI wants: {', '.join(missing)}" if missing else ""),
        f"overlay: {overlay}, {composition.why}",
    ]


def _parts(composition: Composition, evaluator: Any, handler: Any) -> list[str]:
    transform = getattr(getattr(evaluator.data_loader, "dataset", None), "transform", None)
    names = class_names(composition.config.parent.parent)
    return [
        f"evaluator: {type(evaluator).__name__} of {type(evaluator.network).__name__}",
        f"preprocessing: {in_words(transform)}",
        f"likelihood: {handler.options.likelihood}, {_why(composition, evaluator)}",
        f"classes: {', '.join(names) or 'not named in metadata.json'}",
    ]


def _why(composition: Composition, evaluator: Any) -> str:
    """Why that likelihood."""
    if composition.overlay is None:
        return "as its own handler has it"
    if composition.segments:
        return "a softmax at each voxel, as for every segmentation"
    parser = composition.workflow.parser
    if parser.get("ifim_likelihood"):
        return "as was chosen"
    postprocessing = parser.get_parsed_content("evaluator::postprocessing", default=None)
    handlers = parser.get_parsed_content("evaluator::val_handlers", default=None) or ()
    signs, place = shown_activations(postprocessing, handlers)
    return f"because its {place} has {' and '.join(sorted(signs))}" if signs else "assumed"


def _random(composition: Composition, evaluator: Any, handler: Any) -> Trial | None:
    """Try a random image of the shape that the metadata gives; None where they give none."""
    metadata = composition.config.parent / "metadata.json"
    if not metadata.is_file():
        return None
    content = read_metadata(metadata)
    name, shape = image_input(content)
    image = content.get("network_data_format", {}).get("inputs", {}).get(name, {})
    channels = image.get("num_channels")
    numbers = [channels, *(shape or [None])]
    if not all(type(number) is int and number > 0 for number in numbers):
        return None
    return try_random(evaluator, handler, channels, tuple(shape))
