"""Names of a bundle's classes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def class_names(bundle_root: str | os.PathLike[str]) -> list[str]:
    """Names of the classes or labels that a bundle's network predicts, in order.

    Args:
        bundle_root: folder of the bundle.

    Returns:
        ``channel_def`` of the first output in ``configs/metadata.json``; empty when the file is
        not there or names no channels.
    """
    path = Path(bundle_root) / "configs" / "metadata.json"
    if not path.is_file():
        return []
    metadata = json.loads(path.read_text(encoding="utf-8"))
    outputs: dict[str, Any] = metadata.get("network_data_format", {}).get("outputs", {})
    first: dict[str, Any] = next(iter(outputs.values()), {})
    channels = first.get("channel_def", {})
    return [str(name) for _, name in sorted(channels.items(), key=lambda item: int(item[0]))]
