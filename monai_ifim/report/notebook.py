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
from monai_ifim.core.one_by_one import one_image
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
            affine says how they are turned; without one no sides of a patient are named, and sizes
            are in pixels.
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
        TypeError: images that are no tensor.
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
    check_images(images, space)
    cases = [
        case_of(images, space, i, class_names, channel_names, picture)
        for i in range(min(most, len(images)))
    ]
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


def check_images(images: Tensor, space: Eigenspace) -> None:
    """Refuse what cannot be the images of an eigenspace, or cannot be drawn.

    Args:
        images: those given.
        space: the eigenspace given.

    Raises:
        TypeError: no tensor.
        ValueError: images of another shape than the eigenspace's, or neither 2D nor 3D.
    """
    if not isinstance(images, Tensor):
        raise TypeError(
            f"expected images as a tensor, got {type(images).__name__}; give what eigenspace was "
            "given"
        )
    shape = (space.gradients.shape[0], *space.gradients.shape[2:])
    if images.ndim not in (4, 5) or tuple(images.shape) != shape:
        raise ValueError(
            f"expected the {shape[0]} images of the eigenspace, {shape[1:]} each, 2D or 3D with a "
            f"channel axis, got the shape {tuple(images.shape)}; give what eigenspace was given"
        )


def case_of(
    images: Tensor,
    space: Eigenspace,
    index: int,
    class_names: Sequence[str] = (),
    channel_names: Sequence[str] = (),
    picture: bool = False,
) -> Case:
    """What there is to show of one image of a batch; the others' components are not computed.

    Args:
        images: (B, C, H, W) or (B, C, X, Y, Z), those of ``check_images``.
        space: their eigenspace.
        index: of the image.
        class_names: in the order of the logits.
        channel_names: in the order of the channels.
        picture: whether the images are pictures, columns first.

    Returns:
        The case.
    """
    from monai_ifim.report.cases import Case, Numbers

    alone = images.detach().as_subclass(Tensor)[index : index + 1]
    outputs = batch_outputs(one_image(space, index), alone, ("high", "orth", "sensitivity"))
    named = with_class_names(outputs.numbers[0], class_names)
    high, orth, sensitivity = (
        _volume(outputs.values[f"ifim_{name}"]) for name in ("high", "orth", "sensitivity")
    )
    return Case(
        name=f"image {index}",
        high=high,
        orth=orth,
        affine=_affine(images, index),
        sensitivity=sensitivity,
        numbers=Numbers(
            predicted=named["predicted_class"],
            probability=named.get("probability", math.nan),
            probabilities=named["probabilities"],
            trace=named["trace"],
            eigenvalues=tuple(named["eigenvalues"]),
            trace_share=named["trace_share"],
            energy_share=named["high_energy_share"],
            status=outputs.statuses[0],
        ),
        picture=picture,
        channel_names=tuple(channel_names),
    )


def _volume(values: Tensor) -> np.ndarray:
    """(C, X, Y, Z) on the CPU, of a batch of one."""
    plain = values[0].cpu()
    plain = plain.double() if plain.dtype == torch.float64 else plain.float()
    return plain.reshape(*plain.shape, *[1] * (4 - plain.ndim)).numpy()


def _affine(images: Tensor, index: int) -> np.ndarray | None:
    if not isinstance(images, MetaTensor):
        return None
    affine = torch.as_tensor(images.affine).as_subclass(Tensor).cpu().double().numpy()
    return affine[index] if affine.ndim == 3 else affine
