"""What a host's batch holds: its images, their file names, and what to do with each."""

from __future__ import annotations

import errno
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor, SmartCacheDataset, decollate_batch
from monai.data.utils import collate_meta_tensor_fn
from monai.utils.enums import CommonKeys
from torch import Tensor
from torch.utils.data import SequentialSampler

from monai_ifim.data.atomic import recorded_files
from monai_ifim.messages import failed, is_failure, reason

logger = logging.getLogger(__name__)

FILE_KEY = "ifim_file"  # of one image's dictionary: the file that it came from, where that is known
MODEL_KEY = "ifim_model"  # which network made the components
PART_KEY = "ifim_part"  # how many images of that file (and patch) came before it in this run
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def images_of_batch(batch: Any) -> Tensor:
    """Images of a batch from any Ignite engine.

    Args:
        batch: a tensor, a dictionary with ``image``, a list or tuple that begins with the images,
            or a list of one dictionary an image.

    Returns:
        (B, C, *S).

    Raises:
        TypeError: no images in any of these places.

    >>> images_of_batch([torch.zeros(2, 1, 4, 5), ["label", "label"]]).shape
    torch.Size([2, 1, 4, 5])
    """
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


def file_names(images: Tensor) -> list[str] | None:
    """Names of the files that a batch was read from.

    Args:
        images: (B, C, *S).

    Returns:
        One name an image; None where the images do not carry their names.
    """
    if isinstance(images, MetaTensor) and images.is_batch:
        names = images.meta.get("filename_or_obj")
        if isinstance(names, list | tuple) and len(names) == len(images):
            return [str(name) for name in names]
    return None


def entry_name(entry: Any, image_key: str = CommonKeys.IMAGE) -> str | None:
    """Name of the file of a data set's entry.

    Args:
        entry: a path, or a dictionary of paths and other things.
        image_key: whose path it is; where there is none, that of the first file in the entry.

    Returns:
        The name, None where there is none.

    >>> entry_name({"image": "a.nii.gz", "label": 1}), entry_name({"image": torch.zeros(1, 2)})
    ('a.nii.gz', None)
    """
    if isinstance(entry, list | tuple) and entry:  # the channels of one image
        return entry_name(entry[0])
    if not isinstance(entry, Mapping):
        return os.fspath(entry) if isinstance(entry, str | os.PathLike) else None
    if image_key in entry:
        return None if isinstance(entry[image_key], Mapping) else entry_name(entry[image_key])
    paths = [os.fspath(v) for v in entry.values() if isinstance(v, str | os.PathLike)]
    there = [path for path in paths if os.path.exists(path)]
    return next(iter(there or [path for path in paths if os.path.splitext(path)[1]]), None)


def listed_names(loader: Any, batch: int, count: int) -> list[str | None]:
    """Names of a batch's files by the data list, for images that lost theirs, as in a cache.

    Args:
        loader: that the batch came from.
        batch: its number in this pass through the loader.
        count: of its images.

    Returns:
        One name an image, None where there is none or where the order is not known (shuffled).
    """
    files = getattr(loader, "files", None)  # of FaultTolerantDataLoader, whatever the order
    if files is None:
        files = _in_order(loader, batch)
    return list(files) if files is not None and len(files) == count else [None] * count


def known_files(images: Tensor, loader: Any, number: int) -> list[str | None]:
    """Names of the files of images, of the images themselves, else of the data list.

    Args:
        images: (B, C, *S) of a batch.
        loader: that it came from.
        number: of the batch in this pass through the loader.

    Returns:
        One name an image, None where it is not known.
    """
    names = file_names(images)
    return listed_names(loader, number, len(images)) if names is None else list(names)


def names_of_batch(batch: Any, loader: Any, number: int) -> list[str]:
    """Names of the files of a batch, as far as they are known without a look at the images.

    Args:
        batch: of any Ignite engine.
        loader: that it came from.
        number: of the batch in this pass through the loader.

    Returns:
        The names that are known.
    """
    images = batch.get(CommonKeys.IMAGE) if isinstance(batch, dict) else batch
    if isinstance(images, list | tuple) and images:
        images = images[0]
    if not isinstance(images, Tensor):
        return []
    known = known_files(images, loader, number)
    return [name for name in known if name is not None]


def _in_order(loader: Any, batch: int) -> list[str | None] | None:
    dataset = getattr(loader, "dataset", None)
    remaining = getattr(loader, "remaining", None)  # whatever the order, and what was left out
    if remaining is not None:
        given = remaining.given
        return list(remaining.names(given[batch])) if batch < len(given) else None
    data, size = getattr(dataset, "data", None), getattr(loader, "batch_size", None)
    known = (
        isinstance(getattr(loader, "sampler", None), SequentialSampler)
        and isinstance(data, Sequence)
        and not isinstance(dataset, SmartCacheDataset)
        and isinstance(size, int)
        and getattr(loader, "repeats", 1) == 1
    )
    if not known or size is None or data is None or len(data) != len(dataset):  # type: ignore[arg-type]
        return None
    return [entry_name(entry) for entry in data[batch * size : (batch + 1) * size]]


def postprocessing_jobs(
    postprocessing: Callable[[dict[str, Any]], Any],
    rows: Sequence[dict[str, Any]],
    batch: dict[str, Tensor],
    files: Sequence[str | None],
    seen: Counter[Any],
    model: str,
) -> list[Callable[[], list[Path]]]:
    """What is left to do to postprocess the images of a batch one by one.

    A failure, as of a transform that cannot be undone, becomes the status of that image; the other
    images are unaffected.

    Args:
        postprocessing: of one image's dictionary, which has ``MODEL_KEY``, and ``FILE_KEY`` and
            ``PART_KEY`` where the image's file is known.
        rows: one for each image, with ``file`` and ``status``; a job may change the latter.
        batch: what to take apart, each value with the batch as its first axis.
        files: of the images, None where there is none.
        seen: how many images of each file, and patch of it, there were before in this run; these
            are added.
        model: the network's name, for the files.

    Returns:
        A function for each image, for any thread and in the order of the images, that gives the
        paths of the files that were written; nothing is written for an image without a result. It
        raises OSError where the disk is full or has become read-only, so that no image can be
        written.
    """
    jobs: list[Callable[[], list[Path]]] = []
    for row, item, file in zip(rows, decollate_batch(batch), files, strict=True):
        if file is not None:
            image = item[CommonKeys.IMAGE]
            patch = image.meta.get("patch_index") if isinstance(image, MetaTensor) else None
            each = file, None if patch is None else int(patch)
            item |= {FILE_KEY: file, PART_KEY: seen[each]}
            seen[each] += 1
        jobs.append(partial(_postprocess, postprocessing, row, item | {MODEL_KEY: model}))
    return jobs


def _postprocess(
    postprocessing: Callable[[dict[str, Any]], Any], row: dict[str, Any], item: dict[str, Any]
) -> list[Path]:
    written: list[Path] = []
    if is_failure(row["status"]):
        return written
    try:
        with recorded_files() as written:
            postprocessing(item)
    except Exception as error:
        logger.debug("postprocessing of %s", row["file"], exc_info=True)
        full = disk_error(error)
        if full is not None:
            raise full from None
        row["status"] = failed(f"in postprocessing, {reason(error)}")
    return written


def disk_error(error: BaseException | None) -> OSError | None:
    """The cause of an error that lies with the disk, and would meet every image.

    Args:
        error: as caught; MONAI wraps the cause in one exception per transform.

    Returns:
        A full disk, a used-up quota or a disk that has become read-only; None for other errors.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            return error
        error = error.__cause__ or error.__context__
    return None
