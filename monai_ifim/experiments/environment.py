"""Where a result was computed."""

from __future__ import annotations

import datetime
import platform
from importlib.metadata import version
from pathlib import Path

import torch

_PACKAGES = ("torch", "monai", "monai-ifim", "numpy", "scipy", "captum")


def versions() -> dict[str, str]:
    """Versions of the packages whose numbers these are, for keys and files of results."""
    return {name.replace("-", "_"): version(name) for name in _PACKAGES}


def environment() -> dict[str, str | int]:
    """Versions, device and date, for a file of results.

    Returns:
        Texts and numbers ready for JSON.

    >>> environment()["python"].count(".")
    2
    """
    return {
        "python": platform.python_version(),
        **versions(),
        "device": "cpu",
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
    }


def processor() -> str:
    """The processor by name, as far as the system tells."""
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
