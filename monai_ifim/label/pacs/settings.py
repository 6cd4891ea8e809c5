"""What a person sets about the PACS, as ``--conf NAME=VALUE``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

VOLUMES = ("CT", "MR")
PICTURES = ("CR", "DX", "MG", "XA")
# What holds no image of the patient, whatever modalities are asked for.
NO_IMAGES = (
    *("SEG", "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTRECORD", "RTDOSE", "REG", "FID", "DOC"),
    *("AU", "ECG", "EPS", "HD", "PLAN", "RWV", "SMR", "ASMT", "OSS", "PMAP"),
)
RECEIVES = ("labels", "viewer", "results")


@dataclass(frozen=True)
class PacsSettings:
    """Settings, each with its name on the command line.

    Attributes:
        modalities: ``pacs_modalities``, with commas between; ``all`` for every image.
        filters: ``pacs_filter``, further conditions of the search as a JSON object.
        listing_seconds: ``pacs_listing_seconds``, how long a listing counts as new.
        seconds: ``pacs_seconds``, for a search.
        download_seconds: ``pacs_download_seconds``, for a series.
        cache: ``pacs_cache``, folder of the converted images.
        cache_bytes: ``pacs_cache_gb``, the least recently used images go beyond it.
        scoring: ``pacs_scoring``, how many series are scored of the server's own accord.
        receives: ``pacs_receives``, what the PACS gets: some of ``labels``, ``viewer`` and
            ``results``, or nothing.
    """

    modalities: tuple[str, ...] = VOLUMES
    filters: Mapping[str, str] | None = None
    listing_seconds: float = 30
    seconds: float = 20
    download_seconds: float = 300
    cache: Path = Path.home() / ".cache" / "monai_ifim" / "pacs"
    cache_bytes: float = 20e9
    scoring: int = 0
    receives: tuple[str, ...] = ()


def read_settings(conf: Mapping[str, str], *, pictures: bool) -> PacsSettings:
    """Settings of a command line.

    Args:
        conf: of the app.
        pictures: whether a bundle takes 2D images, which X-rays are.

    Returns:
        The settings.

    Raises:
        ModuleNotFoundError: what results are stored with is not installed.
        ValueError: a value that cannot be.

    >>> read_settings({"pacs_modalities": "MR, ct", "pacs_scoring": "5"}, pictures=True).modalities
    ('MR', 'CT')
    >>> read_settings({"pacs_receives": "everything"}, pictures=True)
    Traceback (most recent call last):
        ...
    ValueError: expected pacs_receives from labels, viewer, results, got everything
    """
    usual = ",".join(VOLUMES + (PICTURES if pictures else ()))
    default = PacsSettings()
    receives = _words(conf.get("pacs_receives", ""))
    unknown = [word for word in receives if word not in RECEIVES]
    if unknown:
        raise ValueError(f"expected pacs_receives from {', '.join(RECEIVES)}, got {unknown[0]}")
    for name in ("highdicom", "matplotlib") if "results" in receives else ():
        if find_spec(name) is None:
            raise ModuleNotFoundError(
                f"expected {name}, which pacs_receives=results needs, got none; "
                "pip install 'monai_ifim[label]'",
                name=name,
            )
    modalities = _words(conf.get("pacs_modalities", usual).upper())
    banned = [word for word in modalities if word in NO_IMAGES]
    if banned or not modalities:
        raise ValueError(
            f"expected pacs_modalities of images, such as CT,MR, or all, got {modalities}"
        )
    return PacsSettings(
        modalities=modalities,
        filters=_filters(conf.get("pacs_filter", "{}")),
        listing_seconds=_number(conf, "pacs_listing_seconds", default.listing_seconds),
        seconds=_number(conf, "pacs_seconds", default.seconds, 0.1),
        download_seconds=_number(conf, "pacs_download_seconds", default.download_seconds, 0.1),
        cache=Path(conf.get("pacs_cache") or default.cache).expanduser(),
        cache_bytes=1e9 * _number(conf, "pacs_cache_gb", default.cache_bytes / 1e9),
        scoring=int(_number(conf, "pacs_scoring", default.scoring)),
        receives=receives,
    )


def _words(value: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in value.split(",") if word.strip())


def _number(conf: Mapping[str, Any], name: str, default: float, least: float = 0) -> float:
    try:
        value = float(conf.get(name, default))
    except ValueError:
        value = math.nan
    if not least <= value < math.inf:
        raise ValueError(f"expected {name} as a number from {least:g}, got {conf[name]}")
    return value


def _filters(value: str) -> dict[str, str]:
    try:
        filters = json.loads(value)
    except ValueError:
        filters = None
    if not isinstance(filters, dict) or not all(isinstance(v, str) for v in filters.values()):
        raise ValueError(
            f"""expected pacs_filter as a JSON object such as {{"PatientID": "A*"}}, got {value}"""
        )
    return filters
