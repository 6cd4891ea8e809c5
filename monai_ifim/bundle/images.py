"""Images of a folder, as a bundle's inference would preprocess them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import Dataset
from torch import Tensor

from monai_ifim.bundle.configuration import BundleConfiguration, scripts_of
from monai_ifim.bundle.labels import class_number, find_labels, path_below
from monai_ifim.bundle.metadata import class_names
from monai_ifim.data.datalist import find_images
from monai_ifim.data.sources.readers import use_own_readers
from monai_ifim.data.sources.values import check_values
from monai_ifim.messages import reason

logger = logging.getLogger(__name__)

# The first is the property that MONAI's bundle specification names; the others occur in bundles.
_FOLDER_IDS = ("dataset_dir", "data_dir", "data_root", "data_file_base_dir")


def load_bundle_images(
    folder: str | os.PathLike[str], data: str | os.PathLike[str], *, limit: int | None = None
) -> tuple[Tensor, Tensor | None, list[str]]:
    """Images of a folder, preprocessed as the bundle's inference does it.

    The bundle's own ``dataset`` reads them, with ``dataset_dir`` set to ``data``, so that a mask
    that becomes a channel comes along. Where its list is empty or names files elsewhere, every
    image below ``data`` is taken. An image that cannot be read, is not finite, or has another
    shape than the first one is logged and left out.

    Labels are the first of these that every image has: an integer ``label`` of the data set's
    item; ``labels.csv`` in ``data``, with the columns ``path`` or ``file`` and ``label``; a
    subfolder of ``data`` that bears the name of a class in the bundle's metadata.

    Args:
        folder: of the bundle.
        data: folder of images, laid out as the bundle expects it.
        limit: at most so many of the listed images, spread evenly over the list.

    Returns:
        Images (N, C, *S) in float32 on the CPU; labels (N,) in int64, or None; N file names,
        relative to ``data`` where the file lies below it.

    Raises:
        ValueError: the folder is not a bundle, ``data`` holds no image that its preprocessing
            takes, or ``limit`` is below 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"expected a limit of at least 1 image, got {limit}; or leave it out")
    root, top = Path(os.path.abspath(folder)), Path(os.path.abspath(data))
    configuration = BundleConfiguration(root)
    with scripts_of(root), torch.random.fork_rng([]):
        dataset = _dataset(configuration, top)
        items = list(_readable(dataset, _spread(len(dataset), limit), configuration.image_key))
    if not items:
        raise ValueError(
            f"expected images that {root.name} can take, got none among {len(dataset)} of "
            f"{str(top)!r}; the log says why for each"
        )
    paths, images, given = zip(*items, strict=True)
    labels = find_labels(paths, given, top, class_names(root))
    return torch.stack(images), labels, [path_below(path, top) for path in paths]


def _dataset(configuration: BundleConfiguration, top: Path) -> Dataset:
    """The bundle's own, made anew: a CacheDataset dies of its first damaged image."""
    # An absolute path cannot begin with "$", which a configuration would run as code.
    for name in set(_FOLDER_IDS) & set(configuration.raw):
        configuration.parser[name] = str(top)
    own = "transform" in configuration.raw.get("dataset", {})
    transform = configuration.content("dataset#transform" if own else "preprocessing")
    use_own_readers(transform)
    return Dataset(_entries(configuration, top), transform)


def _entries(configuration: BundleConfiguration, top: Path) -> Sequence[Any]:
    """The bundle's own list where it is one of this folder, else every image below the folder."""
    key = configuration.image_key
    try:
        entries = configuration.content("dataset#data")
        paths = [_path(entry, key) for entry in entries]
        outside = [path for path in paths if path and top not in (Path(path), *Path(path).parents)]
        if paths and not outside:
            return entries
        problem = f"it names {outside[0]}" if outside else "it is empty"
    except Exception as error:  # the code of the bundle's author raises what it likes
        problem = reason(error)
    name = configuration.folder.name
    logger.warning("every image below %s is taken, not the list of %s: %s", top, name, problem)
    try:
        return [{key: entry["image"]} for entry in find_images(top)]
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"expected images below {str(top)!r}, got none; name the folder that holds them"
        ) from error


def _spread(total: int, limit: int | None) -> list[int]:
    """One position of each of ``limit`` equal blocks of a list, drawn.

    A list may repeat its classes with a period: a fixed step would meet one of them alone.

    Args:
        total: length of the list.
        limit: positions at the most; None for all.

    Returns:
        Positions, ascending; the same ones at every call.
    """
    if limit is None or limit >= total:
        return list(range(total))
    draws = torch.rand(limit, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    edges = [block * total // limit for block in range(limit + 1)]
    blocks = zip(edges, edges[1:], draws.tolist(), strict=False)
    return [start + int(draw * (end - start)) for start, end, draw in blocks]


def _readable(
    dataset: Dataset, positions: Sequence[int], key: str
) -> Iterator[tuple[str, Tensor, int | None]]:
    """Path, image and label of what can be read and shares the first one's shape, one by one."""
    shape: torch.Size | None = None
    for position in positions:
        path = _path(dataset.data[position], key) or f"image {position} of the data set"
        try:
            item = dataset[position]
            check_values(item, key, getattr(dataset, "transform", None))
            image = torch.as_tensor(item[key]).as_subclass(Tensor).detach().cpu().float()
            if image.shape != (shape or image.shape) or not bool(torch.isfinite(image).all()):
                raise ValueError(
                    f"expected finite values and the first image's shape {tuple(shape or ())}, "
                    f"got {tuple(image.shape)}, NaN or infinity; fix the file or its preprocessing"
                )
        except Exception as error:  # readers and transforms raise what they like
            logger.error("%s is left out: %s", path, reason(error))
        else:
            shape = image.shape
            yield path, image, class_number(item.get("label"))


def _path(entry: Any, key: str) -> str:
    """The image's file in an entry of a data list; empty when it is none."""
    value = entry.get(key) if isinstance(entry, Mapping) else entry
    value = value[0] if isinstance(value, list | tuple) and value else value
    return os.path.abspath(value) if isinstance(value, str | os.PathLike) else ""
