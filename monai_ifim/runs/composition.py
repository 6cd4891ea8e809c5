"""A bundle's inference configuration with the overlay that fits it, set up for a list of images."""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.transforms import LoadImage, LoadImaged

from monai_ifim.bundle.metadata import is_segmentation, read_metadata
from monai_ifim.runs.images import FoundImages
from monai_ifim.runs.options import RunOptions, device_of_process

CONFIGURATIONS = ("inference.json", "inference.yaml", "inference.yml")
_FOLDERS = ("dataset_dir", "data_dir", "data_root", "data_file_base_dir", "image_root")
_TARGET = "_target_"
_OWN = "ifim_handler"


@dataclass(frozen=True)
class Composition:
    """A bundle's configuration, ready to be run.

    Attributes:
        workflow: MONAI's, with all that was chosen set in it.
        config: the bundle's own file.
        overlay: file of this package that was put over it; None where the bundle has the handler
            itself.
        handler: id of the ``IFIMHandler``.
        why: that overlay and no other.
    """

    workflow: ConfigWorkflow
    config: Path
    overlay: Path | None
    handler: str
    why: str

    @property
    def segments(self) -> bool:
        """Whether the overlay is the one of segmentations."""
        return self.overlay is not None and self.overlay.stem == "ifim_segmentation"


def compose(folder: str | os.PathLike[str]) -> Composition:
    """A bundle's own inference with the overlay that fits it.

    Args:
        folder: of the bundle.

    Returns:
        The configuration; nothing in it has been made yet.

    Raises:
        FileNotFoundError: the folder is no bundle.
        ValueError: it has no evaluator.
    """
    config = inference_file(folder)
    overlay, why = _overlay(config)
    files_of_run = [str(config)] if overlay is None else [str(config), str(overlay)]
    workflow = _workflow(files_of_run, config.parent, os.fspath(folder))
    parser = workflow.parser
    if "evaluator" not in parser:
        raise ValueError(
            f"expected the id evaluator in {config}, got none; a bundle with another host takes "
            "the overlay ifim_transform.yaml (monai-ifim config ifim_transform)"
        )
    own = _component(parser.config, "IFIMHandler") if overlay is None else ""
    bar = _component(parser.config, "ProgressBar")
    if bar:
        parser[f"{bar}::_disabled_"] = True
    return Composition(workflow, config, overlay, own or _OWN, why)


def compose_run(
    folder: str | os.PathLike[str],
    images: FoundImages,
    output: Path,
    options: RunOptions,
    ids: Mapping[str, Any],
) -> Composition:
    """A bundle's inference, with all that was chosen for one run.

    To be called inside ``process_restored``.

    Args:
        folder: of the bundle.
        images: of the run.
        output: folder of the results.
        options: choices.
        ids: of the configuration, with what they are set to.

    Returns:
        The configuration; nothing in it has been made yet.

    Raises:
        FileNotFoundError: the folder is no bundle.
        ValueError: the configuration has no place for a choice, or no such id.
    """
    composition = compose(folder)
    set_images(composition, images, output)
    set_options(composition, options)
    set_ids(composition, ids)
    return composition


def inference_file(folder: str | os.PathLike[str]) -> Path:
    """The configuration of a bundle's inference.

    Args:
        folder: of the bundle.

    Returns:
        Its path.

    Raises:
        FileNotFoundError: there is none.
    """
    configs = Path(folder) / "configs"
    for name in CONFIGURATIONS:
        if (configs / name).is_file():
            return configs / name
    there = sorted(path.name for path in configs.glob("*")) if configs.is_dir() else []
    found = f"only {', '.join(there)}" if there else "none"
    if not Path(folder).is_dir():
        found = "no such folder"
    raise FileNotFoundError(
        f"expected the folder of a bundle with configs/{CONFIGURATIONS[0]} (or .yaml), got "
        f"{found} in {os.fspath(folder)!r}; point --bundle at the folder that holds configs/ and "
        "models/"
    )


