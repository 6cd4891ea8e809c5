"""Volumes to scroll through in a notebook, with ipyniivue."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from monai_ifim.core import Eigenspace
from monai_ifim.report.notebook import case_of, check_images

if TYPE_CHECKING:
    from ipyniivue import NiiVue

    from monai_ifim.report.cases import Case

_OPTIONS = {
    "back_color": (0.0, 0.0, 0.0, 1.0),
    "is_radiological_convention": True,
    "is_nearest_interpolation": True,  # voxels as they are
    "sagittal_nose_left": True,
}


def view(
    images: Tensor,
    space: Eigenspace,
    *,
    index: int = 0,
    overlay: Literal["sensitivity", "high"] = "sensitivity",
    opacity: float = 0.6,
    channel: int | None = None,
    picture: bool = False,
    height: int = 500,
) -> NiiVue:
    """Scroll through an image with its sensitivity or component on top, in a notebook.

    The component shows what this classifier is locally sensitive to, not anatomy, a cause or a
    diagnosis. Needs ``pip install 'monai_ifim[notebook]'``.

    Args:
        images: (B, C, H, W) or (B, C, X, Y, Z), those that ``space`` belongs to. A MetaTensor's
            affine says how they lie; without one no sides of a patient are named.
        space: their eigenspace, of ``eigenspace(network, images)``.
        index: of the image in the batch, from 0; nothing is computed for the others.
        overlay: what is seen on the image.
        opacity: of the overlay, 0 to 1.
        channel: to show, from 0, with its own range of colours; the most sensitive one by default.
        picture: whether the images are pictures, columns first as MONAI reads PNG and JPEG, which
            have no sides of a patient; three channels are red, green and blue then, unless
            ``channel`` names one.
        height: of the widget, in pixels, 1 or more.

    Returns:
        A widget of ipyniivue with the volumes ``image``, ``high``, ``orth`` and ``sensitivity``
        (the square root of diag F), in this order; ``high`` and ``sensitivity`` are divided by
        their largest absolute value. ``widget.volumes[i].opacity`` shows or hides one.

    Raises:
        ModuleNotFoundError: ipyniivue is not installed.
        TypeError: images that are no tensor, or an index that is no whole number.
        ValueError: images that do not fit the eigenspace, or one without a result; no such
            image, overlay or channel; an opacity or height out of range.

    >>> import monai_ifim as mi
    >>> widget = mi.view(images, mi.eigenspace(network, images))  # doctest: +SKIP
    """
    check_images(images, space)
    index = _checked(index, len(images), overlay, opacity, height)
    niivue = _ipyniivue()
    from monai_ifim.report.cases.choice import chosen_channel
    from monai_ifim.report.html.volumes import BrowserVolumes

    case = case_of(images, space, index, picture=picture)
    if case.numbers.failed or not np.isfinite(case.image).all():
        raise ValueError(
            f"expected an image with a result, got image {index}: {case.numbers.status}; "
            "choose another index"
        )
    if case.coloured and channel is not None:  # one of the colours, in grey
        case, channel = _channel_alone(case, chosen_channel(case, channel)), 0
    volumes = BrowserVolumes(case, budget=0)
    settings = volumes.settings(channel)
    frame = settings["channel"]
    looks = _looks(settings["limits"][frame], overlay, opacity)
    options = _OPTIONS | {"is_orientation_text_visible": settings["oriented"]}
    if settings["plane"] is not None:
        plane = ("SAGITTAL", "CORONAL", "AXIAL")[settings["plane"]]
        options["slice_type"] = niivue.SliceType[plane]
    widget = niivue.NiiVue(height=height, **options)
    widget.load_volumes(
        [
            {"name": f"{name}.nii.gz", "data": volumes.file(name), "frame_4d": frame, **looks[name]}
            for name in volumes.names()
        ]
    )
    return widget


def _checked(index: int, count: int, overlay: str, opacity: float, height: int) -> int:
    """The index as a whole number, and the rest within its range."""
    try:
        index = operator.index(index)
    except TypeError:
        raise TypeError(
            f"expected an index as a whole number, got {index!r}; say index=0"
        ) from None
    if not 0 <= index < count:
        raise ValueError(f"expected an index from 0 to {count - 1}, got {index}")
    if overlay not in ("sensitivity", "high"):
        raise ValueError(f"expected overlay 'sensitivity' or 'high', got {overlay!r}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"expected an opacity from 0 to 1, got {opacity}")
    if not height >= 1:
        raise ValueError(f"expected a height of at least 1 pixel, got {height}; 500 is the default")
    return index


def _channel_alone(case: Case, channel: int) -> Case:
    kept = slice(channel, channel + 1)
    sensitivity = None if case.sensitivity is None else case.sensitivity[kept]
    return replace(case, high=case.high[kept], orth=case.orth[kept], sensitivity=sensitivity)


def _looks(limits: dict[str, Any], overlay: str, opacity: float) -> dict[str, dict[str, Any]]:
    """Colours as in the pages of a report: below a tenth of the top the image is seen."""
    low, high = limits["window"]
    base = {"cal_min": low, "cal_max": high, "colormap": "gray", "colorbar_visible": False}
    found = {"image": {**base, "opacity": 1.0}, "orth": {**base, "opacity": 0.0}}
    for name in ("high", "sensitivity"):
        top = limits["top"][name]
        found[name] = {
            "cal_min": 0.1 * top,
            "cal_max": top,
            "colormap": "inferno",
            "opacity": opacity if name == overlay else 0.0,
        }
        if name == "high":
            found[name] |= {"colormap": "warm", "colormap_negative": "winter"}
            found[name] |= {"cal_min_neg": -top, "cal_max_neg": -0.1 * top}
    return found


def _ipyniivue() -> Any:
    try:
        import ipyniivue
    except ImportError as error:
        raise ModuleNotFoundError(
            f"expected ipyniivue, which shows volumes in a notebook, got none ({error}); "
            "pip install 'monai_ifim[notebook]'",
            name="ipyniivue",
        ) from error
    return ipyniivue
