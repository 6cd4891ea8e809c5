"""What is known of one image: volumes on the scan's grid, and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from monai_ifim.messages import is_failure
from monai_ifim.report.cases.asked import AlsoAsked


@dataclass(frozen=True)
class Numbers:
    """What the tables of a run say of one image.

    Attributes:
        predicted: the class predicted, by name where names are known.
        probability: of that class; NaN where there is no result.
        probabilities: of every class by name; empty where they are not known.
        trace: of F.
        eigenvalues: in falling order, those that were kept.
        trace_share: share of the trace that these hold.
        energy_share: of the image's energy, how much is in the high-sensitivity component.
        status: "ok", or what went wrong.
        label: the true class, empty where it is not known.
        flip_distance: L2 norm of the smallest change to another answer, to first order, in input
            units; NaN where there is none.
        flip_class: that answer, by name where names are known.
        asked: what else was asked of the image.
        others: further columns of the table, as they are written there.
    """

    predicted: str = ""
    probability: float = float("nan")
    probabilities: Mapping[str, float] = field(default_factory=dict)
    trace: float = float("nan")
    eigenvalues: Sequence[float] = ()
    trace_share: float = float("nan")
    energy_share: float = float("nan")
    status: str = "ok"
    label: str = ""
    flip_distance: float = float("nan")
    flip_class: str = ""
    asked: AlsoAsked = field(default_factory=AlsoAsked)
    others: Mapping[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether the image has no result."""
        return is_failure(self.status)

    @property
    def effective_rank(self) -> float:
        """(Σλ)² / Σλ²: how many directions share the sensitivity; NaN for F = 0.

        >>> [Numbers(eigenvalues=values).effective_rank for values in ((2.0, 2.0), (3.0, 0.0))]
        [2.0, 1.0]
        """
        largest = max(self.eigenvalues, default=0.0)
        if not largest > 0:
            return float("nan")
        shares = [value / largest for value in self.eigenvalues]  # squares of 1e-200 are 0
        return sum(shares) ** 2 / sum(share**2 for share in shares)


@dataclass(frozen=True)
class Case:
    """One image with its components.

    Attributes:
        name: of the image, as it is shown.
        high: the high-sensitivity component, (C, X, Y, Z); Z is 1 for a single slice.
        orth: the orthogonal component, the same shape.
        affine: (4, 4), indices to millimetres, axes to the right, front and head; None where the
            image's place in a patient is not known.
        sensitivity: diag F, the same shape; None where it was not written.
        numbers: what the tables say.
        picture: a PNG or JPEG, whose axes are columns and rows and not those of a patient; its
            ``affine`` is ignored.
        channel_names: in order; empty where they are not known.
        model: the network that made the components, as in the files' headers.
    """

    name: str
    high: np.ndarray
    orth: np.ndarray
    affine: np.ndarray | None
    sensitivity: np.ndarray | None = None
    numbers: Numbers = field(default_factory=Numbers)
    picture: bool = False
    channel_names: Sequence[str] = ()
    model: str = ""

    def __post_init__(self) -> None:
        for what, values in (("orth", self.orth), ("sensitivity", self.sensitivity)):
            if values is not None and values.shape != self.high.shape:
                raise ValueError(
                    f"expected {what} of {self.name!r} with the shape of the high component, "
                    f"{self.high.shape}, got {values.shape}; write both in one run"
                )
        if self.high.ndim != 4:
            raise ValueError(
                f"expected components (C, X, Y, Z), got the shape {self.high.shape}; a single "
                "slice has Z = 1"
            )

    @cached_property
    def image(self) -> np.ndarray:
        """What the network saw, on the scan's grid: the sum of the components."""
        return self.high + self.orth

    @property
    def coloured(self) -> bool:
        """Whether it is a picture in red, green and blue."""
        return self.picture and len(self.high) == 3

    def channel_name(self, channel: int) -> str:
        """What a channel is called.

        Args:
            channel: its number from 0.

        Returns:
            Its name, or its number from 1; empty for the only one.
        """
        count = len(self.high)
        number = f"channel {channel + 1} of {count}" if count > 1 else ""
        if len(self.channel_names) != count:
            return number
        return f"{self.channel_names[channel]} ({number})" if number else self.channel_names[0]