def set_images(composition: Composition, images: FoundImages, output: Path) -> None:
    """Let a composition run on these images, and write there.

    To be called inside ``process_restored``: the files are named on the command line of this
    process, where configurations and overlays look for what MONAI does not tell them.

    Args:
        composition: changed in place.
        images: what its data set gets in the place of its own list.
        output: folder of the results.

    Raises:
        ValueError: its data set is made in a way that hides its list, or its preprocessing loads
            several files for an image.
    """
    parser = composition.workflow.parser
    parser["output_dir"] = str(output)
    _name_files(composition, output)
    for name in set(_FOLDERS) & set(parser.config):
        parser[name] = images.root
    dataset = _dataset(composition)
    parser[f"{dataset}::data"] = ()
    if _is(parser[dataset], "CacheDataset"):
        parser[f"{dataset}::cache_rate"] = 0  # a cache reads all files before the run, or none
    key = _image_key(composition, dataset)
    parser[f"{dataset}::data"] = images.entries(key)
    if composition.overlay is not None and images.names_repeat:
        parser["ifim_data_root_dir"] = images.root


def set_options(composition: Composition, options: RunOptions) -> None:
    """Set what was chosen about the run.

    Args:
        composition: changed in place.
        options: choices.

    Raises:
        ValueError: the configuration has no place for one of them.
    """
    parser, handler = composition.workflow.parser, composition.handler
    for name in ("rank", "energy", "volumes", "likelihood", "resume", "existing", "shard"):
        value = getattr(options, name)
        if value is None:
            continue
        if name == "likelihood" and composition.segments:
            raise ValueError(
                "expected no likelihood for a segmentation, which is a softmax at each voxel, got "
                f"{value}; leave out --likelihood"
            )
        id_ = f"ifim_{name}" if f"ifim_{name}" in parser else f"{handler}::{name}"
        parser[id_] = list(value) if name == "volumes" else value
    if options.space is not None:
        own = "ifim_space" if "ifim_space" in parser else f"{handler}::space"
        parser[own] = os.path.abspath(options.space)
    _set_questions(composition, options)
    loader = {"batch_size": options.batch_size, "num_workers": options.workers}
    for name, value in loader.items():
        if value is not None:
            parser[f"{_loader(composition)}::{name}"] = value
    device = device_of_process(options)
    if device is not None:
        if "device" not in parser:
            raise ValueError(
                f"expected the id device in {composition.config}, got none; leave out --device"
            )
        parser["device"] = torch.device(device)


def _set_questions(composition: Composition, options: RunOptions) -> None:
    asked = {"nuisances": options.nuisances, "verify": options.verify}
    for name, value in asked.items():
        if value is None:
            continue
        if f"ifim_{name}" not in composition.workflow.parser:
            raise ValueError(
                f"expected the id ifim_{name} in {composition.config}, got none; give its "
                "IFIMHandler the questions of monai_ifim.chosen_questions"
            )
        composition.workflow.parser[f"ifim_{name}"] = (
            value if isinstance(value, str) else list(value)
        )


def batch_size_of(composition: Composition) -> int:
    """How many images a bundle takes at once.

    Args:
        composition: of the bundle.

    Returns:
        The batch size of its data loader; 1 where it has none.
    """
    name = f"{_loader(composition)}::batch_size"
    parser = composition.workflow.parser
    size = parser.get_parsed_content(name) if name in parser else None
    return size if isinstance(size, int) else 1


