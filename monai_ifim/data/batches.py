"""What a host's batch holds: its images, their file names, and what to do with each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data import MetaTensor, decollate_batch
from monai.data.utils import collate_meta_tensor_fn
from monai.utils.enums import CommonKeys
from torch import Tensor

from monai_ifim.messages import failed, is_failure, reason

logger = logging.getLogger(__name__)


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


def postprocess_each(
    postprocessing: Callable[[dict[str, Any]], Any],
    rows: Sequence[dict[str, Any]],
    batch: dict[str, Tensor],
) -> None:
    """Postprocess the images with a result one by one.

    A failure, as of a full disk or of a transform that cannot be undone, becomes the status of
    that image; the other images are unaffected.

    Args:
        postprocessing: of one image's dictionary.
        rows: one for each image, with ``file`` and ``status``; the latter may change.
        batch: what to take apart, each value with the batch as its first axis.
    """
    for row, item in zip(rows, decollate_batch(batch), strict=True):
        if is_failure(row["status"]):
            continue
        try:
            postprocessing(item)
        except Exception as error:
            logger.debug("postprocessing of %s", row["file"], exc_info=True)
            row["status"] = failed(f"in postprocessing, {reason(error)}")
