"""How much of an acquisition parameter each prediction tolerates."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from functools import partial
from typing import Any

from torch import Tensor

from monai_ifim.changes import MissingEntry
from monai_ifim.core import Nuisance, check_nuisances, predicted_logits, sensitivity_of
from monai_ifim.nuisances import (
    BiasField,
    Blur,
    Gain,
    Gamma,
    Magnification,
    Noise,
    Offset,
    Rotation,
    Shift,
)
from monai_ifim.questions.question import Answer, Asked

Chosen = str | Mapping[str, Any] | Nuisance
KINDS: dict[str, Any] = {
    "rotation": Rotation,
    "shift": Shift,
    "scale": Magnification,
    "gain": Gain,
    "offset": Offset,
    "gamma": Gamma,
    "bias_field": BiasField,
    "blur": Blur,
    "noise": Noise,
}
_FIXED = ("name", "unit", "one_sided")


class NuisanceColumns:
    """Columns of the amounts at which a rotation, a gain, a blur … changes each prediction.

    With ``<name>`` of each nuisance, in its unit:

    - ``nuisance_<name>``: the amount, with its sign, at which the KL divergence of the prediction
      reaches ``level``, measured by forward passes; empty where it does not within the reach.
    - ``nuisance_<name>_law``: the amount by the quadratic law; empty where there is no reaction.
    - ``nuisance_<name>_flip``: the amount, with its sign, at which the answer was seen to have
      changed; empty where it did not within the reach. Of classifiers.
    - ``nuisance_worst``: KL in nats of the worst combination of all, of length 1 in units of their
      reaches, by the quadratic law.

    No backward pass, at most 12 forward passes for each nuisance.

    Args:
        nuisances: names, names with options (``{"rotation": {"reach": 10}}``), or objects of
            ``monai_ifim.nuisances``. Voxels have the spacing of the preprocessed image, where it
            carries one.
        level: KL divergence that counts as a change, in nats.

    Attributes:
        nuisances: by name in the columns.
        ranges: reach, unit and whether it is one-sided, by that name.

    Raises:
        ValueError: an unknown name or option, none at all, or two of the same name.

    >>> list(NuisanceColumns(["rotation", {"shift": {"axis": 1}}]).nuisances)
    ['rotation', 'shift_along_axis_1']
    """

    name = "nuisances"
    volumes = ()

    def __init__(self, nuisances: Sequence[Chosen] | Chosen, level: float = 0.1) -> None:
        found = chosen_nuisances(nuisances)
        check_nuisances(found, level)
        names = [re.sub(r"\W+", "_", nuisance.name).strip("_") for nuisance in found]
        if len(set(names)) < len(names):
            raise ValueError(
                f"expected nuisances of different names, got {', '.join(names)}; leave one out"
            )
        self.level, self.nuisances = level, dict(zip(names, found, strict=True))
        self.ranges = {
            name: {"reach": each.reach, "unit": each.unit, "one_sided": each.one_sided}
            for name, each in self.nuisances.items()
        }

    def answer(self, asked: Asked) -> Answer:
        """Amounts of some images.

        Args:
            asked: the images.

        Returns:
            Columns.

        Raises:
            MissingEntry: the run has a ``perturbation``, beside which there are no nuisances, or
                the images lack an axis that was asked for.
            ValueError: an image that a nuisance cannot change, or on which the network returns NaN
                when it is changed.
        """
        if asked.options.perturbation is not None:
            raise MissingEntry(
                "expected all changes of the images beside nuisances, which are changes of their "
                f"own, got {asked.options.perturbation!r}; leave out one of them"
            )
        for each in self.nuisances.values():
            _check(each, asked.images)
        nuisances = [_with_spacing(each, asked.spacing) for each in self.nuisances.values()]
        predict = partial(
            predicted_logits, asked.predict, output_transform=asked.options.output_transform
        )
        found = sensitivity_of(asked.space, asked.images, nuisances, predict, self.level)
        measured, flips = found.measured, found.flips
        assert measured is not None
        assert flips is not None
        answers = asked.space.logits.ndim == 2 and not bool(flips.isnan().any())
        columns: list[dict[str, Any]] = [{} for _ in asked.images]
        for i, name in enumerate(self.nuisances):
            _add(columns, f"nuisance_{name}", measured[:, i])
            _add(columns, f"nuisance_{name}_law", found.local[:, i])
            if answers:
                _add(columns, f"nuisance_{name}_flip", flips[:, i])
        if len(nuisances) > 1:
            _add(columns, "nuisance_worst", found.worst_divergence)
        return Answer(columns)


def chosen_nuisances(nuisances: Sequence[Chosen] | Chosen) -> list[Nuisance]:
    """Nuisances by what a configuration says.

    Args:
        nuisances: names, names with options, or objects.

    Returns:
        Objects.

    Raises:
        ValueError: an unknown name or option, or a reach that is none.

    >>> chosen_nuisances(["gain", {"rotation": {"reach": 10}}])[1].reach
    10
    >>> chosen_nuisances("rotations")
    Traceback (most recent call last):
        ...
    ValueError: expected a nuisance from rotation, shift, scale, gain, offset, gamma, bias_field, \
blur, noise, got 'rotations' (did you mean 'rotation'?); write one of these, or give an object
    """
    several = isinstance(nuisances, Sequence) and not isinstance(nuisances, str)
    each_of: Sequence[Any] = nuisances if several else [nuisances]  # type: ignore[assignment]
    found: list[Nuisance] = []
    for each in each_of:
        if isinstance(each, str):
            found.append(_made(each, {}))
        elif isinstance(each, Mapping):
            found += [_made(name, options or {}) for name, options in each.items()]
        else:
            found.append(each)
    return found


def _made(name: str, options: Mapping[str, Any]) -> Nuisance:
    if name not in KINDS:
        raise ValueError(
            f"expected a nuisance from {', '.join(KINDS)}, got {name!r}{_hint(name, KINDS)}; "
            "write one of these, or give an object"
        )
    known = [each.name for each in fields(KINDS[name]) if each.name not in _FIXED]
    for option in options:
        if option not in known:
            raise ValueError(
                f"expected an option of {name} from {', '.join(known)}, got {option!r}"
                f"{_hint(option, known)}; leave it out, or write one of these"
            )
    for option in {"reach", "step"} & set(options):
        value = options[option]
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(
                f"expected a number > 0 as the {option} of {name}, got {value!r}; leave it out for "
                f"{getattr(KINDS[name](), option):g}"
            )
    made: Nuisance = KINDS[name](**options)
    return made


def _hint(name: object, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _check(nuisance: Any, images: Tensor) -> None:
    """What is wrong with the choice is no image's fault: the run ends."""
    if hasattr(nuisance, "check"):
        try:
            nuisance.check(images)
        except ValueError as error:
            raise MissingEntry(str(error)) from error


def _with_spacing(nuisance: Any, spacing: Tensor | None) -> Nuisance:
    there = spacing is not None and hasattr(nuisance, "with_spacing")
    found: Nuisance = nuisance.with_spacing(spacing) if there else nuisance
    return found


def _add(columns: list[dict[str, Any]], name: str, values: Tensor) -> None:
    """A column; empty where there is no such amount."""
    for own, value in zip(columns, values.tolist(), strict=True):
        own[name] = value if math.isfinite(value) else None
