"""Pictures of a batch, for a notebook or a script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_ifim.core import Eigenspace
from monai_ifim.outputs import batch_outputs, with_class_names

if TYPE_CHECKING:  # matplotlib is loaded by the first picture
    from matplotlib.figure import Figure

    from monai_ifim.report.cases import Case


def show(
    images: Tensor,
    space: Eigenspace,
    *,
    class_names: Sequence[str] = (),
    channel_names: Sequence[str] = (),
    slices: Literal["sensitivity", "middle"] = "sensitivity",
    channel: int | None = None,
    picture: bool = False,
    most: int = 4,
) -> Figure:
    """Draw images, their components, sensitivity, probabilities and eigenvalues.

    The components show what this classifier is locally sensitive to, not anatomy, a cause or a
    diagnosis. Needs ``pip install 'monai_ifim[report]'``.

    Args:
        images: (B, C, H, W) or (B, C, X, Y, Z), those that ``space`` belongs to. A MetaTensor's
            affine says how they are turned; without one there are no sides of a patient, and
            lengths are voxels.
        space: their eigenspace, of ``eigenspace(network, images)``.
        class_names: in the order of the logits; numbers by default.
        channel_names: in the order of the channels.
        slices: those with most sensitivity, or the middle ones.
        channel: to show, from 0; the most sensitive one by default.
        picture: whether the images are pictures, columns first as MONAI reads PNG and JPEG, which
            have no sides of a patient; three channels are red, green and blue then.
        most: images at the most.

    Returns:
        A figure; a notebook shows it, ``savefig`` writes it.

    Raises:
        ValueError: images of another shape than the eigenspace's, or neither 2D nor 3D.
        ModuleNotFoundError: matplotlib is not installed.

    >>> import monai_ifim as mi
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    >>> images = torch.rand(2, 1, 8, 8)
    >>> mi.show(images, mi.eigenspace(network, images)).savefig("cases.png")  # doctest: +SKIP
    """
    check_matplotlib()
    from monai_ifim.report.cases import Style, cases_figure

    if most < 1:
        raise ValueError(f"expected at least one image to draw, got {most}")
    cases = cases_of(images, space, class_names, channel_names, picture)[:most]
    title = f"{len(cases)} of {len(images)} images." if len(images) > len(cases) else ""
    return cases_figure(cases, Style(slices=slices, channel=channel), title)


def check_matplotlib() -> None:
    """Refuse to begin a picture that cannot be drawn.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(
            f"expected matplotlib, which draws pictures, got none ({error}); "
            "pip install 'monai_ifim[report]'",
            name="matplotlib",
        ) from error


def cases_of(
    images: Tensor,
    space: Eigenspace,
    class_names: Sequence[str] = (),
    channel_names: Sequence[str] = (),
    picture: bool = False,
) -> list[Case]:
    """What there is to show of a batch.

    Args:
        images: (B, C, H, W) or (B, C, X, Y, Z).
        space: their eigenspace.
        class_names: in the order of the logits.
        channel_names: in the order of the channels.
        picture: whether the images are pictures, columns first.

    Returns:
        One case an image.

    Raises:
        ValueError: images of another shape than the eigenspace's, or neither 2D nor 3D.
    """
    from monai_ifim.report.cases import Case, Numbers

    if images.ndim not in (4, 5) or len(images) != len(space.trace):
        raise ValueError(
            f"expected the {len(space.trace)} images of the eigenspace, 2D or 3D with a channel "
            f"axis, got the shape {tuple(images.shape)}; give what eigenspace was given"
        )
    outputs = batch_outputs(space, images, ("high", "orth", "sensitivity"))
    volumes = {name: _volumes(value) for name, value in outputs.values.items() if value.ndim > 3}
    found = []
    for i, (given, status) in enumerate(zip(outputs.numbers, outputs.statuses, strict=True)):
        named = with_class_names(given, class_names)
        numbers = Numbers(
            predicted=named["predicted_class"],
            probability=named.get("probability", math.nan),
            probabilities=named["probabilities"],
            trace=named["trace"],
            eigenvalues=tuple(named["eigenvalues"]),
            trace_share=named["trace_share"],
            energy_share=named["high_energy_share"],
            status=status,
        )
        found.append(
            Case(
                name=f"image {i}",
                high=volumes["ifim_high"][i],
                orth=volumes["ifim_orth"][i],
                affine=_affine(images, i),
                sensitivity=volumes["ifim_sensitivity"][i],
                numbers=numbers,
                picture=picture,
                channel_names=tuple(channel_names),
            )
        )
    return found


def _volumes(values: Tensor) -> np.ndarray:
    """(B, C, X, Y, Z) on the CPU."""
    plain = values.detach().as_subclass(Tensor).cpu()
    plain = plain.double() if plain.dtype == torch.float64 else plain.float()
    return plain.reshape(*plain.shape, *[1] * (5 - plain.ndim)).numpy()


def _affine(images: Tensor, index: int) -> np.ndarray | None:
    if not isinstance(images, MetaTensor):
        return None
    affine = torch.as_tensor(images.affine).as_subclass(Tensor).cpu().double().numpy()
    return affine[index] if affine.ndim == 3 else affine
