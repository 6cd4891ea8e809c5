"""What is asked of ids, tags, info and labels before a datastore, of either kind, keeps them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np

from monai_ifim.label.infer import LEVELS
from monai_ifim.label.options import refusal, short
from monai_ifim.messages import reason

FINAL = "final"
OVERLAY = "_ifim_overlay"  # end of the tag of a label map that an inference has saved
_NO_ANNOTATION = (
    "components, sensitivity maps and overlays show what a classifier is sensitive to and are no "
    "annotation; save it under another tag"
)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def check_tag(tag: str) -> None:
    """Refuse a label tag that could leave its folder.

    Args:
        tag: name of a folder below ``labels``.

    Raises:
        HTTPException: 400.

    >>> check_tag("../final")
    Traceback (most recent call last):
        ...
    starlette.exceptions.HTTPException: 400: expected a tag of letters, digits, '_', '-' and '.', \
got '../final'; choose another
    """
    if not _TAG.fullmatch(tag):
        raise refusal(
            f"expected a tag of letters, digits, '_', '-' and '.', got {short(tag)}; choose another"
        )


def check_new_id(image_id: str) -> None:
    """Refuse an id for a new image that is not a plain file name.

    Args:
        image_id: as the client sent it.

    Raises:
        HTTPException: 400.
    """
    plain = image_id.isprintable() and not set(image_id) & set('/\\:*?"<>|')
    if not plain or image_id.startswith(".") or not 0 < len(image_id.encode()) <= 200:
        raise refusal(
            f"expected an image id that is a plain file name, got {short(image_id)}; use letters, "
            "digits, '_' and '-'"
        )


def check_info(info: Any) -> None:
    """Refuse info that the datastore's file could not hold.

    MONAI Label writes it with Python's JSON and reads it with a strict one: a NaN or half a
    surrogate pair, and the server would not start again.

    Args:
        info: as the client sent it.

    Raises:
        HTTPException: 400.

    >>> check_info({"a": float("nan")})
    Traceback (most recent call last):
        ...
    starlette.exceptions.HTTPException: 400: expected a JSON object without NaN, infinity and \
broken text, got {'a': nan}; leave it out
    """
    try:
        if not isinstance(info, dict):
            raise ValueError
        json.dumps(info, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise refusal(
            "expected a JSON object without NaN, infinity and broken text, got "
            f"{short(info)}; leave it out"
        ) from error


def check_annotation(label: Path, info: Mapping[str, Any], overlays: Iterable[Path]) -> None:
    """Refuse a result of this app as somebody's final label.

    Args:
        label: file to be stored as final.
        info: sent with it; OHIF and 3D Slicer name the segments there, in ``label_info``.
        overlays: label maps that inferences of this app have saved for the image.

    Raises:
        HTTPException: 422, the label is a component, a sensitivity map or an overlay; 415, it is
            no image.
    """
    segments = info.get("label_info")
    names = {
        str(segment.get("name"))
        for segment in (segments if isinstance(segments, list) else [])
        if isinstance(segment, dict)
    }
    ours = sorted(names & set(LEVELS))
    if ours:
        raise refusal(f"expected a drawn label, got {short(ours[0])}: {_NO_ANNOTATION}", 422)
    values = _values(label)
    if values is None:
        return
    if values.dtype.kind == "f" and not np.array_equal(values, np.rint(values)):
        raise refusal(
            f"expected a drawn label of whole numbers, got fractions: {_NO_ANNOTATION}", 422
        )
    for overlay in overlays:
        saved = _values(overlay)
        if saved is not None and _same_regions(values, saved):
            raise refusal(
                f"expected a drawn label, got what this server saved as {overlay.parent.name}: "
                f"{_NO_ANNOTATION}",
                422,
            )


def _values(path: Path) -> np.ndarray | None:
    """Of a NIfTI or NRRD file; None of other formats."""
    try:
        if path.name.endswith((".nii", ".nii.gz")):
            return np.asanyarray(nib.load(path).dataobj).squeeze()
        if path.suffix == ".nrrd":
            return np.asarray(nrrd.read(str(path))[0]).squeeze()
    except Exception as error:  # nibabel's, gzip's, pynrrd's, the system's
        raise refusal(f"expected a label map, got {path.name}: {reason(error)}", 415) from error
    return None


def _same_regions(label: np.ndarray, overlay: np.ndarray) -> bool:
    """Whether two label maps differ in the numbers of their segments at most, as OHIF's do."""
    if label.shape != overlay.shape or not label.any() or label.min() < 0 or label.max() > 255:
        return False
    pairs = label.astype(np.int64) * 256 + overlay
    found = np.flatnonzero(np.bincount(pairs.ravel()))
    return len(found) == len(set(found // 256)) == len(set(found % 256))
