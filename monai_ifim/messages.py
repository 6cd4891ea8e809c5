"""Reasons and numbers in words, and numbers out of words."""

from __future__ import annotations

import math

RESEARCH_ONLY = (
    "Research use only: local sensitivity of this classifier at this image, not anatomy, not a "
    "cause, not a diagnosis."
)
_FAILED = "failed:"


def failed(why: str) -> str:
    """Status of an image without a result.

    Args:
        why: one sentence.

    Returns:
        The status, which ``is_failure`` recognises.

    >>> failed("the logits hold NaN or infinity")
    'failed: the logits hold NaN or infinity'
    """
    return f"{_FAILED} {why}"


def is_failure(status: str) -> bool:
    """Whether a status says that an image has no result.

    Args:
        status: of a row of the table.

    Returns:
        Yes or no.
    """
    return status.startswith(_FAILED)


def reason(error: BaseException) -> str:
    r"""The first cause of an exception in one line.

    Args:
        error: as caught; MONAI wraps the cause in one exception per transform.

    Returns:
        At most 300 characters.

    >>> reason(ValueError("expected one channel,   got 4\n(more)"))
    'ValueError: expected one channel, got 4 (more)'
    """
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else text[:297] + "..."


def as_number(name: str, value: object) -> float | None:
    """Read a number that may have come as text; nothing is evaluated.

    Args:
        name: for the message.
        value: a number, text that is one, or None or an empty text for no number.

    Returns:
        The number.

    Raises:
        ValueError: anything else, also NaN and infinity.

    >>> as_number("energy", "0.95")
    0.95
    """
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        text = ascii(value)
        text = text if len(text) <= 60 else text[:57] + "..."
        raise ValueError(f"expected {name} as a number, got {text}; or leave it out")
    return number
