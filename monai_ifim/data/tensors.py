"""Files that ``torch.save`` wrote, of which no code is run."""

from __future__ import annotations

import os
import pickle
from typing import Any

import torch

from monai_ifim.messages import reason


def load_tensors(file: str | os.PathLike[str]) -> Any:
    """Tensors, numbers, texts, lists and dictionaries of a file.

    Args:
        file: written by ``torch.save``.

    Returns:
        The content, on the CPU.

    Raises:
        ValueError: it cannot be read, or holds other objects: loading those could run code.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise what they like
        # torch's text of a pickle says how to load it all the same.
        pickled = isinstance(error, pickle.UnpicklingError)
        why = "a damaged file or pickled objects, which could run code" if pickled else ""
        raise ValueError(
            "expected weights saved by torch.save(network.state_dict(), ...), got "
            f"{os.fspath(file)} ({why or reason(error)}); save the state dictionary alone, "
            "without code"
        ) from error
