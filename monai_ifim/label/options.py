"""What a client may ask of an inference: an allowlist, nothing of it evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException

from monai_ifim.core.checks import check_rank
from monai_ifim.messages import as_number
from monai_ifim.outputs import VOLUMES

EXTENSIONS = (".nii.gz", ".nii", ".nrrd")
SPACES = ("pooled", "own")
# Chosen by the URL and the server, never by the parameters.
PROTECTED = (
    "model",
    "image",
    "images",
    "label",
    "label_tag",
    "save_label",
    "session",
    "session_id",
)
# What MONAI Label's own clients send along; ignored, because components are always float.
_BY_CLIENTS = (
    *("client_id", "label_info", "logging", "result_compress", "result_dtype", "timeout"),
    "restore_label_idx",  # OHIF; values of a label map are always those of the model's labels
)


@dataclass(frozen=True)
class Options:
    """One request's choices.

    Attributes:
        component: which volume to send back: high, orth or sensitivity.
        rank: at most so many eigenpairs.
        energy: or the fewest that reach this share of the trace.
        device: where to compute; the app's own when empty.
        extension: of a label map; components are always ``.nii.gz``.
        store_in_pacs: store the result as DICOM objects beside the series.
        space: in which directions components are taken: pooled, those of the app's setting
            ``space.BUNDLE`` where there is one, or own, each image's.
    """

    component: str = "high"
    rank: int | None = None
    energy: float | None = None
    device: str = ""
    extension: str = ".nii.gz"
    store_in_pacs: bool = False
    space: str = SPACES[0]


def parse_options(parameters: Mapping[str, Any]) -> Options:
    """Read the parameters of a request.

    Args:
        parameters: as they came, from JSON. Numbers may be text; an empty text means the default.

    Returns:
        The options.

    Raises:
        HTTPException: 400, an unknown or protected name, or an impossible value.

    >>> parse_options({"component": "orth", "rank": "2"})
    Options(component='orth', rank=2, energy=None, device='', extension='.nii.gz', \
store_in_pacs=False, space='pooled')
    >>> parse_options({"image": "another"})
    Traceback (most recent call last):
        ...
    starlette.exceptions.HTTPException: 400: expected parameters from component, device, energy, \
rank, result_extension, space, store_in_pacs, got 'image'; model and image belong in the URL, and \
every component is saved under its own tag
    """
    known = ("component", "device", "energy", "rank", "result_extension", "space", "store_in_pacs")
    for name in parameters:
        if name in PROTECTED:
            raise refusal(
                f"expected parameters from {', '.join(known)}, got {short(name)}; model and image "
                "belong in the URL, and every component is saved under its own tag"
            )
        if name not in known and name not in _BY_CLIENTS:
            raise refusal(
                f"expected parameters from {', '.join(known)}, got {short(name)}; leave it out"
            )
    try:
        energy = as_number("energy", parameters.get("energy"))
        number = as_number("rank", parameters.get("rank"))
        rank = None if number is None else int(number)
        if rank != number:
            raise ValueError(f"expected rank as a whole number, got {number}; or leave it out")
        check_rank(rank, energy)
    except ValueError as error:
        raise refusal(str(error)) from error
    return Options(
        component=_one_of("component", parameters.get("component"), VOLUMES),
        rank=rank,
        energy=energy,
        device=_text(parameters.get("device")),
        extension=_one_of("result_extension", parameters.get("result_extension"), EXTENSIONS),
        store_in_pacs=_flag("store_in_pacs", parameters.get("store_in_pacs")),
        space=_one_of("space", parameters.get("space"), SPACES),
    )


def refusal(sentence: str, status: int = 400) -> HTTPException:
    """An answer that says what was expected, what came, and how to fix it.

    Args:
        sentence: for the client.
        status: of HTTP.

    Returns:
        The exception to raise.
    """
    return HTTPException(status, sentence)


def short(value: Any) -> str:
    """A client's value for a message: quoted, escaped, at most 60 characters.

    Args:
        value: anything.

    Returns:
        Text.
    """
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _text(value: Any) -> str:
    value = value[0] if isinstance(value, list) and value else value
    if value in (None, []):
        return ""
    if not isinstance(value, str):
        raise refusal(f"expected text, got {short(value)}; see the model's config in /info/")
    return value


def _flag(name: str, value: Any) -> bool:
    text = str(value).lower() if isinstance(value, bool | str) else value
    if text in (None, "", "false"):
        return False
    if text != "true":
        raise refusal(f"expected {name} as true or false, got {short(value)}; or leave it out")
    return True


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> str:
    text = _text(value)
    if text and text not in allowed:
        raise refusal(
            f"expected {name} from {', '.join(allowed)} in the request, got {short(value)}; "
            "choose one"
        )
    return text or allowed[0]
