"""The panels of a case: image, sensitivity over the image, and the two components."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize

from monai_ifim.report.cases.case import Case
from monai_ifim.report.cases.choice import Slices, chosen_channel, chosen_slices, weights
from monai_ifim.report.cases.planes import Plane, Turned

WINDOW = (0.5, 99.5)
_OUTLINE = [effects.withStroke(linewidth=2, foreground="black")]
# Dark zero: on a grey image the eye is led to what differs from 0, not to a white sheet.
SIGNED = LinearSegmentedColormap.from_list(
    "ifim_signed", ["#9fe8ff", "#2b83ff", "#10204a", "#000000", "#4a1010", "#ff4a2b", "#ffe09f"]
)


@dataclass(frozen=True)
class Style:
    """How cases are drawn.

    Attributes:
        slices: ``sensitivity`` for the slices with most of it, or ``middle``.
        channel: the one to show in all panels, from 0; by default the most sensitive one.
        percentile: of the absolute values, which is the end of the component's colour map and of
            the sensitivity's.
        opacity: of the sensitivity where it is largest, 0 to 1.
    """

    slices: Slices = "sensitivity"
    channel: int | None = None
    percentile: float = 99.5
    opacity: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            raise ValueError(f"expected a percentile over 0 and up to 100, got {self.percentile}")
        if not 0 <= self.opacity <= 1:
            raise ValueError(f"expected an opacity from 0 to 1, got {self.opacity}")


class Panels:
    """What the panels of a case show: one channel, turned, with the limits of its colours.

    Args:
        case: with finite volumes.
        style: how it is drawn.

    Attributes:
        titles: of the panels.
        planes: the planes of each panel.
        at: index of the slice of each axis.
        channel: what is shown of the channels, in words; empty for the only one.
    """

    titles = (
        "image = high + orthogonal",
        "sensitivity √ diag F over the image",
        "high-sensitivity component",
        "orthogonal component",
    )

    def __init__(self, case: Case, style: Style) -> None:
        turn = Turned(case.affine, case.high.shape[1:], case.picture)
        self.planes, self.style, self.coloured = turn.planes, style, case.coloured
        self.unit = turn.unit
        if case.coloured and style.channel is None:
            kept, self.channel = slice(None), "red, green and blue"
        else:
            number = chosen_channel(case, style.channel)
            kept, self.channel = slice(number, number + 1), case.channel_name(number)
            self.coloured = False
        self._image, self._high, self._orth = (
            turn(volume)[kept] for volume in (case.image, case.high, case.orth)
        )
        self._sensitivity = None
        if case.sensitivity is not None:
            over_channels = np.clip(turn(case.sensitivity)[kept], 0, None).sum(axis=0)
            self._sensitivity = np.sqrt(over_channels)
        self.at = chosen_slices(turn(weights(case))[kept].sum(axis=0), style.slices)
        self._gray = Normalize(*_apart(np.percentile(self._image, WINDOW)))
        limit = _upper(np.abs(self._high), style.percentile)
        self._signed = Normalize(-limit, limit)
        top = 1.0 if self._sensitivity is None else _upper(self._sensitivity, style.percentile)
        self._hot = Normalize(0, top)

    def draw(self, axis: Axes, number: int, plane: Plane) -> None:
        """Draw one panel of one plane.

        Args:
            axis: to draw on.
            number: of the panel, 0 to 3.
            plane: one of ``planes``.
        """
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_facecolor("black")
        place: dict[str, Any] = {
            "extent": (0, plane.size[0], plane.size[1], 0),
            "aspect": "equal",
            "interpolation": "nearest",
        }
        volume = (self._image, self._image, self._high, self._orth)[number]
        picture = plane.cut(volume, self.at[plane.normal])
        norm = self._signed if number == 2 else self._gray
        if self.coloured:
            axis.imshow(np.clip(np.moveaxis(norm(picture).data, 0, -1), 0, 1), **place)
        else:
            colours = SIGNED if number == 2 else "gray"
            axis.imshow(picture[0], cmap=colours, norm=norm, **place)
        if number == 1 and self._sensitivity is not None:
            hot = plane.cut(self._sensitivity, self.at[plane.normal])
            share = np.clip(self._hot(hot).data, 0, 1)
            axis.imshow(
                hot, cmap="inferno", norm=self._hot, alpha=self.style.opacity * share, **place
            )
        if number == 0:
            scale_bar(axis, plane, self.unit)
        edge_letters(axis, plane)

    def bar(self, number: int) -> tuple[ScalarMappable, str] | None:
        """Colour bar of a panel: its colours and what they mean; None where there is nothing.

        Args:
            number: of the panel, 0 to 3.

        Returns:
            Colours and label.
        """
        end = f"{self.style.percentile:g}th percentile"
        if number == 1:
            if self._sensitivity is None:
                return None
            return ScalarMappable(self._hot, "inferno"), f"1 / input unit, up to the {end}"
        if number == 2:
            colours = "gray" if self.coloured else SIGNED
            zero = "; grey is 0" if self.coloured else ""
            return ScalarMappable(self._signed, colours), f"input units, ± {end}{zero}"
        return ScalarMappable(self._gray, "gray"), "input units"

    def note(self, number: int, energy_share: float) -> str:
        """What is said below a panel's title; empty for nothing.

        Args:
            number: of the panel, 0 to 3.
            energy_share: of the high-sensitivity component.

        Returns:
            A few words, on one line or two.
        """
        if number == 1 and self._sensitivity is None:
            return "not written; add 'sensitivity' to\n--volumes, mi.run(volumes=…) or ifim_volumes"
        if number == 2 and math.isfinite(energy_share):
            return f"{100 * energy_share:.2g} % of the image's energy"
        if number == 3:
            return "window of the image"
        return ""

    def cut_at(self, plane: Plane) -> str:
        """Which slice is shown.

        Args:
            plane: one of ``planes``.

        Returns:
            Its name and number on two lines, which are short beside a flat plane; of a single
            slice its name alone.
        """
        if plane.slices == 1:
            return plane.name
        return f"{plane.name}\nslice {self.at[plane.normal] + 1} of {plane.slices}"


def _upper(values: np.ndarray, percentile: float) -> float:
    """End of a colour map: the percentile, or the maximum where that is 0, or 1 where all is 0."""
    return float(np.percentile(values, percentile)) or float(values.max()) or 1.0


def _apart(window: np.ndarray) -> tuple[float, float]:
    low, high = float(window[0]), float(window[1])
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def edge_letters(axis: Axes, plane: Plane) -> None:
    """Name the patient's sides at the edges of a picture.

    Args:
        axis: that shows the plane.
        plane: with its letters.
    """
    places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02))
    aligned = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for (x, y), (ha, va), text in zip(places, aligned, plane.letters, strict=True):
        axis.text(
            x,
            y,
            text,
            ha=ha,
            va=va,
            color="#ffd84a",
            fontsize=8,
            fontweight="bold",
            path_effects=_OUTLINE,
            transform=axis.transAxes,
        )


def bar_length(width: float) -> float:
    """A round length of about a quarter of a width.

    Args:
        width: over 0.

    Returns:
        1, 2 or 5 times a power of ten.

    >>> bar_length(240), bar_length(64), bar_length(1.1)
    (50.0, 10.0, 0.2)
    """
    power = 10.0 ** math.floor(math.log10(width / 4))
    return max(step * power for step in (1, 2, 5) if step * power <= width / 4)


def scale_bar(axis: Axes, plane: Plane, unit: str) -> None:
    """Draw a bar of a round length, and fit the axis to the plane.

    Args:
        axis: that shows the plane.
        plane: with its size.
        unit: of the size.
    """
    width, height = plane.size
    length = bar_length(width)
    x, y = 0.04 * width, 0.95 * height
    outline = [effects.withStroke(linewidth=4, foreground="black")]
    axis.plot([x, x + length], [y, y], color="white", linewidth=2, path_effects=outline,
              solid_capstyle="butt")  # fmt: skip
    axis.text(x, y - 0.02 * height, f"{length:g} {unit}", color="white", fontsize=7, va="bottom",
              path_effects=_OUTLINE)  # fmt: skip
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)
