"""What makes the results of a run: network, settings, preprocessing. The same gives the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import ImageWriter
from torch import Tensor

_DEPTH = 6
# Of an object that is none of these, no dataclass, and neither question nor nuisance, only its
# class counts: others hold what changes with time.
_MODULES = ("monai.transforms", "monai.inferers", "monai_ifim")


def described(value: Any, depth: int = 0) -> Any:
    """A value as JSON that is the same in every process, for comparison.

    Args:
        value: a number, text, array, container, function, or an object such as a transform, of
            which the public attributes count. So do those of dataclasses, questions and nuisances
            of anybody; of other objects that are not MONAI's or ours the class alone.
        depth: how many objects it is inside of.

    Returns:
        Numbers, texts, lists and dictionaries; arrays by their digest.

    >>> described({"rank": 2, "transform": torch.nn.functional.relu})
    {'rank': 2, 'transform': 'torch.nn.functional.relu'}
    """
    result: Any
    if value is None or isinstance(value, bool | int | float | str):
        result = value
    elif isinstance(value, Tensor | np.ndarray | np.generic):
        result = _digest(value)
    elif isinstance(value, os.PathLike | torch.dtype | torch.device | np.dtype):
        result = str(value)
    elif depth >= _DEPTH:
        result = _class(type(value))
    elif isinstance(value, Mapping):
        result = {str(key): described(each, depth + 1) for key, each in value.items()}
    elif isinstance(value, list | tuple):
        result = [described(each, depth + 1) for each in value]
    elif isinstance(value, set | frozenset):
        result = sorted(str(described(each, depth + 1)) for each in value)
    elif callable(value) and hasattr(value, "__qualname__"):
        result = _function(value)
    else:
        result = _object(value, depth)
    return result


def files_digest(files: Iterable[str | os.PathLike[str]]) -> str:
    """SHA-256 of the content of files.

    Args:
        files: in order.

    Returns:
        64 hexadecimal digits.
    """
    total = hashlib.sha256()
    for file in files:
        total.update(hashlib.sha256(Path(file).read_bytes()).digest())
    return total.hexdigest()


def _object(value: Any, depth: int) -> Any:
    name = _class(type(value))
    attributes = _attributes(value)
    public = {
        # SaveImage keeps the writer of its last image: what it did, not what it is.
        key: described(None if isinstance(each, ImageWriter) else each, depth + 1)
        for key, each in sorted(attributes.items())
        if not key.startswith("_") and not isinstance(each, np.random.RandomState)
    }
    return {"is": name, **public} if public else name


def _attributes(value: Any) -> dict[str, Any]:
    """What an object was made with, as far as it shows; nothing of one whose state changes."""
    if is_dataclass(value):
        names = [each.name for each in fields(value)]
    elif type(value).__module__.startswith(_MODULES) or _is_asked(value):
        names = []
    else:
        return {}
    chosen = {name: getattr(value, name) for name in names if hasattr(value, name)}
    return chosen | getattr(value, "__dict__", {})


def _is_asked(value: Any) -> bool:
    """Whether it is a question or a nuisance, also one that somebody else wrote."""
    needed = (("name", "answer"), ("name", "unit", "reach", "one_sided", "step"))
    return any(all(hasattr(value, each) for each in names) for names in needed)


def _class(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _function(value: Any) -> str:
    name = f"{value.__module__}.{value.__qualname__}"
    code = getattr(value, "__code__", None)
    if "<lambda>" not in name or code is None:
        return name
    told = (code.co_code, code.co_names, repr([c for c in code.co_consts if not callable(c)]))
    return f"lambda {hashlib.sha256(repr(told).encode()).hexdigest()[:12]}"


def _digest(value: Any) -> str:
    array = np.ascontiguousarray(torch.as_tensor(value).detach().cpu().numpy())
    text = hashlib.sha256(array.tobytes()).hexdigest()[:16]
    return f"{array.dtype} {array.shape} {text}"
