"""A data loader that survives images it cannot load."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from monai.data import DataLoader, ThreadDataLoader, list_data_collate
from torch.utils import data as torch_data
from torch.utils.data import Dataset, IterableDataset

from monai_ifim.data.loading.remaining import Remaining, listed_entry, listed_name
from monai_ifim.data.loading.workers import surviving_batches
from monai_ifim.data.sources.limits import check_source
from monai_ifim.data.sources.readers import use_own_readers
from monai_ifim.data.sources.values import check_values
from monai_ifim.messages import printable, reason

logger = logging.getLogger(__name__)

# Arguments of MONAI's ThreadDataLoader alone.
_OF_THREADS = ("buffer_size", "buffer_timeout", "repeats", "use_thread_workers")
# Batches pass through these as they are.
_TRANSPARENT = (torch_data.DataLoader.__iter__, ThreadDataLoader.__iter__)


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
    ``around`` makes one of a loader that is there already, of its own class.

    Before a file is loaded, its header is compared with its size and with ``max_voxels``; pipes
    and DICOM that is no regular volume are refused. The image loaders in the data set's transform
    learn readers for DICOM series, TIFF, MGH and Analyze files.

    Args:
        dataset: map-style data set; for readable file names, one with ``.data`` like MONAI's.
        num_workers: as in MONAI's ``DataLoader``.
        image_key: where a dictionary of the data list holds the file name.
        max_voxels: values of one image at the most, as its header says; an image of more is not
            loaded. None: the environment variable ``MONAI_IFIM_MAX_VOXELS``, or 2**29.
        kwargs: passed to MONAI's ``DataLoader``; what ``ThreadDataLoader`` alone knows is logged
            and left out.

    When a process that loads images dies, its images are loaded again.

    Attributes:
        files: of the images of the batch that came last; None for an image without a file.
        remaining: decides which batches are left, for ``IFIMHandler(resume=True)``.
    """

    # The loader that is iterated in the place of this one.
    _source: torch_data.DataLoader | None = None
    remaining: Remaining | None = None

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
        left_out = [name for name in _OF_THREADS if name in kwargs]
        if left_out:
            logger.warning(
                "no thread reads ahead: expected arguments of DataLoader, got %s of "
                "ThreadDataLoader; FaultTolerantDataLoader.around(loader) keeps them",
                ", ".join(f"{name}={kwargs.pop(name)!r}" for name in left_out),
            )
        super().__init__(
            _Guarded(dataset, image_key, max_voxels),
            num_workers,
            collate_fn=partial(_collate, collate),
            **kwargs,
        )
        _leaving_out(self, image_key)

    @classmethod
    def around(cls, loader: Any, *, image_key: str = "image", max_voxels: int | None = None) -> Any:
        """A loader that does what the given one does, and survives images it cannot load.

        Args:
            loader: torch's or MONAI's ``DataLoader``, ``ThreadDataLoader``, or a subclass that
                iterates as they do; itself left as it is.
            image_key: where a dictionary of the data list holds the file name.
            max_voxels: as for a loader that is made here.

        Returns:
            The loader with the same data set, sampler, workers and buffers. Another one (a list
            of batches, a data set without ``[]``, batches made by the data set itself, an
            ``__iter__`` of its own) is given back as it is, and the log says so.
        """
        if isinstance(loader, cls):
            return loader
        if (
            getattr(type(loader), "__iter__", None) not in _TRANSPARENT
            or isinstance(loader.dataset, IterableDataset)
            or loader.batch_sampler is None
        ):
            logger.warning(
                "the run ends at the first image that cannot be loaded: expected a DataLoader of "
                "a data set with [], got %s; FaultTolerantDataLoader is one that goes on",
                type(loader).__name__,
            )
            return loader
        source = copy.copy(loader)
        # Past torch's __setattr__, which refuses a data set that differs from the sampler's.
        source.__dict__["dataset"] = _Guarded(loader.dataset, image_key, max_voxels)
        source.__dict__["collate_fn"] = partial(_collate, loader.collate_fn)
        ours = cls.__new__(cls)
        ours.__dict__.update(loader.__dict__, _source=source, failures=[], skipped=0, files=[])
        ours.__dict__["remaining"] = _leaving_out(source, image_key)
        return ours

    def __len__(self) -> int:
        """Number of batches, those included that may be skipped."""
        return super().__len__() if self._source is None else len(self._source)

    def __iter__(self) -> Iterator[Any]:
        """Batches of the images that could be loaded."""
        self.failures, self.skipped, self.files = [], 0, []
        last = None
        source = self if self._source is None else self._source
        iterate = super().__iter__ if self._source is None else self._source.__iter__
        batches = surviving_batches(source, iterate, self.remaining, self._lost)
        for batch, failures, files in batches:
            repeated, last = failures is last, failures  # ThreadDataLoader(repeats=2)
            for failure in () if repeated else failures:
                logger.error("%s failed: %s", printable(failure.file), failure.reason)
                self.failures.append(failure)
            if batch is None:
                self.skipped += 1
            else:
                self.files = files
                yield batch

    def _lost(self, indices: list[int]) -> tuple[None, list[Failure], list[str | None]]:
        source = self if self._source is None else self._source
        text = "the process that loads it died twice (out of memory, or its reader crashed)"
        guarded: Any = source.dataset
        names = [guarded.name_of(index) for index in indices]
        return None, [Failure(name, text) for name in names], []


