"""A data loader that survives images it cannot load."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from monai.data import DataLoader, list_data_collate
from torch.utils.data import Dataset

from monai_ifim.data.batches import entry_name
from monai_ifim.data.sources.limits import check_source
from monai_ifim.data.sources.readers import use_own_readers
from monai_ifim.data.sources.values import check_values
from monai_ifim.messages import printable, reason

logger = logging.getLogger(__name__)


class Failure(NamedTuple):
    """An image without a result.

    Attributes:
        file: its path, or its number in the data set.
        reason: one line.
    """

    file: str
    reason: str


class FaultTolerantDataLoader(DataLoader):
    """MONAI's ``DataLoader``, except that the run goes on when an image fails to load.

    The failing image is left out of its batch, logged, and listed in ``failures``; a batch of
    which nothing is left is skipped and counted in ``skipped``. ``IFIMHandler`` writes a row for
    each failure and ends the run with an error once all other images are done; without it, Ignite
    begins anew when batches are missing, so use the two together. Of images that cannot share a
    batch (different sizes) the largest group that can is kept: use batches of one for those.

    Before a file is loaded, its header is compared with its size and with ``max_voxels``; pipes
    and DICOM that is no regular volume are refused. The image loaders in the data set's transform
    learn readers for DICOM series, TIFF, MGH and Analyze files.

    Args:
        dataset: map-style data set; for readable file names, one with ``.data`` like MONAI's.
        num_workers: as in MONAI's ``DataLoader``.
        image_key: where a dictionary of the data list holds the file name.
        max_voxels: values of one image at the most, as its header says; an image of more is not
            loaded. None: the environment variable ``MONAI_IFIM_MAX_VOXELS``, or 2**29.
        kwargs: passed to MONAI's ``DataLoader``.

    Attributes:
        files: of the images of the batch that came last; None for an image without a file.
    """

    def __init__(
        self,
        dataset: Dataset,
        num_workers: int = 0,
        *,
        image_key: str = "image",
        max_voxels: int | None = None,
        **kwargs: Any,
    ) -> None:
        collate = kwargs.pop("collate_fn", list_data_collate)
        self.failures: list[Failure] = []
        self.skipped = 0
        self.files: list[str | None] = []
        super().__init__(
            _Guarded(dataset, image_key, max_voxels),
            num_workers,
            collate_fn=partial(_collate, collate),
            **kwargs,
        )

    def __iter__(self) -> Iterator[Any]:
        """Batches of the images that could be loaded."""
        self.failures, self.skipped, self.files = [], 0, []
        for batch, failures, files in super().__iter__():
            for failure in failures:
                logger.error("%s failed: %s", printable(failure.file), failure.reason)
            self.failures.extend(failures)
            if batch is None:
                self.skipped += 1
            else:
                self.files = files
                yield batch


class _Item(NamedTuple):
    """One entry of the data set as it crosses process borders.

    Attributes:
        name: for messages.
        file: of the image, None where there is none.
        value: of ``dataset[index]``, or a ``Failure``.
    """

    name: str
    file: str | None
    value: Any


class _Guarded(Dataset):
    """Turns an exception of ``dataset[index]`` into a value that crosses process borders."""

    def __init__(self, dataset: Any, image_key: str, max_voxels: int | None = None) -> None:
        self.dataset = dataset
        self.image_key = image_key
        self.max_voxels = max_voxels
        use_own_readers(getattr(dataset, "transform", None))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> _Item:
        file = self._file(index)
        name = f"image {index} of the data set" if file is None else file
        try:
            self._check(index)
            item = self.dataset[index]
            check_values(item, self.image_key, getattr(self.dataset, "transform", None))
            return _Item(name, file, item)
        except Exception as error:  # readers and transforms raise all kinds
            return _Item(name, file, Failure(name, reason(error)))

    def _check(self, index: int) -> None:
        """Refuse files that must not be loaded, before the data set loads them."""
        entry = self._entry(index)
        # Channels may have keys of their own, which a transform joins.
        for source in entry.values() if isinstance(entry, dict) else [entry]:
            paths = source if isinstance(source, list | tuple) and source else [source]
            if all(isinstance(path, str | os.PathLike) for path in paths):
                check_source(source, self.max_voxels)

    def _file(self, index: int) -> str | None:
        return entry_name(self._entry(index), self.image_key)

    def _entry(self, index: int) -> Any:
        try:
            return self.dataset.data[index]
        except (AttributeError, TypeError, KeyError, IndexError):
            return None


def _collate(
    collate: Callable[[list[Any]], Any], items: Sequence[_Item]
) -> tuple[Any, list[Failure], list[str | None]]:
    failures = [item.value for item in items if isinstance(item.value, Failure)]
    good = [item for item in items if not isinstance(item.value, Failure)]
    if not good:
        return None, failures, []
    try:
        return collate([item.value for item in good]), failures, _files(good)
    except Exception:  # images of different size, or metadata of different formats
        groups = [_fitting(collate, [first, *good]) for first in good]
        kept, misfits = max(groups, key=lambda group: len(group[0]))
        batch = collate([item.value for item in kept]) if kept else None
        return batch, failures + misfits, _files(kept)


def _files(items: Sequence[_Item]) -> list[str | None]:
    """A file for each image: a list of images comes from one entry."""
    return [i.file for i in items for _ in (i.value if isinstance(i.value, list) else [i.value])]


def _fitting(
    collate: Callable[[list[Any]], Any], items: Sequence[_Item]
) -> tuple[list[_Item], list[Failure]]:
    """The images that can share a batch with the first one, and the others."""
    first, *others = items
    kept, misfits = [], []
    for item in others:
        try:
            collate([first.value, item.value])
            kept.append(item)
        except Exception as error:
            text = f"cannot share a batch with {first.name}; use batches of one ({reason(error)})"
            misfits.append(Failure(item.name, text))
    return kept, misfits
