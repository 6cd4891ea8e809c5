"""Reasons and numbers in words, and numbers out of words."""

from __future__ import annotations

import math
import os
import re

RESEARCH_ONLY = (
    "Research use only: local sensitivity of this classifier at this image, not anatomy, not a "
    "cause, not a diagnosis."
)
_FAILED = "failed:"
# Exceptions that come without a text, or with one that misleads.
_TEXTS = {
    "MemoryError": "not enough memory",
    "KeyboardInterrupt": "stopped by the user",
    "TimeoutError": "it took too long",
    "EOFError": "the file ends too early",
    # MONAI tries pydicom on every file that no other installed reader takes.
    "InvalidDicomError": (
        "expected DICOM, or a format that an installed reader takes, got neither; install the "
        "format's reader (pip install itk: TIFF, MetaImage; pynrrd: NRRD), or convert it to NIfTI"
    ),
}
# Texts that say nothing to whoever chose the images, by how they begin.
_UNCLEAR = {
    "Unable to find out axis ": (  # of nibabel's orientations, by MONAI's Orientation
        "expected a volume, got a single sagittal or coronal slice, of whose two axes Orientation "
        "cannot find the directions; give this network volumes, and leave single slices out"
    ),
}
# The first traceback in a text, down to its exception; MONAI's loaders and savers list tracebacks.
_TRACEBACK = re.compile(
    r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*([A-Za-z_][\w.]*)(?:: ?(.*))?", re.M
)


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
    r"""Why something failed, in one line that any log and any table takes.

    The first sentence that says what was expected; without one the first cause, also where MONAI
    has it as the text of a traceback, or where the cause was being handled when an exception
    without a text of its own came.

    Args:
        error: as caught; MONAI wraps the cause in one exception per transform.

    Returns:
        At most 300 characters, printable.

    >>> reason(ValueError("expected one channel,   got 4\n(more)"))
    'ValueError: expected one channel, got 4 (more)'
    >>> reason(MemoryError())
    'MemoryError: not enough memory'
    """
    chain = _chain(error)
    sentences = (each for each in chain if str(each).lstrip("'\"").startswith("expected "))
    cause = next(sentences, chain[-1])
    name, text = type(cause).__name__, " ".join(str(cause).split())
    told = _TRACEBACK.search(str(cause))
    if name in _TEXTS and (not text or name == "InvalidDicomError"):
        text = _TEXTS[name]
    elif told is not None:
        name, text = told[1].rpartition(".")[2], " ".join(told[2].split())
        text = _TEXTS.get(name, text) if name == "InvalidDicomError" or not text else text
    text = next((said for start, said in _UNCLEAR.items() if text.startswith(start)), text)
    text = printable(f"{name}: {text or _in_words(cause, name)}")
    return text if len(text) <= 300 else text[:297] + "..."


def printable(text: str) -> str:
    r"""A text in one line that every UTF-8 stream takes, for logs.

    Args:
        text: for example a file name, which may hold bytes that are no UTF-8, or line breaks.

    Returns:
        The same with all that is not printable as an escape.

    >>> printable("J\udcf6rg\n.png")
    'J\\udcf6rg\\n.png'
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def _chain(error: BaseException) -> list[BaseException]:
    """An exception and its causes, the first cause last."""
    chain = [error]
    while True:
        last = chain[-1]
        cause = last.__cause__
        if cause is None and not str(last) and not last.__suppress_context__:
            cause = last.__context__
        if cause is None or any(cause is each for each in chain):
            return chain
        chain.append(cause)


def _in_words(error: BaseException, name: str) -> str:
    """What is known of an exception that says nothing: its type, and where it was raised."""
    words = " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]*|[a-z]+|\d+", name)).lower()
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    if step is None:
        return words
    return f"{words} in {os.path.basename(step.tb_frame.f_code.co_filename)}, line {step.tb_lineno}"


def own_sentence(error: BaseException | None) -> str:
    """The sentence of this package ("expected ...") in an error, or in what caused it.

    Args:
        error: as caught; MONAI wraps the errors of what a configuration makes.

    Returns:
        The sentence, empty where there is none.

    >>> own_sentence(ValueError("expected a folder, got none; make one"))
    'expected a folder, got none; make one'
    """
    while error is not None:
        if str(error).startswith("expected "):
            return str(error)
        error = error.__cause__ or error.__context__
    return ""


def check_on_error(on_error: str) -> str:
    """Refuse another word for what happens to an image for which something raises.

    Args:
        on_error: ``"row"`` or ``"raise"``.

    Returns:
        The same.

    Raises:
        ValueError: another word.
    """
    if on_error not in ("row", "raise"):
        raise ValueError(f"expected on_error 'row' or 'raise', got {on_error!r}; choose one")
    return on_error


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
