"""Nuisances of an acquisition, for ``nuisance_sensitivity``.

Geometry, intensity, resolution and noise. Each one transforms images (B, C, *S) by amounts (B,), 0
for none, and says how far is plausible (``reach``). Geometry is resampled by MONAI with cubic
splines in single precision, because a linear interpolation has kinks, with a border that goes on;
that needs SciPy. Each image of a batch has an amount of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from monai.transforms import AdjustContrast, Affine, create_rotate
from torch import Tensor

from monai_ifim.core import Eigenspace
from monai_ifim.core.smoothing import along_axes

__all__ = [
    "BiasField",
    "Blur",
    "Gain",
    "Gamma",
    "Magnification",
    "Noise",
    "Offset",
    "Rotation",
    "Shift",
]  # fmt: skip


def _resampled(images: Tensor, parameters: list[dict[str, Any]]) -> Tensor:
    """Each image by an affine transformation with cubic splines."""
    result = []
    for image, each in zip(images, parameters, strict=True):
        affine = Affine(
            mode=3, padding_mode="nearest", image_only=True, dtype=torch.float64, **each
        )
        plain = image.double().cpu()
        mean = plain.mean()  # stays out: MONAI returns single precision, too little beside it
        moved = torch.as_tensor(affine(plain - mean)).as_subclass(Tensor)
        result.append(moved.double() + mean)
    return torch.stack(result).to(images)


def _check_axis(nuisance: Rotation | Shift | BiasField, images: Tensor, known: range) -> None:
    if type(nuisance.axis) is not int or nuisance.axis not in known:
        these = f"{known[0]} to {known[-1]}" if len(known) > 1 else f"{known[0]} alone"
        raise ValueError(
            f"expected an axis from {these} of images {tuple(images.shape)}, got "
            f"{nuisance.axis!r} for {nuisance.name}; count spatial axes from 0"
        )


def _check_sizes(nuisance: Rotation | Shift, sizes: Sequence[Any]) -> None:
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int | float) or not 0 < size < math.inf:
            raise ValueError(
                f"expected sizes of voxels in mm, > 0, as the spacing of {nuisance.name}, got "
                f"{nuisance.spacing!r}; leave it out for that of the images"
            )


def _broad(amounts: Tensor, images: Tensor) -> Tensor:
    return amounts.to(images).view(-1, *[1] * (images.ndim - 1))


@dataclass(frozen=True)
class Rotation:
    """The object is turned, by the right-hand rule: about axis 2, and in 2D, from axis 0 to axis 1.

    Attributes:
        reach: largest plausible angle in degrees.
        axis: of a 3D image, around which it turns; a 2D image turns about axis 2.
        spacing: size of a voxel along each axis in mm, one tuple for each image, without which
            voxels are taken for cubes; hosts fill it in.
    """

    reach: float = 15.0
    axis: int = 2
    step: float = 0.5
    unit: str = "degrees"
    one_sided: bool = False
    spacing: tuple[tuple[float, ...], ...] | None = None

    @property
    def name(self) -> str:
        """For tables."""
        return "rotation" if self.axis == 2 else f"rotation about axis {self.axis}"

    def with_spacing(self, spacing: Tensor) -> Rotation:
        """The same for images with voxels of these sizes.

        Args:
            spacing: (B, dims) in mm.

        Returns:
            A copy; ``spacing`` that was given stays.
        """
        if self.spacing is not None:
            return self
        return replace(self, spacing=tuple(map(tuple, spacing.tolist())))

    def __post_init__(self) -> None:
        for sizes in self.spacing or ():
            _check_sizes(self, sizes if isinstance(sizes, Sequence) else [None])

    def check(self, images: Tensor) -> None:
        """Refuse what these images (B, C, *S) do not have, for example an axis.

        Raises:
            ValueError: there is no such axis; a 2D image is turned about axis 2 alone.
        """
        dims = images.ndim - 2
        _check_axis(self, images, range(2, 3) if dims == 2 else range(dims))

    def __call__(self, images: Tensor, amounts: Tensor) -> Tensor:
        """Images (B, C, *S), turned by amounts (B,)."""
        self.check(images)
        dims = images.ndim - 2
        sizes = self.spacing or ((1.0,) * dims,) * len(images)
        pairs = zip(amounts.tolist(), sizes, strict=True)
        return _resampled(images, [{"affine": self._matrix(*pair)} for pair in pairs])

    def _matrix(self, degrees: float, sizes: Sequence[float]) -> Tensor:
        """In voxels, homogeneous: to mm, turned, and back."""
        dims, angle = len(sizes), -math.radians(degrees)  # MONAI's matrix leads back to the input
        angles: Any = angle if dims == 2 else [angle * (axis == self.axis) for axis in range(3)]
        scale = torch.diag(torch.tensor([*sizes, 1.0], dtype=torch.float64))
        turn = torch.as_tensor(create_rotate(dims, angles), dtype=torch.float64)
        return torch.linalg.inv(scale) @ turn @ scale


@dataclass(frozen=True)
class Shift:
    """The object is moved along one axis, to larger indices by positive amounts.

    Attributes:
        reach: largest plausible distance in mm.
        axis: spatial axis.
        spacing: size of a voxel along it in mm, also one for each image; hosts fill it in where
            images have a spacing. Without one mm are voxels.
    """

    reach: float = 5.0
    axis: int = 0
    spacing: float | tuple[float, ...] | None = None
    step: float = 0.1
    unit: str = "mm"
    one_sided: bool = False

    @property
    def name(self) -> str:
        """For tables."""
        return f"shift along axis {self.axis}"

    def with_spacing(self, spacing: Tensor) -> Shift:
        """The same for images with voxels of these sizes.

        Args:
            spacing: (B, dims) in mm.

        Returns:
            A copy; ``spacing`` that was given stays.
        """
        if self.spacing is not None or self.axis not in range(spacing.shape[1]):
            return self  # the call refuses that axis
        return replace(self, spacing=tuple(spacing[:, self.axis].tolist()))

    def __post_init__(self) -> None:
        if self.spacing is not None:
            _check_sizes(self, self.spacing if isinstance(self.spacing, tuple) else [self.spacing])

    def check(self, images: Tensor) -> None:
        """Refuse images (B, C, *S) without that axis.

        Raises:
            ValueError: there is none.
        """
        _check_axis(self, images, range(images.ndim - 2))

    def __call__(self, images: Tensor, amounts: Tensor) -> Tensor:
        """Images (B, C, *S), moved by amounts (B,)."""
        self.check(images)
        dims, spacing = images.ndim - 2, 1.0 if self.spacing is None else self.spacing
        sizes = spacing if isinstance(spacing, tuple) else (spacing,) * len(images)
        moves = [
            tuple(-amount / size * (axis == self.axis) for axis in range(dims))  # as in Rotation
            for amount, size in zip(amounts.tolist(), sizes, strict=True)
        ]
        return _resampled(images, [{"translate_params": move} for move in moves])


@dataclass(frozen=True)
class Magnification:
    """The object is larger or smaller.

    Attributes:
        reach: largest plausible change in per cent.
    """

    reach: float = 10.0
    step: float = 0.5
    unit: str = "%"
    one_sided: bool = False
    name: str = "scale"

    def __call__(self, images: Tensor, amounts: Tensor) -> Tensor:
        """Images (B, C, *S), scaled by amounts (B,)."""
        dims = images.ndim - 2
        scales = [1 / (1 + amount / 100) for amount in amounts.tolist()]
        return _resampled(images, [{"scale_params": (scale,) * dims} for scale in scales])


@dataclass(frozen=True)
class Gain:
    """All intensities are multiplied.

    Attributes:
        reach: largest plausible change in per cent.
    """

    reach: float = 20.0
    step: float = 0.1
    unit: str = "%"
    one_sided: bool = False
    name: str = "gain"

    def __call__(self, images: Tensor, amounts: Tensor) -> Tensor:
        """Images (B, C, *S), brighter by amounts (B,)."""
        return images * (1 + _broad(amounts, images) / 100)


@dataclass(frozen=True)
class Offset:
    """A constant is added.

    Attributes:
        reach: largest plausible constant in input units.
    """

    reach: float = 0.2
    step: float = 1e-3
    unit: str = "input units"
    one_sided: bool = False
    name: str = "offset"

    def __call__(self, images: Tensor, amounts: Tensor) -> Tensor:
        """Images (B, C, *S), raised by amounts (B,)."""
        return images + _broad(amounts, images)


@dataclass(frozen=True)
class Gamma:
    """The contrast is bent between the least and the largest intensity: γ = exp(amount).

    Attributes:
        reach: largest plausible logarithm of γ; .3 is γ from .74 to 1.35.
    """

    reach: float = 0.3
    step: float = 1e-2
    unit: str = "log gamma"
    one_sided: bool = False
    name: str = "gamma"

    def __call__(self, images: Tensor, amounts: Tensor) -> Tensor:
        """Images (B, C, *S), bent by amounts (B,)."""
        pairs = zip(images, amounts.tolist(), strict=True)
        bent = [AdjustContrast(math.exp(a))(image) if a else image for image, a in pairs]
        return torch.stack([torch.as_tensor(each) for each in bent]).to(images)


@dataclass(frozen=True)
class BiasField:
    """A multiplicative field, exp(amount · u) with u from -1 to 1 along one axis.

    Attributes:
        reach: largest plausible amount; .3 is 35 % more at one end, 26 % less at the other.
        axis: spatial axis.
    """

    reach: float = 0.3
    axis: int = 0
    step: float = 1e-3
    unit: str = "log intensity"
    one_sided: bool = False

    @property
    def name(self) -> str:
        """For tables."""
        return f"bias field along axis {self.axis}"

    def check(self, images: Tensor) -> None:
        """Refuse images (B, C, *S) without that axis.

        Raises:
            ValueError: there is none.
        """
        _check_axis(self, images, range(images.ndim - 2))

    def __call__(self, images: Tensor, amounts: Tensor) -> Tensor:
        """Images (B, C, *S), shaded by amounts (B,)."""
        self.check(images)
        size = images.shape[2 + self.axis]
        places = torch.linspace(-1, 1, size, dtype=images.dtype, device=images.device)
        field = places.view(-1, *[1] * (images.ndim - 3 - self.axis))
        return images * torch.exp(_broad(amounts, images) * field)


@dataclass(frozen=True)
class Blur:
    """A Gaussian blur; the amount is its variance, in which the effect is linear.

    The diffusion of the voxels, a blur of however small a width; a sampled Gaussian is none then.
    Source: T. Lindeberg, "Scale-space for discrete signals", IEEE PAMI 12 (1990).

    Attributes:
        reach: largest plausible variance in squared voxels; 1 is a full width of 2.4 voxels.
    """

    reach: float = 1.0
    step: float = 0.01
    unit: str = "squared voxels"
    one_sided: bool = True
    name: str = "blur"

    def __call__(self, images: Tensor, amounts: Tensor) -> Tensor:
        """Images (B, C, *S), blurred by amounts (B,)."""
        laplacians = [_laplacian(size) for size in images.shape[2:]]
        blurred = []
        for image, variance in zip(images, amounts.tolist(), strict=True):
            kernels = [torch.linalg.matrix_exp(0.5 * variance * each) for each in laplacians]
            blurred.append(along_axes(image, kernels))
        return torch.stack(blurred)


def _laplacian(size: int) -> Tensor:
    """Second differences along an axis whose ends are closed, (n, n) in float64."""
    steps = torch.ones(size - 1, dtype=torch.float64)
    matrix = torch.diag(steps, 1) + torch.diag(steps, -1)
    return matrix - torch.diag(matrix.sum(dim=1))


@dataclass(frozen=True)
class Noise:
    """White noise of that standard deviation, the same draw at every amount.

    In the quadratic law it is the mean over all draws, ½ amount² tr F: one draw says little.

    Attributes:
        reach: largest plausible standard deviation in input units.
        seed: of the draw.
    """

    reach: float = 0.1
    seed: int = 0
    step: float = 1e-3
    unit: str = "input units"
    one_sided: bool = True
    name: str = "noise"

    def __call__(self, images: Tensor, amounts: Tensor) -> Tensor:
        """Images (B, C, *S) with noise of amounts (B,)."""
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(images.shape[1:], generator=generator, dtype=torch.float64)
        return images + _broad(amounts, images) * noise.to(images)

    def form(self, space: Eigenspace) -> Tensor:
        """The trace of F, (B,)."""
        return space.trace
