"""Images as a poor acquisition would have given them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from monai.transforms import (
    Affine,
    GaussianSmooth,
    GibbsNoise,
    RandBiasField,
    RandGaussianNoise,
    Randomizable,
    RandomizableTransform,
    Transform,
)
from torch import Tensor


class RandRigidMotion(RandomizableTransform):
    """One rigid movement during an MR acquisition.

    The lines of k-space are taken in rising order along the first spatial axis (the
    phase-encoding one). Soon after the centre the object turns and shifts, in a random direction
    and by a fixed amount, and the rest of the lines come from the moved object. The result is
    the real part, because images after normalisation have either sign.

    Args:
        angle: of the turn, in radians; in 3D that much about each axis.
        shift: length of the shift, as a share of the extent along each axis.
        prob: probability to move at all.

    Source of the model: R. Shaw, C. Sudre, S. Ourselin and M. J. Cardoso, "MRI k-space motion
    artefact augmentation: model robustness and task-specific uncertainty", MIDL 2019.
    """

    def __init__(self, angle: float, shift: float, prob: float = 1.0) -> None:
        RandomizableTransform.__init__(self, prob)
        self.angle = angle
        self.shift = shift

    def __call__(self, image: Tensor) -> Tensor:
        """Move once.

        Args:
            image: (C, *S) with two or three spatial axes.

        Returns:
            (C, *S).
        """
        self.randomize(None)
        if not self._do_transform:
            return image
        size = np.array(image.shape[1:])
        turn = self.angle * self.R.choice([-1, 1], 1 if len(size) == 2 else 3)
        direction = self.R.normal(size=len(size))
        shift = self.shift * size * direction / np.linalg.norm(direction)
        move = Affine(turn.tolist(), None, shift.tolist(), padding_mode="border", image_only=True)
        centre = image.shape[1] // 2
        first_moved = centre + 1 + int(self.R.uniform(0, 0.25) * (image.shape[1] - centre - 1))
        # Whole lines are exchanged, so that the transform along the other axes cancels.
        before, after = _lines(image), _lines(move(image).as_subclass(Tensor))
        after[:, :first_moved] = before[:, :first_moved]
        return torch.fft.ifft(torch.fft.ifftshift(after, dim=1), dim=1).real


def _lines(image: Tensor) -> Tensor:
    """Spectrum along the first spatial axis, frequency 0 in the middle."""
    return torch.fft.fftshift(torch.fft.fft(image, dim=1), dim=1)


CORRUPTIONS: Mapping[str, Callable[[float, float], Transform]] = {
    "noise": lambda strength, deviation: RandGaussianNoise(
        prob=1, std=0.5 * strength * deviation, sample_std=False
    ),
    "blur": lambda strength, deviation: GaussianSmooth(sigma=strength),
    "bias_field": lambda strength, deviation: RandBiasField(
        prob=1, coeff_range=(-0.3 * strength, 0.3 * strength)
    ),
    "motion": lambda strength, deviation: RandRigidMotion(
        angle=math.radians(5) * strength, shift=0.05 * strength
    ),
    "gibbs": lambda strength, deviation: GibbsNoise(alpha=1 - 0.4**strength),
}
"""MONAI's transform of one image, from the strength and the image's standard deviation."""


def corrupt(images: Tensor, name: str, strength: float = 1.0, seed: int = 0) -> Tensor:
    """Corrupt every image of a batch.

    Strength 1 is clearly visible for images of any unit: ``noise`` of half the image's
    own standard deviation; ``blur`` with a Gaussian of standard deviation 1 voxel; ``bias_field``,
    a factor exp of a random cubic with Legendre coefficients up to 0.3; ``motion``, a turn of 5
    degrees and a shift of 5 % of the extent while k-space is read; ``gibbs``, k-space cut off at
    0.4 of its corner. All grow with the strength, from no change at 0.

    Args:
        images: (B, C, *S) with two or three spatial axes, not constant.
        name: a key of ``CORRUPTIONS``.
        strength: positive.
        seed: not negative. Image i depends on the seed and i only, not on its batch; the global
            random state is not touched. ``blur`` and ``gibbs`` are not random.

    Returns:
        (B, C, *S) in float32, on the images' device.

    Raises:
        ValueError: unknown name, impossible strength or seed, images of other dimensions, with
            values that are not finite, or constant.

    >>> images = torch.rand(2, 1, 16, 12, generator=torch.Generator().manual_seed(0))
    >>> noisy = corrupt(images, "noise")
    >>> print(f"{(noisy - images).std() / images.std():.1f}")
    0.5
    """
    if name not in CORRUPTIONS:
        raise ValueError(
            f"expected a corruption in {list(CORRUPTIONS)}, got {name!r}; add others to CORRUPTIONS"
        )
    if not (strength > 0 and math.isfinite(strength)) or seed < 0:
        raise ValueError(
            f"expected strength > 0 and seed >= 0, got strength={strength} and seed={seed}; use "
            "the images themselves for strength 0"
        )
    # On the CPU, so that every device gets the same images.
    plain = images.detach().as_subclass(Tensor).to("cpu", torch.float32)
    deviations = _deviations(plain)
    corrupted = []
    for index, (image, deviation) in enumerate(zip(plain, deviations, strict=True)):
        transform = CORRUPTIONS[name](strength, deviation)
        if isinstance(transform, Randomizable):
            bits = np.random.MT19937(np.random.SeedSequence([seed, index]))
            transform.set_random_state(state=np.random.RandomState(bits))
        corrupted.append(transform(image).as_subclass(Tensor))
    return torch.stack(corrupted).to(images.device, torch.float32)


def _deviations(images: Tensor) -> list[float]:
    if images.ndim not in (4, 5) or not images.numel():
        raise ValueError(
            f"expected images (B, C, H, W) or (B, C, D, H, W), got {tuple(images.shape)}; MONAI's "
            "artefacts are of two or three dimensions"
        )
    if not bool(torch.isfinite(images).all()):
        raise ValueError(
            "expected finite images, got NaN or infinite values; fix the preprocessing"
        )
    values = images.double().flatten(1)
    constant = values.amin(dim=1) == values.amax(dim=1)
    if bool(constant.any()):
        raise ValueError(
            f"expected images that are not constant, got {int(constant.sum())} of "
            f"{len(images)} that are; an empty image cannot be corrupted, leave it out"
        )
    return values.std(dim=1, correction=0).tolist()
