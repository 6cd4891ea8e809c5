"""Versions, devices, memory and readers of this machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from monai_ifim.data.sources.formats import DICOM, FORMATS, Format

_NEEDED = ("torch", "monai", "pytorch-ignite", "nibabel", "numpy")
# Distributions of modules that have another name.
_DISTRIBUTIONS = {"nrrd": "pynrrd", "PIL": "pillow", "itk": "itk-io"}
# Module, what it is for, and the extra that brings it.
_OPTIONAL = (
    ("highdicom", "DICOM series with their geometry", "dicom"),
    ("isal", "faster .nii.gz", "fast"),
    ("pyarrow", "ifim.parquet", "parquet"),
    ("matplotlib", "pictures", "report"),
)


def machine_lines() -> list[str]:
    """Versions, devices and memory.

    Returns:
        Lines of text.
    """
    own = f"monai_ifim {_version('monai-ifim')}, Python {platform.python_version()}"
    lines = [
        f"{own}, {platform.system()} {platform.machine()}",
        ", ".join(f"{name} {_version(name)}" for name in _NEEDED),
        f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads of torch, {_memory()}",
    ]
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        lines.append(f"cuda:{number}: {name}, {in_bytes(total)}, {in_bytes(free)} free")
    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else " (torch is built for the CPU)"
        lines.append(f"cuda: no GPU that torch can use{built}")
    return lines


def reader_lines() -> list[str]:
    """Which files can be read, and what to install for the others.

    Returns:
        Lines of text.
    """
    lines = [_reader(each, " ".join(each.suffixes)) for each in FORMATS]
    lines.append(_reader(DICOM, "DICOM"))
    for module, purpose, extra in _OPTIONAL:
        lines.append(
            f"{purpose}: {module} {_version(module)}"
            if _installed(module)
            else f"{purpose}: not installed; pip install 'monai_ifim[{extra}]'"
        )
    return lines


def in_bytes(count: float) -> str:
    """A number of bytes as people read it.

    Args:
        count: bytes.

    Returns:
        Three digits and a unit.

    >>> in_bytes(3.2e9), in_bytes(5_000_000)
    ('2.98 GiB', '4.77 MiB')
    """
    gibibytes = count / 2**30
    return f"{gibibytes:.3g} GiB" if gibibytes >= 1 else f"{count / 2**20:.3g} MiB"


def _reader(kind: Format, name: str) -> str:
    there = [module for module in kind.libraries if _installed(module)]
    if not there:
        return f"reads no {name}; pip install {kind.packages} (or 'monai_ifim[images]', for all)"
    libraries = (f"{module} {_version(_DISTRIBUTIONS.get(module, module))}" for module in there)
    return f"reads {name}: {', '.join(libraries)}"


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # None in sys.modules
        return False


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "of unknown version" if _installed(distribution) else "not installed"


def _memory() -> str:
    """Memory of the machine, or of the container where that is less."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return "memory unknown"
    limit = _first_number(Path("/sys/fs/cgroup/memory.max"))
    text = f"{in_bytes(total if limit is None else min(limit, total))} memory"
    available = _first_number(Path("/proc/meminfo"), "MemAvailable:")
    return text if available is None else f"{text}, {in_bytes(available * 1024)} of it available"


def _first_number(file: Path, name: str = "") -> int | None:
    """The number behind a name in a file of the system; None where there is none."""
    try:
        words = file.read_text().partition(name)[2].split() if name else file.read_text().split()
        return int(words[0])
    except (OSError, ValueError, IndexError):
        return None
