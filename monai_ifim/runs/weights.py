"""A network by its factory's name, and its weights from a file."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from monai_ifim.data.tensors import load_tensors
from monai_ifim.messages import reason

_KEYS = ("model", "state_dict", "model_state_dict", "network")  # where checkpoints hold weights
_PREFIX = "module."  # of DataParallel
_NAMED = 3


def make_network(factory: str, arguments: Mapping[str, Any] | None = None) -> nn.Module:
    """Call what makes a network.

    Args:
        factory: ``pkg.module:factory`` or ``path/to/file.py:factory``; the module is also looked
            for in the present folder. A class, or a function.
        arguments: of the call.

    Returns:
        The network.

    Raises:
        ValueError: there is no such factory, it fails, or what it makes is no network.

    >>> make_network("torch.nn:Linear", {"in_features": 2, "out_features": 3})
    Linear(in_features=2, out_features=3, bias=True)
    """
    place, colon, name = factory.rpartition(":")
    if not colon or not place or not name:
        raise ValueError(
            f"expected --network package.module:factory or file.py:factory, got {factory!r}; the "
            "factory is a class or function that makes the network"
        )
    try:
        made = looked_up(place, name)(**(arguments or {}))
    except Exception as error:  # the user's code raises what it likes
        raise ValueError(
            f"expected a network from {factory}, got {reason(error)}; check the name, and give "
            "what it needs with --arguments NAME=VALUE"
        ) from error
    if not isinstance(made, nn.Module):
        raise ValueError(
            f"expected a torch.nn.Module from {factory}, got {type(made).__name__}; name a class "
            "or a function that makes one"
        )
    return made


def load_weights(network: nn.Module, file: str | os.PathLike[str]) -> str:
    """Load a network's weights; no code of the file is run.

    Args:
        network: gets the weights.
        file: a state dictionary, by itself or under one of the usual keys of checkpoints.

    Returns:
        What was loaded, in words.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no state dictionary, or one that does not fit.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(
            f"expected a file of weights, got {os.fspath(file)!r}, which does not exist; check "
            "the path"
        )
    content = load_tensors(file)
    state, key = _state(content, file)
    cut = bool(state) and all(name.startswith(_PREFIX) for name in state)
    own = network.state_dict()
    if cut and not all(name.startswith(_PREFIX) for name in own):
        state = {name.removeprefix(_PREFIX): value for name, value in state.items()}
    else:
        cut = False
    _check(own, state, file)
    network.load_state_dict(state)
    found = f", under {key!r}" if key else ""
    return f"{os.fspath(file)} ({len(state)} tensors{found}{', without module.' if cut else ''})"


def looked_up(place: str, name: str) -> Any:
    """An object of a module or of a file with Python code.

    Args:
        place: ``pkg.module``, also looked for in the present folder, or ``path/to/file.py``.
        name: of the object there.

    Returns:
        The object.

    Raises:
        FileNotFoundError: there is no such file. Whatever else the code raises.
    """
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        if spec is None or spec.loader is None or not Path(place).is_file():
            raise FileNotFoundError(f"no file {place}")
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(spec.name, module)
        spec.loader.exec_module(module)
    else:
        with _present_folder():
            module = importlib.import_module(place)
    return getattr(module, name)


@contextmanager
def _present_folder() -> Iterator[None]:
    """A console script does not look for modules in the present folder; ``python -m`` does."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _state(content: Any, file: str | os.PathLike[str]) -> tuple[dict[str, Tensor], str]:
    """The state dictionary in a file's content, and the key it lies under."""
    named = content if isinstance(content, Mapping) else {}
    for key, part in [("", content), *((key, named.get(key)) for key in _KEYS)]:
        if isinstance(part, Mapping) and part and all(isinstance(v, Tensor) for v in part.values()):
            return {str(name): value for name, value in part.items()}, key
    keys = ", ".join(map(str, list(named)[:8]))
    got = f"the keys {keys}" if named else f"a {type(content).__name__}"
    raise ValueError(
        f"expected a state dictionary in {os.fspath(file)}, by itself or under one of "
        f"{', '.join(_KEYS)}, got {got}; save network.state_dict()"
    )


def _check(own: Mapping[str, Tensor], state: Mapping[str, Tensor], file: Any) -> None:
    """Say which weights do not fit."""
    problems = {
        "missing": [name for name in own if name not in state],
        "unknown": [name for name in state if name not in own],
        "of another shape": [
            f"{name} {tuple(value.shape)} for {tuple(own[name].shape)}"
            for name, value in state.items()
            if name in own and own[name].shape != value.shape
        ],
    }
    told = [
        f"{len(names)} {what} ({', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''})"
        for what, names in problems.items()
        if names
    ]
    if told:
        raise ValueError(
            f"expected weights of this network's {len(own)} tensors in {os.fspath(file)}, got "
            f"{'; '.join(told)}; give the network the arguments that it was trained with"
        )
