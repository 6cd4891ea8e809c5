"""What a bundle's ``metadata.json`` says of its network's input and output."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def read_metadata(file: str | os.PathLike[str]) -> dict[str, Any]:
    """Content of a bundle's metadata.

    Args:
        file: path of ``metadata.json``.

    Returns:
        The JSON object.

    Raises:
        json.JSONDecodeError: the file is no JSON.
    """
    metadata: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
    return metadata


def image_input(metadata: dict[str, Any]) -> tuple[str, Any]:
    """Name and spatial shape of the network's first input.

    Args:
        metadata: content of ``metadata.json``.

    Returns:
        The name, ``image`` where none is given; the shape as it is written (numbers, or text such
        as ``"*"``), or None.

    >>> image_input({"network_data_format": {"inputs": {"scan": {"spatial_shape": [64, 64]}}}})
    ('scan', [64, 64])
    >>> image_input({})
    ('image', None)
    """
    inputs: dict[str, Any] = metadata.get("network_data_format", {}).get("inputs", {})
    name = next(iter(inputs), "image")
    return name, inputs.get(name, {}).get("spatial_shape")


def is_segmentation(metadata: dict[str, Any]) -> tuple[bool, str]:
    """Whether a bundle's network predicts classes at each voxel, by its metadata.

    Args:
        metadata: content of ``metadata.json``.

    Returns:
        Yes or no; and what says so.

    >>> is_segmentation({"network_data_format": {"outputs": {"pred": {"format": "segmentation"}}}})
    (True, "metadata.json says format: segmentation of the output 'pred'")
    >>> is_segmentation({})
    (False, 'metadata.json says nothing of an output')
    """
    outputs: dict[str, Any] = metadata.get("network_data_format", {}).get("outputs", {})
    if not outputs:
        return False, "metadata.json says nothing of an output"
    name, output = next(iter(outputs.items()))
    kind = "format" if output.get("format") else "type"
    value = str(output.get(kind, "")).lower()
    segments = "segment" in value if kind == "format" else value == "image"
    return segments, f"metadata.json says {kind}: {value or 'nothing'} of the output {name!r}"


def class_names(bundle_root: str | os.PathLike[str]) -> list[str]:
    """Names of the classes or labels that a bundle's network predicts, in order.

    Args:
        bundle_root: folder of the bundle.

    Returns:
        ``channel_def`` of the first output in ``configs/metadata.json``; empty when the file is
        not there or names no channels.
    """
    first: dict[str, Any] = next(iter(_data_format(bundle_root, "outputs").values()), {})
    return [name for _, name in _channels(first)]


def channel_names(bundle_root: str | os.PathLike[str]) -> list[str]:
    """Names of the channels of a bundle's images, in order.

    Args:
        bundle_root: folder of the bundle.

    Returns:
        ``channel_def`` of the first input in ``configs/metadata.json``; empty when the file is
        not there or names no channels.
    """
    first: dict[str, Any] = next(iter(_data_format(bundle_root, "inputs").values()), {})
    return [name for _, name in _channels(first)]


def label_names(bundle_root: str | os.PathLike[str], key: str) -> dict[str, int]:
    """Names and numbers of the regions of a bundle's label maps.

    Args:
        bundle_root: folder of the bundle.
        key: of the label maps.

    Returns:
        ``channel_def`` of the input of that name in ``configs/metadata.json``; where there is none,
        of the first output of a segmentation, whose numbers are those of its label maps. Empty
        where neither names any.
    """
    inputs, outputs = (_data_format(bundle_root, part) for part in ("inputs", "outputs"))
    if key in inputs:
        return {name: number for number, name in _channels(inputs[key])}
    if not is_segmentation({"network_data_format": {"outputs": outputs}})[0]:
        return {}
    return {name: number for number, name in _channels(next(iter(outputs.values())))}


def _data_format(bundle_root: str | os.PathLike[str], part: str) -> dict[str, Any]:
    path = Path(bundle_root) / "configs" / "metadata.json"
    found = read_metadata(path).get("network_data_format", {}) if path.is_file() else {}
    named: dict[str, Any] = found.get(part, {})
    return named


def _channels(data: dict[str, Any]) -> list[tuple[int, str]]:
    """Numbers and names of ``channel_def``, in the order of the numbers."""
    pairs = ((int(number), str(name)) for number, name in data.get("channel_def", {}).items())
    return sorted(pairs)
