"""Directions of change that the experiments compare, all of norm 1."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from monai_ifim.core import Eigenspace
from monai_ifim.experiments.maps.ranks import top_mask


def change_directions(
    space: Eigenspace, images: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Directions inside the eigenspace, outside of it, and anywhere.

    Args:
        space: eigenspace of the images; every image needs at least one eigenpair.
        images: (B, C, *S).
        generator: of the random ones, on the CPU.

    Returns:
        Unit vectors (B, C, *S) by name: ``leading`` and ``leading_reversed`` (± the first
        eigenvector), ``random_in_eigenspace``, ``random_in_complement``, ``random``,
        ``band_limited`` (random, with the amplitudes of the image's own spectrum), and
        ``attenuate_high`` and ``attenuate_orth``, which take away part of a component.

    Raises:
        ValueError: an image without an eigenpair, or with a component that is zero.

    >>> from monai_ifim.core import eigenspace
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 3))
    >>> images = torch.randn(2, 1, 8)
    >>> space = eigenspace(network, images)
    >>> directions = change_directions(space, images, torch.Generator())
    >>> outside = directions["random_in_complement"]
    >>> torch.allclose(space.quadratic_form(outside), torch.zeros(2).double(), atol=1e-6)
    True
    """
    if bool((space.rank == 0).any()):
        raise ValueError(
            "expected an eigenpair for every image, got none for "
            f"{int((space.rank == 0).sum())} of {len(images)}; leave out images that the "
            "prediction does not react to"
        )
    vectors = space.eigenvectors
    kept = torch.arange(vectors.shape[1], device=vectors.device) < space.rank[:, None]
    weights = _random((len(images), vectors.shape[1]), images, generator) * kept
    inside = torch.einsum("br,br...->b...", weights, vectors)
    high, orth = space.split(images)
    directions = {
        "leading": vectors[:, 0],
        "leading_reversed": -vectors[:, 0],
        "random_in_eigenspace": inside,
        "random_in_complement": space.split(_random(images.shape, images, generator))[1],
        "random": _random(images.shape, images, generator),
        "band_limited": _with_spectrum_of(images, generator),
        "attenuate_high": -high,
        "attenuate_orth": -orth,
    }
    return {name: normalised(name, value) for name, value in directions.items()}


def all_directions(
    space: Eigenspace,
    images: Tensor,
    attributions: Mapping[str, Tensor],
    top_share: float,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """The directions of ``change_directions``, and those that attributions choose.

    Args:
        space: of the images.
        images: (B, C, *S).
        attributions: maps (B, C, *S) by method; none is constant.
        top_share: share of the pixels that an attribution selects.
        generator: of the random ones.

    Returns:
        Unit vectors (B, C, *S) by name. Along ``METHOD_mask`` the selected pixels move towards the
        mean of the image, as an occlusion does.
    """
    directions = change_directions(space, images, generator)
    axes = tuple(range(1, images.ndim))
    towards_mean = images.mean(dim=axes, keepdim=True) - images
    for method, attribution in attributions.items():
        change = towards_mean * top_mask(attribution, top_share)
        directions[f"{method}_mask"] = normalised(f"{method}_mask", change)
    return directions


def normalised(name: str, directions: Tensor) -> Tensor:
    """Directions of norm 1.

    Args:
        name: for the error.
        directions: (B, C, *S).

    Returns:
        (B, C, *S).

    Raises:
        ValueError: a direction that is zero.
    """
    norms = directions.flatten(1).norm(dim=1)
    if bool((norms == 0).any()):
        raise ValueError(
            f"expected a direction {name} that is not zero, got zero for "
            f"{int((norms == 0).sum())} images; leave those images out"
        )
    return directions / norms.reshape(-1, *[1] * (directions.ndim - 1))


def _random(shape: tuple[int, ...], images: Tensor, generator: torch.Generator) -> Tensor:
    # Drawn on the CPU, so that every device compares the same directions.
    return torch.randn(shape, generator=generator, dtype=images.dtype).to(images.device)


def _with_spectrum_of(images: Tensor, generator: torch.Generator) -> Tensor:
    """White noise whose amplitude at every frequency is that of the image, mean left out."""
    axes = tuple(range(2, images.ndim))
    centred = images - images.mean(dim=axes, keepdim=True)
    if not bool(centred.flatten(1).any(dim=1).all()):  # a constant image has no spectrum
        centred = centred + torch.ones_like(centred)
    noise = torch.fft.rfftn(_random(images.shape, images, generator), dim=axes)
    shaped = noise * torch.fft.rfftn(centred, dim=axes).abs()
    return torch.fft.irfftn(shaped, s=images.shape[2:], dim=axes)