def set_ids(composition: Composition, values: Mapping[str, Any]) -> None:
    """Set ids of the configuration.

    Args:
        composition: changed in place.
        values: by id, ``dataloader::pin_memory`` for example.

    Raises:
        ValueError: the configuration has no such id.
    """
    parser = composition.workflow.parser
    for id_, value in values.items():
        first = re.split("::|#", id_)[0]
        if first not in parser.config:
            close = difflib.get_close_matches(first, parser.config, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ValueError(
                f"expected an id of the configuration, got {id_}; {hint}there are "
                f"{', '.join(parser.config)}"
            )
        parser.set(value, id_, recursive=True)


@contextmanager
def process_restored() -> Iterator[None]:
    """Restore search path and command line.

    MONAI's workflow adds the bundle to the one and leaves it there, a composition names its files
    on the other.
    """
    path, arguments = list(sys.path), list(sys.argv)
    try:
        yield
    finally:
        sys.path[:], sys.argv[:] = path, arguments


def _name_files(composition: Composition, output: Path) -> None:
    names = [str(file) for file in (composition.config, composition.overlay) if file is not None]
    sys.argv += ["--config_file", str(names), "--output_dir", str(output)]


def _workflow(files_of_run: list[str], configs: Path, folder: str) -> ConfigWorkflow:
    """MONAI's, without the bundle's logging, which would go between the lines of the progress."""
    log = logging.getLogger("monai.bundle.workflows")  # it warns that there is no logging
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        return ConfigWorkflow(
            files_of_run,
            meta_file=str(configs / "metadata.json"),
            logging_file=False,
            workflow_type="infer",
            bundle_root=folder,
        )
    finally:
        log.setLevel(before)


def _overlay(config: Path) -> tuple[Path | None, str]:
    """The overlay for a configuration, and why that one."""
    if _component(ConfigParser.load_config_file(str(config)), "IFIMHandler"):
        return None, "its own configuration has the handler"
    metadata = config.parent / "metadata.json"
    place = Path(str(files("monai_ifim.configs")))
    if not metadata.is_file():
        return place / "ifim.yaml", "a classifier, because there is no metadata.json to ask"
    segments, why = is_segmentation(read_metadata(metadata))
    name = "ifim_segmentation.yaml" if segments else "ifim.yaml"
    return place / name, f"a {'segmentation' if segments else 'classifier'}, because {why}"


def _component(config: Any, name: str, id_: str = "") -> str:
    """Id of the first component whose class has that name; empty where there is none."""
    if isinstance(config, dict) and _is(config, name):
        return id_
    parts = config.items() if isinstance(config, dict) else enumerate(config)
    for key, part in parts:
        if isinstance(part, dict | list):
            found = _component(part, name, f"{id_}::{key}" if id_ else str(key))
            if found:
                return found
    return ""


def _is(config: dict[str, Any], name: str) -> bool:
    target = config.get(_TARGET)
    return isinstance(target, str) and target.rpartition(".")[2] == name


def _followed(composition: Composition, id_: str) -> str:
    """The id of what an id refers to."""
    parser = composition.workflow.parser
    while isinstance(parser.get(id_), str) and re.fullmatch(r"@[\w:#]+", parser[id_]):
        id_ = parser[id_][1:]
    return id_


def _loader(composition: Composition) -> str:
    return _made(composition, "evaluator::val_data_loader", "dataset")


def _dataset(composition: Composition) -> str:
    return _made(composition, f"{_loader(composition)}::dataset", "data")


def _made(composition: Composition, id_: str, argument: str) -> str:
    """The id of a component that has an argument of that name."""
    id_ = _followed(composition, id_)
    value = composition.workflow.parser.get(id_)
    if not isinstance(value, dict) or _TARGET not in value or argument not in value:
        got = "an expression" if isinstance(value, str) else "another one"
        raise ValueError(
            f"expected {id_} in {composition.config} with _target_ and {argument}, whose images "
            f"can be replaced, got {got}; {_by_its_own_list(composition)}"
        )
    return id_


def _by_its_own_list(composition: Composition) -> str:
    """How to run a bundle on the data list that it makes itself."""
    files_of_run = [str(composition.config), str(composition.overlay or "")]
    names = "','".join(filter(None, files_of_run))
    return (
        "run it on the list that the bundle itself makes of a folder: python -m monai.bundle run "
        f"--workflow_type infer --config_file \"['{names}']\" --bundle_root "
        f"{composition.workflow.parser['bundle_root']} --dataset_dir FOLDER --output_dir OUTPUT"
    )


def _image_key(composition: Composition, dataset: str) -> str:
    """The key that the preprocessing loads an image from."""
    parser = composition.workflow.parser
    transform = parser.get_parsed_content(f"{dataset}::transform")
    keys = list(dict.fromkeys(_loaded_keys(transform)))
    if len(keys) > 1:
        raise ValueError(
            f"expected a bundle that loads one file for each image, got {' and '.join(keys)} in "
            f"its preprocessing; {_by_its_own_list(composition)}"
        )
    return keys[0] if keys else "image"


def _loaded_keys(transform: Any) -> Iterator[str]:
    """Keys of the files that a preprocessing needs."""
    # LoadImageOrArrayd is found by what it has: its module needs Pillow, which may not be there.
    if isinstance(transform, LoadImaged) or isinstance(getattr(transform, "load", None), LoadImage):
        yield from () if transform.allow_missing_keys else map(str, transform.keys)
    parts = (
        transform if isinstance(transform, list | tuple) else getattr(transform, "transforms", ())
    )
    for part in parts:
        yield from _loaded_keys(part)
