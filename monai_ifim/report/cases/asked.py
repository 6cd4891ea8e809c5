"""What else was asked of an image: nuisances that its prediction tolerates, shares of regions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WIDTH = 400  # of the drawing of a range
# What is done to the image, by how the column begins.
_DONE = {
    "rotation": "turned by",
    "shift": "moved by",
    "scale": "magnified by",
    "gain": "brightened by",
    "offset": "raised by",
    "gamma": "bent by",
    "bias_field": "shaded by",
    "blur": "blurred by",
    "noise": "given noise of",
}
_SHARES = (("share_", "regions"), ("channel_share_", "channels"))


@dataclass(frozen=True)
class Tolerance:
    """What a prediction tolerates of one nuisance.

    Attributes:
        name: of the column, without ``nuisance_``.
        unit: of the amounts.
        reach: largest plausible amount.
        one_sided: only amounts >= 0 have a meaning.
        level: KL divergence in nats that counts as a change.
        amount: at which it is reached, measured, with its sign; None where it is not within the
            reach.
        law: the same by the quadratic law, without a sign; None where there is no reaction.
        flip: amount at which the answer was seen to have changed; None where it did not.
    """

    name: str
    unit: str
    reach: float
    one_sided: bool
    level: float
    amount: float | None = None
    law: float | None = None
    flip: float | None = None

    @property
    def title(self) -> str:
        """Its name in words."""
        return self.name.replace("_", " ")

    @property
    def text(self) -> str:
        """What was measured.

        >>> Tolerance("rotation", "degrees", 15.0, False, 0.1, 2.13).text
        'moves by 0.1 nat when the image is turned by 2.1 degrees'
        >>> Tolerance("blur", "squared voxels", 1.0, True, 0.1).text
        'not by 0.1 nat within 1 squared voxels'
        """
        if self.amount is None:
            side = "" if self.one_sided else "±"
            return f"not by {self.level:g} nat within {side}{self.reach:g} {self.unit}"
        done = next((d for name, d in _DONE.items() if self.name.startswith(name)), "changed by")
        return f"moves by {self.level:g} nat when the image is {done} {self._said(self.amount)}"

    @property
    def answer(self) -> str:
        """Whether the answer changes; empty where it was not seen to."""
        return "" if self.flip is None else f"another answer at {self._said(self.flip)}"

    def place(self, amount: float) -> float:
        """Where an amount is in the drawing, from 0 to ``WIDTH``."""
        low = 0.0 if self.one_sided else -self.reach
        share = (amount - low) / (self.reach - low)
        return round(WIDTH * min(max(share, 0.0), 1.0), 1)

    @property
    def tolerated(self) -> tuple[float, float]:
        """Where the range begins and ends in which the level was not reached."""
        most = self.reach if self.amount is None else abs(self.amount)
        return self.place(-most), self.place(most)

    def _said(self, amount: float) -> str:
        return f"{amount:.2g} {self.unit}"


@dataclass(frozen=True)
class Shares:
    """Shares of the trace.

    Attributes:
        what: regions or channels.
        values: by name.
    """

    what: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class AlsoAsked:
    """Columns of a row that answer further questions.

    Attributes:
        tolerances: of nuisances.
        worst: KL in nats of the worst combination of nuisances by the quadratic law; None where it
            is not known.
        shares: of regions and of channels, where there are any.
        columns: names of the columns that these come from.
    """

    tolerances: tuple[Tolerance, ...] = ()
    worst: float | None = None
    shares: tuple[Shares, ...] = ()
    columns: frozenset[str] = field(default_factory=frozenset)


def also_asked(row: Mapping[str, Any], run: Mapping[str, Any]) -> AlsoAsked:
    """What a row of the table says beside the components.

    Args:
        row: as texts.
        run: content of ``run.json``, which says what the nuisances of the columns are; empty where
            there is none.

    Returns:
        The answers.

    >>> found = also_asked({"share_liver": "0.4", "share_other": "0.6", "trace": "2"}, {})
    >>> found.shares[0].values
    {'liver': 0.4, 'other': 0.6}
    """
    shares, known = [], set()
    for start, what in _SHARES:
        names = [name for name in row if name.startswith(start)]
        values = {name.removeprefix(start): _number(row[name]) for name in names}
        there = {name: value for name, value in values.items() if value is not None}
        known |= set(names)
        shares += [Shares(what, there)] if there else []
    tolerances = []
    for level, name, given in _ranges(run):
        columns = [f"nuisance_{name}{end}" for end in ("", "_law", "_flip")]
        if columns[0] not in row:
            continue
        known |= set(columns)
        amount, law, flip = (_number(row.get(column)) for column in columns)
        unit, reach, one_sided = str(given["unit"]), float(given["reach"]), bool(given["one_sided"])
        tolerances.append(Tolerance(name, unit, reach, one_sided, level, amount, law, flip))
    worst = _number(row.get("nuisance_worst")) if tolerances else None
    known |= {"nuisance_worst"} if tolerances else set()
    return AlsoAsked(tuple(tolerances), worst, tuple(shares), frozenset(known))


def _ranges(run: Mapping[str, Any]) -> list[tuple[float, str, Mapping[str, Any]]]:
    """Level, column and range of each nuisance that a run asked for."""
    try:
        asked = run["identity"]["settings"]["questions"]
        found = [
            (float(each["level"]), str(name), given)
            for each in asked
            if isinstance(each, Mapping) and "ranges" in each
            for name, given in each["ranges"].items()
        ]
        complete = [part for part in found if {"reach", "unit", "one_sided"} <= set(part[2])]
        return [part for part in complete if float(part[2]["reach"]) > 0]
    except (KeyError, TypeError, ValueError, AttributeError):  # of another run, or edited
        return []


def _number(text: Any) -> float | None:
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
