"""What an engine puts out of a batch, whose kind nobody knows beforehand."""

from __future__ import annotations

from typing import Any

from monai.data import decollate_batch
from torch import Tensor


def add_to_output(output: Any, values: dict[str, Tensor]) -> None:
    """Add the values of a batch to an engine's output, where that is a dictionary or several.

    Args:
        output: changed in place; of any other kind it stays as it is.
        values: of the batch, by name.
    """
    if isinstance(output, dict):
        output.update(values)
    elif isinstance(output, list) and all(isinstance(item, dict) for item in output):
        for item, own in zip(output, decollate_batch(values), strict=True):
            item.update(own)
