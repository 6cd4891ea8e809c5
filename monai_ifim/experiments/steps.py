"""Steps of a long run whose results are kept, so that a stopped run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_ifim.data.atomic import complete_file


class Steps:
    """Results on disk, found again by everything that they depend on.

    Attributes:
        reused: how many steps were found done.
        computed: how many were computed.
    """

    def __init__(
        self, folder: str | os.PathLike[str], say: Callable[[str], None] | None = None
    ) -> None:
        """Open a folder of results.

        Args:
            folder: made if missing.
            say: called with one line per step.
        """
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._say = say or (lambda line: None)
        self.reused = 0
        self.computed = 0
        self._seconds: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        """What all steps met so far took, in this run or in the one that computed them."""
        return sum(self._seconds.values())

    def run(self, title: str, key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        """The result for this key: from disk, or computed and kept.

        Args:
            title: for people, and the beginning of the file's name.
            key: all that the result depends on, of numbers, texts, lists and mappings.
            compute: gives the result, of tensors, numbers, texts, lists and dictionaries.

        Returns:
            What ``compute`` gave, now or in an earlier run.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first = Steps(folder).run("sum", {"a": 1}, lambda: 1 + 1)
        ...     steps = Steps(folder)
        ...     second = steps.run("sum", {"a": 1}, lambda: 0)
        >>> first, second, steps.reused
        (2, 2, 1)
        """
        short = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        file = self.folder / f"{title.replace(' ', '-').replace('/', '-')}-{short}.pt"
        kept = self._kept(title, file)
        if kept is not None:
            if file.name not in self._seconds:  # and not a moment ago, for another part
                self.reused += 1
                self._say(f"{title}: done in an earlier run ({file.name})")
            self._seconds[file.name] = kept["seconds"]
            return kept["value"]
        start = time.perf_counter()
        value = compute()
        seconds = time.perf_counter() - start
        with complete_file(file) as partial:
            torch.save({"key": json.dumps(key), "seconds": seconds, "value": value}, partial)
        self.computed += 1
        self._seconds[file.name] = seconds
        self._say(f"{title}: {seconds:.0f} s")
        return value

    def _kept(self, title: str, file: Path) -> dict[str, Any] | None:
        """What a file holds, or None where it is absent or damaged."""
        if not file.is_file():
            return None
        try:
            kept: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            self._say(f"{title}: {file.name} is damaged and computed anew ({error})")
            return None
        return kept


def digest(*parts: Tensor | str) -> str:
    """Short name of what tensors and texts hold, for keys.

    Args:
        parts: of any shape and type.

    Returns:
        16 hexadecimal digits.

    >>> digest(torch.zeros(2)) == digest(torch.zeros(2)), digest("a") == digest("b")
    (True, False)
    """
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            total.update(f"{part.dtype} {tuple(part.shape)}".encode())
            content = part.detach().cpu().contiguous().flatten().view(torch.uint8)
            total.update(content.numpy().data)
        else:
            total.update(part.encode())
    return total.hexdigest()[:16]
