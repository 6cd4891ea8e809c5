"""Bars of a case: probabilities of the classes, and eigenvalues as shares of the trace."""

from __future__ import annotations

import math

import matplotlib.font_manager as fonts
from matplotlib.axes import Axes
from matplotlib.ft2font import FT2Font

from monai_ifim.messages import printable
from monai_ifim.report.cases.case import Numbers

MOST = 8
_BLUE, _GREY = "#1f6fb4", "#b8c4d0"


def drawable(text: str, most: int = 0) -> str:
    r"""A text that the figure's font can draw, whatever a file or class is called.

    Args:
        text: any.
        most: cut out of the middle so that this many characters are left; 0 for no limit.

    Returns:
        The same with an escape for what is not printable or not in the font.

    >>> drawable("Jörg\n脳.png"), drawable("abcdefghij", 7)
    ('Jörg\\n\\u8133.png', 'abc…hij')
    """
    known = _font().get_charmap()
    text = "".join(
        c if ord(c) in known else c.encode("unicode_escape").decode("ascii")
        for c in printable(text)
    )
    if most and len(text) > most:
        half = (most - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    return text


def _font() -> FT2Font:
    return fonts.get_font(fonts.findfont(fonts.FontProperties()))


def draw_probabilities(axis: Axes, numbers: Numbers) -> None:
    """Draw a bar for each class, the likeliest ones where there are many.

    Args:
        axis: to draw on.
        numbers: of the case; without ``probabilities`` the predicted class is drawn alone.
    """
    known = dict(numbers.probabilities) or {numbers.predicted: numbers.probability}
    names = list(known)
    if len(names) > MOST:
        names = sorted(names, key=lambda name: -known[name])[:MOST]
    values = [known[name] for name in names]
    colours = [_BLUE if name in numbers.predicted.split("+") else _GREY for name in names]
    axis.set_title("probability", fontsize=8)
    texts = [f"{value:.3f}" for value in values]
    _bars(axis, [drawable(name, 22) for name in names], values, texts, colours)
    if len(known) > len(names):
        axis.set_xlabel(f"{len(names)} of {len(known)} classes", fontsize=7)


def draw_eigenvalues(axis: Axes, numbers: Numbers) -> None:
    """Draw eigenvalues as shares of the trace, which also says something where there is one.

    Args:
        axis: to draw on.
        numbers: of the case.
    """
    values, trace = list(numbers.eigenvalues), numbers.trace
    axis.set_title(f"eigenvalues, trace {trace:.3g}", fontsize=8)
    if not (math.isfinite(trace) and trace > 0 and values):
        axis.axis("off")
        axis.text(0.5, 0.5, "F = 0: no direction\nchanges the prediction", ha="center", va="center",
                  fontsize=8, transform=axis.transAxes)  # fmt: skip
        return
    shown = values[:MOST]
    labels = [f"λ{_subscript(i)}" for i in range(1, len(shown) + 1)]
    texts = [f"{value:.3g} ({100 * value / trace:.3g} %)" for value in shown]
    heights, colours = [value / trace for value in shown], [_BLUE] * len(shown)
    rest = max(0.0, 1 - sum(heights))
    if rest > 5e-4:
        labels.append("others")
        heights.append(rest)
        texts.append(f"{rest * trace:.3g} ({100 * rest:.3g} %)")
        colours.append(_GREY)
    _bars(axis, labels, heights, texts, colours)


def _bars(
    axis: Axes, labels: list[str], values: list[float], texts: list[str], colours: list[str]
) -> None:
    places = range(len(labels))
    axis.barh(places, [v if math.isfinite(v) else 0 for v in values], 0.7, color=colours)
    axis.set_yticks(places, labels, fontsize=7, parse_math=False)
    axis.invert_yaxis()
    axis.set_ylim(max(len(labels), 3) - 0.4, -0.6)  # one bar is not blown up
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=7)
    for place, value, text in zip(places, values, texts, strict=True):
        inside = value > 0.5
        axis.text(value - 0.02 if inside else value + 0.02, place, text, va="center", fontsize=7,
                  ha="right" if inside else "left", color="white" if inside else "black",
                  parse_math=False)  # fmt: skip
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _subscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
