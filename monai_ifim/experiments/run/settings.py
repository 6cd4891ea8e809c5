"""What one configuration file asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from monai_ifim.experiments.measures.amounts import Measures
from monai_ifim.experiments.measures.corruptions import CORRUPTIONS
from monai_ifim.experiments.networks.architectures import ARCHITECTURES
from monai_ifim.experiments.networks.training import Recipe

PROFILES = ("quick", "standard", "full")


@dataclass(frozen=True)
class Settings:
    """One experiment: a task, networks, how they are trained and what is measured.

    Attributes:
        name: of the configuration file.
        title: for people.
        profile: ``quick``, ``standard`` or ``full``.
        task: in ``tasks.TASKS``, or ``bundle`` for a classifier from outside.
        networks: architectures, with the width where it is not the usual one.
        train: training images at the most.
        test: test images at the most.
        size: to which clinical images are resized.
        recipe: of every training.
        seed: of everything that is drawn.
        measures: see there.
        controls: networks that are trained anew with another seed and with shuffled labels.
        training_sizes: numbers of training images to train on besides all of them.
        sized_networks: the networks for which that is done.
    """

    name: str
    title: str
    profile: str
    task: str
    networks: dict[str, dict[str, int]] = field(default_factory=dict)
    train: int = 1000
    test: int = 200
    size: int | None = None
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0
    measures: Measures = field(default_factory=Measures)
    controls: tuple[str, ...] = ()
    training_sizes: tuple[int, ...] = ()
    sized_networks: tuple[str, ...] = ()


def read_settings(file: Path, profile: str = "standard") -> Settings | None:
    """Read a configuration.

    The file describes the profile ``standard``; below ``profiles`` it says what is different in
    another one. A profile that is not named there does not run this experiment.

    Args:
        file: YAML.
        profile: in ``PROFILES``.

    Returns:
        The settings, or None when the experiment is not part of this profile.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: unknown profile, keys that mean nothing, or values of the wrong kind.
    """
    if profile not in PROFILES:
        raise ValueError(f"expected a profile in {list(PROFILES)}, got {profile!r}; choose one")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"expected YAML in {file}, got {error}; mend the file") from error
    if not isinstance(content, dict) or "task" not in content:
        raise ValueError(f"expected a mapping with the key task in {file}; see configs/experiments")
    profiles = content.pop("profiles", None) or {}
    if profile != "standard":
        if profile not in profiles:
            return None
        content = _merged(content, profiles[profile] or {})
    content = {"title": content["task"], **content, "name": file.stem, "profile": profile}
    for key, kind in (("recipe", Recipe), ("measures", Measures)):
        content[key] = _built(kind, content.get(key, {}), f"{file}, {key}")
    content["networks"] = _networks(content.get("networks", {}), file)
    settings: Settings = _built(Settings, content, str(file))
    _check(settings, file)
    return settings


def _check(settings: Settings, file: Path) -> None:
    """What would else be found after hours of training."""
    measures = settings.measures
    unknown = set(measures.corruptions) - set(CORRUPTIONS)
    if unknown:
        raise ValueError(
            f"expected corruptions from {list(CORRUPTIONS)} in {file}, got {sorted(unknown)}"
        )
    norms = (*measures.norms, *measures.ratio_norms)
    if not all(isinstance(n, int | float) and 0 < n < float("inf") for n in norms):
        raise ValueError(f"expected positive norms in {file}, got {norms}; leave 0 out")
    if not 0 < measures.top_share <= 1:
        raise ValueError(f"expected top_share in (0, 1] in {file}, got {measures.top_share}")
    counts = {k: v for k, v in dataclasses.asdict(measures).items() if k.endswith("_images")}
    few = {name: count for name, count in {**counts, "test": settings.test}.items() if count == 1}
    if few:
        raise ValueError(f"expected at least 2 images for intervals in {file}, got {few}")
    if settings.training_sizes and not settings.task.startswith(("signal", "lumpy")):
        raise ValueError(
            f"expected training_sizes for a task with a known answer in {file}, got "
            f"{settings.task}; take them out"
        )
    if settings.task != "bundle" and not settings.networks:
        raise ValueError(f"expected networks in {file}, got none; say networks: {{cnn: }}")
    unknown = {*settings.controls, *settings.sized_networks} - set(settings.networks)
    if unknown:
        raise ValueError(
            f"expected controls among the networks {list(settings.networks)} in {file}, got "
            f"{sorted(unknown)}; add them to networks"
        )


def _networks(given: Any, file: Path) -> dict[str, dict[str, int]]:
    """Options by architecture; checked here, because a training may be hours away."""
    if not isinstance(given, Mapping):
        raise ValueError(f"expected networks as a mapping in {file}, got {given!r}; say cnn:")
    for name, options in given.items():
        plain = options is None or (isinstance(options, Mapping) and set(options) <= {"width"})
        if name not in ARCHITECTURES or not plain or not _is_width((options or {}).get("width", 1)):
            raise ValueError(
                f"expected networks from {list(ARCHITECTURES)} with at most a width in {file}, "
                f"got {name}: {options}; see configs/experiments"
            )
    return {str(name): dict(options or {}) for name, options in given.items()}


def _is_width(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the changes; mappings one level down are merged, but not the networks."""
    merged = {**base, **changes}
    for key in ("recipe", "measures"):
        if key in base and key in changes:
            merged[key] = {**base[key], **changes[key]}
    return merged


def _built(kind: Any, content: Mapping[str, Any], place: str) -> Any:
    """A dataclass from a mapping, or a sentence about what does not fit."""
    if not isinstance(content, Mapping):
        raise ValueError(f"expected a mapping in {place}, got {content!r}; say name: value")
    known = {entry.name: entry for entry in dataclasses.fields(kind)}
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise ValueError(
            f"expected keys from {sorted(known)} in {place}, got {unknown}; take them out"
        )
    for key, value in content.items():
        if known[key].type in ("int", "float", "int | None"):
            kinds = (int, float) if known[key].type == "float" else (int,)
            absent = value is None and known[key].type == "int | None"
            wrong = isinstance(value, bool) or not isinstance(value, kinds)
            if not absent and (wrong or value < 0):
                raise ValueError(
                    f"expected a {'whole ' if kinds == (int,) else ''}number >= 0 for {key} in "
                    f"{place}, got {value!r}"
                )
        elif known[key].type == "str" and not isinstance(value, str):
            raise ValueError(f"expected a text for {key} in {place}, got {value!r}")
        elif str(known[key].type).startswith("tuple") and not isinstance(value, list):
            raise ValueError(f"expected a list for {key} in {place}, got {value!r}; say [a, b]")
    return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in content.items()})
