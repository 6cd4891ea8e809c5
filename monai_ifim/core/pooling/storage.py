"""Tensors and texts in one file: the safetensors format, which runs no code when it is read.

Eight bytes with the length of the header, a header in JSON (name, dtype, shape and place of each
tensor, texts under ``__metadata__``), then the values in C order, little-endian.

Source: https://github.com/huggingface/safetensors (format), version 0.x.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "I64": torch.int64}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# As in the reference implementation: a longer header is no header.
_LONGEST_HEADER = 100_000_000


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], texts: Mapping[str, str]
) -> None:
    """Write a file that appears only when it is complete.

    Args:
        path: of the file; its folder must exist.
        tensors: float64, float32 or int64.
        texts: kept beside them.
    """
    header: dict[str, Any] = {"__metadata__": dict(texts)}
    parts, start = [], 0
    for name, tensor in tensors.items():
        data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        stop = start + len(data)
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
        parts.append(data)
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.writelines(parts)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file of tensors.

    Args:
        path: of the file.

    Returns:
        The tensors on the CPU, and the texts.

    Raises:
        ValueError: the file is not complete, or of another format.
        OSError: it cannot be read.
    """
    data = Path(path).read_bytes()
    try:
        (length,) = struct.unpack_from("<Q", data)
        if length > min(_LONGEST_HEADER, len(data) - 8):
            raise ValueError("the header is longer than the file")
        header = json.loads(data[8 : 8 + length])
        texts = header.pop("__metadata__", {})
        values = memoryview(data)[8 + length :]
        return {name: _tensor(values, **entry) for name, entry in header.items()}, texts
    except (struct.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"expected a complete file of tensors (safetensors), got {path}: {error}; write it "
            "with save()"
        ) from error


def read_texts(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the texts of a file of tensors alone.

    Args:
        path: of the file.

    Returns:
        The texts.

    Raises:
        ValueError: the file is of another format.
        OSError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LONGEST_HEADER:
                raise ValueError("the header is longer than the file")
            texts = json.loads(file.read(length)).get("__metadata__", {})
    except (struct.error, ValueError, AttributeError) as error:
        raise ValueError(
            f"expected a file of tensors (safetensors), got {path}: {error}; write it with save()"
        ) from error
    return {str(name): str(text) for name, text in texts.items()}


def _tensor(values: memoryview, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    start, stop = data_offsets
    kind = _DTYPES[dtype]
    size = torch.Size(shape).numel() * kind.itemsize
    if not 0 <= start <= stop <= len(values) or stop - start != size:
        raise ValueError(f"values from {start} to {stop} of {len(values)} bytes, {size} expected")
    if size == 0:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(bytearray(values[start:stop]), dtype=kind).view(shape)