def _leaving_out(loader: Any, image_key: str) -> Remaining | None:
    """Put what decides which batches are left around a loader's batch sampler."""
    sampler = loader.batch_sampler
    if sampler is None:
        return None
    remaining = sampler if isinstance(sampler, Remaining) else None
    remaining = remaining or Remaining(sampler, loader.dataset, image_key)
    # Past torch's __setattr__, which refuses another batch sampler.
    loader.__dict__["batch_sampler"] = loader.__dict__["remaining"] = remaining
    return remaining


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
    """Turns an exception of ``dataset[index]`` into a value that crosses process borders.

    Everything else is the data set's own: handlers ask for ``loader.dataset.image_data``.
    """

    def __init__(self, dataset: Any, image_key: str, max_voxels: int | None = None) -> None:
        self.dataset = dataset
        self.image_key = image_key
        self.max_voxels = max_voxels
        use_own_readers(list(transforms_of(dataset)))

    def __getattr__(self, name: str) -> Any:
        # Not __getitems__, by which torch would go around the guard, nor what pickle looks for.
        if name.startswith("__") or name == "dataset":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> _Item:
        file, name = self._file(index), self.name_of(index)
        try:
            self._check(index)
            item = self.dataset[index]
            # Not kept: MONAI's worker seeds whatever random transform it finds in here.
            check_values(item, self.image_key, list(transforms_of(self.dataset)))
            return _Item(name, file, item)
        except Exception as error:  # readers and transforms raise all kinds
            return _Item(name, file, Failure(name, _why(error)))

    def name_of(self, index: int) -> str:
        """Name of an item for messages.

        Args:
            index: of the item.

        Returns:
            Its file, or its number.
        """
        file = self._file(index)
        return f"image {index} of the data set" if file is None else file

    def _check(self, index: int) -> None:
        """Refuse files that must not be loaded, before the data set loads them."""
        entry = self._entry(index)
        # Channels may have keys of their own, which a transform joins.
        for source in entry.values() if isinstance(entry, dict) else [entry]:
            paths = source if isinstance(source, list | tuple) and source else [source]
            if all(isinstance(path, str | os.PathLike) for path in paths):
                check_source(source, self.max_voxels)

    def _file(self, index: int) -> str | None:
        return listed_name(self.dataset, index, self.image_key)

    def _entry(self, index: int) -> Any:
        try:
            return listed_entry(self.dataset, index)
        except (AttributeError, TypeError, KeyError, IndexError):
            return None


def _why(error: Exception) -> str:
    """Its text, but for MONAI's and NumPy's advice to load pickles all the same."""
    text = reason(error)
    if "allow_pickle" not in text:
        return text
    return (
        "expected an array of numbers, got a damaged file or pickled objects, which can run code; "
        "save it with a numeric dtype"
    )


def transforms_of(dataset: Any) -> Iterator[Any]:
    """The transforms of a data set and of those that it is made of.

    Args:
        dataset: of torch's or MONAI's kind.

    Yields:
        Each of them.
    """
    for part in (*getattr(dataset, "datasets", ()), getattr(dataset, "dataset", None)):
        yield from () if part is None else transforms_of(part)
    data, transform = getattr(dataset, "data", None), getattr(dataset, "transform", None)
    yield from transforms_of(data) if isinstance(data, Dataset) else ()
    yield from () if transform is None else (transform,)


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
