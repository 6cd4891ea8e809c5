"""The batches of a loader that are left to be done."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from monai.data import Dataset
from torch.utils import data as torch_data
from torch.utils.data import ConcatDataset, Subset

from monai_ifim.data.batches import entry_name
from monai_ifim.data.run_folder.image_list import ImageList
from monai_ifim.data.run_folder.part import Part

Batch = list[int]


class Remaining:
    """A batch sampler around another one that leaves out what is done.

    A batch of which every image is done is left out. One of which some are done is given again as
    it is, because the last bits of a network's output can depend on the images beside it.

    Args:
        batches: the batch sampler.
        dataset: whose items the numbers are.
        image_key: where an entry of the data list holds the file name.

    Attributes:
        done: files that are done.
        refused: files that must not be loaded.
        alone: files that get a batch of one.
        part: whose batches alone are given; None for all.
        on_start: called with the files of a batch before they are loaded, where that happens in
            this process.
        given: batches of this pass so far.
        left_out: number of batches that were left out in this pass.
    """

    def __init__(
        self, batches: Iterable[Sequence[int]], dataset: Any, image_key: str = "image"
    ) -> None:
        self.batches, self.dataset, self.image_key = batches, dataset, image_key
        self.done: Container[str] = ()
        self.refused: Container[str] = ()
        self.alone: Container[str] = ()
        self.part: Part | None = None
        self.on_start: Callable[[list[str]], None] | None = None
        self.given: list[Batch] = []
        self.left_out = 0
        self._rest: Iterator[Batch] | None = None
        self._goes_on = False
        self._user: object = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "batches":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.batches, name)

    def __len__(self) -> int:
        """Number of batches, those included that are left out."""
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        """The batches to do; after ``go_on``, those that were not yet given."""
        if self._goes_on and self._rest is not None:
            self._goes_on = False
        else:
            self.given, self.left_out, self._rest = [], 0, self._planned()
        for batch in self._rest:
            self.given.append(batch)
            if self.on_start is not None:
                self.on_start(self.names(batch))
            yield batch

    def claim(self, user: object) -> bool:
        """Whether a handler may say what is left, which only one can.

        Args:
            user: the handler.

        Returns:
            Yes or no.
        """
        if self._user is None:
            self._user = user
        return self._user is user

    def release(self, user: object) -> None:
        """Everything is left again.

        Args:
            user: the handler that had claimed it; of any other nothing happens.
        """
        if self._user is user:
            self._user, self.on_start = None, None
            self.done = self.refused = self.alone = ()
            self.part = None

    def go_on(self) -> None:
        """The next pass is the rest of this one."""
        self._goes_on = True

    def names(self, batch: Iterable[int]) -> list[str]:
        """Files of items.

        Args:
            batch: their numbers.

        Returns:
            The files of those that have one.
        """
        names = (listed_name(self.dataset, index, self.image_key) for index in batch)
        return [name for name in names if name is not None]

    def names_of_part(self, part: Part) -> list[str]:
        """Files of a part's batches.

        Args:
            part: of the batches.

        Returns:
            The files of those that have one, in order.
        """
        own = part.batches(len(self))
        return [
            name for k, batch in enumerate(self.batches) if k in own for name in self.names(batch)
        ]

    def plan(self) -> str:
        """Digest of what is in which batch, to see that all parts of a run cut the same."""
        total = hashlib.sha256()
        for batch in self.batches:
            sources = [listed_source(self.dataset, index, self.image_key) for index in batch]
            total.update(repr((list(batch), sources)).encode("utf-8", "surrogateescape"))
        return total.hexdigest()[:16]

    def _planned(self) -> Iterator[Batch]:
        own = None if self.part is None else self.part.batches(len(self))
        for k, batch in enumerate(self.batches):
            if own is not None and k not in own:
                self.left_out += 1
                continue
            named = [(i, listed_name(self.dataset, i, self.image_key)) for i in batch]
            left = [(i, name) for i, name in named if name is None or name not in self.refused]
            if not left or all(name is not None and name in self.done for _, name in left):
                self.left_out += 1
            elif any(name is not None and name in self.alone for _, name in left):
                yield from ([i] for i, _ in left)
            else:
                yield [i for i, _ in left]


class ResumedLoader:
    """A loader of torch's or MONAI's kind that gives the remaining batches.

    Args:
        loader: itself left as it is; everything but its batches is that loader's own.
        remaining: around its batch sampler.
    """

    def __init__(self, loader: torch_data.DataLoader, remaining: Remaining) -> None:
        self.remaining = remaining
        self._loader = copy.copy(loader)
        # Past torch's __setattr__, which refuses another batch sampler.
        self._loader.__dict__["batch_sampler"] = remaining

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_loader":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._loader, name)

    @property
    def skipped(self) -> int:
        """Number of batches that were left out."""
        return self.remaining.left_out

    def __len__(self) -> int:
        """Number of batches, those included that are left out."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        """The remaining batches."""
        # A generator: workers start with the first batch that is asked for, not before.
        yield from self._loader


def with_remaining(loader: Any, resumed: bool) -> tuple[Any, Remaining | None]:
    """A loader whose batches can be left out before they are loaded.

    Args:
        loader: of any kind.
        resumed: make one where it is not; otherwise the loader stays as it is.

    Returns:
        The loader, or another one in its place, and what decides which batches it gives; None for
        one that decides itself (a list of batches, an iterable data set).
    """
    remaining = getattr(loader, "remaining", None)
    if isinstance(remaining, Remaining):
        return loader, remaining
    sampler = getattr(loader, "batch_sampler", None)
    if not resumed or not isinstance(loader, torch_data.DataLoader) or sampler is None:
        return loader, None
    remaining = Remaining(sampler, loader.dataset)
    return ResumedLoader(loader, remaining), remaining


def check_divisible(loader: Any, remaining: Remaining | None) -> Remaining:
    """Refuse a loader whose batches are not the same in every process.

    Args:
        loader: of any kind.
        remaining: of it.

    Returns:
        The same.

    Raises:
        ValueError: it decides itself which batches there are, or shuffles them.
    """
    if remaining is None:
        raise ValueError(
            "expected a DataLoader with a list of images, which can be divided into shards, got "
            f"{type(loader).__name__}; run it as a whole"
        )
    sampler = getattr(remaining.batches, "sampler", None)
    if sampler is not None and not isinstance(sampler, torch_data.SequentialSampler):
        raise ValueError(
            "expected images in the order of their list, which every shard sees alike, got "
            f"{type(sampler).__name__}; make the loader with shuffle=False"
        )
    if getattr(remaining.batches, "drop_last", False):
        raise ValueError(
            "expected a DataLoader that gives all images, got drop_last=True; leave it out"
        )
    return remaining


def image_list(loader: Any) -> ImageList | None:
    """Images of a loader's whole data set.

    Args:
        loader: of any kind.

    Returns:
        The list; None where there is none, or an item without a file.
    """
    dataset = getattr(loader, "dataset", None)
    key = getattr(getattr(loader, "remaining", None), "image_key", "image")
    try:
        sources = [listed_source(dataset, index, key) for index in range(len(dataset))]  # type: ignore[arg-type]
    except TypeError:
        return None
    named = [(str(entry_name(source)), source) for source in sources if source is not None]
    if not named or len(named) < len(sources):
        return None
    members = {name: source for name, source in named if isinstance(source, list)}
    return ImageList(tuple(name for name, _ in named), members)


def listed_name(dataset: Any, index: int, image_key: str = "image") -> str | None:
    """The file of an item by the data list, without making the item.

    Args:
        dataset: with a list as ``data``, or made of such.
        index: of the item.
        image_key: where an entry holds the file name.

    Returns:
        The file, None where there is none.
    """
    try:
        return entry_name(listed_entry(dataset, index), image_key)
    except (AttributeError, TypeError, KeyError, IndexError):
        return None


def listed_source(dataset: Any, index: int, image_key: str = "image") -> str | list[str] | None:
    """What an item is loaded from by the data list, without making the item.

    Args:
        dataset: with a list as ``data``, or made of such.
        index: of the item.
        image_key: where an entry holds the file.

    Returns:
        The path of the image, or the paths of its files; None where there is none.
    """
    name = listed_name(dataset, index, image_key)
    if name is None:
        return None
    entry = listed_entry(dataset, index)
    files = entry.get(image_key) if isinstance(entry, Mapping) else entry
    if isinstance(files, list | tuple) and len(files) > 1:
        return [str(entry_name(file)) for file in files]
    return name


def listed_entry(dataset: Any, index: int) -> Any:
    """The entry of the data list that an item is made of, without making the item.

    Args:
        dataset: with a list as ``data``, or made of such.
        index: of the item.

    Returns:
        The entry.

    Raises:
        AttributeError: there is no list.
        TypeError: the list has no order.
        IndexError: the list is shorter.
    """
    if isinstance(dataset, Subset):
        return listed_entry(dataset.dataset, dataset.indices[index])
    if isinstance(dataset, ConcatDataset):
        datasets = dataset.datasets
        for part in datasets:
            if index < len(part):  # type: ignore[arg-type]
                return listed_entry(part, index)
            index -= len(part)  # type: ignore[arg-type]
        raise IndexError("beyond the joined data sets")
    data = dataset.data
    return listed_entry(data, index) if isinstance(data, Dataset) else data[index]
