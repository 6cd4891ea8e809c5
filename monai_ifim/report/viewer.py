"""Volumes to scroll through in a notebook, with ipyniivue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from monai_ifim.core import Eigenspace
from monai_ifim.report.notebook import cases_of

if TYPE_CHECKING:
    from ipyniivue import NiiVue

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
            affine says how they lie; without one there are no sides of a patient.
        space: their eigenspace, of ``eigenspace(network, images)``.
        index: of the image in the batch.
        overlay: what is seen on the image.
        opacity: of the overlay, 0 to 1.
        channel: to show, from 0; the most sensitive one by default.
        picture: whether the images are pictures, columns first as MONAI reads PNG and JPEG, which
            have no sides of a patient; three channels are red, green and blue then.
        height: of the widget, in pixels.

    Returns:
        A widget of ipyniivue with the volumes ``image``, ``high``, ``orth`` and ``sensitivity``
        (the square root of diag F), the second and last divided by their largest absolute value;
        ``widget.volumes[i].opacity`` shows or hides one.

    Raises:
        ModuleNotFoundError: ipyniivue is not installed.
        TypeError: the images are no tensor.
        ValueError: images that do not fit the eigenspace, or one without a result; no such image,
            overlay or channel; an opacity or a height that cannot be.

    >>> import monai_ifim as mi
    >>> widget = mi.view(images, mi.eigenspace(network, images))  # doctest: +SKIP
    """
    if overlay not in ("sensitivity", "high"):
        raise ValueError(f"expected overlay 'sensitivity' or 'high', got {overlay!r}")
    if not isinstance(images, Tensor):
        raise TypeError(
            f"expected a tensor (B, C, *S), got {type(images).__name__}; torch.as_tensor makes one"
        )
    if not len(images):
        raise ValueError("expected at least one image, got an empty batch")
    if not 0 <= index < len(images):
        raise ValueError(f"expected an index from 0 to {len(images) - 1}, got {index}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"expected an opacity from 0 to 1, got {opacity}")
    if height < 1:
        raise ValueError(f"expected a height of 1 pixel or more, got {height}")
    niivue = _ipyniivue()
    from monai_ifim.report.html.volumes import BrowserVolumes

    case = cases_of(images, space, picture=picture)[index]
    if case.numbers.failed or not np.isfinite(case.image).all():
        raise ValueError(
            f"expected an image with a result, got image {index}: {case.numbers.status}; "
            "choose another index"
        )
    volumes = BrowserVolumes(case, budget=0)
    settings = volumes.settings(channel)
    shown = settings["channel"]
    looks = _looks(settings, overlay, opacity)
    options = _OPTIONS | {"is_orientation_text_visible": case.placed}
    if settings["plane"] is not None:
        plane = ("SAGITTAL", "CORONAL", "AXIAL")[settings["plane"]]
        options["slice_type"] = niivue.SliceType[plane]
    widget = niivue.NiiVue(height=height, **options)
    frame = 0 if case.coloured else shown
    widget.load_volumes(
        [
            {"name": f"{name}.nii.gz", "data": volumes.file(name), "frame_4d": frame, **looks[name]}
            for name in volumes.names()
        ]
    )
    return widget


def _looks(settings: dict[str, Any], overlay: str, opacity: float) -> dict[str, dict[str, Any]]:
    """Colours as in the pages of a report: below a tenth of the top the image is seen."""
    low, high = settings["window"]
    base = {"cal_min": low, "cal_max": high, "colormap": "gray", "colorbar_visible": False}
    found = {"image": {**base, "opacity": 1.0}, "orth": {**base, "opacity": 0.0}}
    for name in ("high", "sensitivity"):
        top = settings["top"][name]
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
